"""Events of templates that go on a chain are recorded there one by one, and others are not."""

from typing import Any

import asyncpg
from web3 import Web3

from app.anchoring.contract import artifact
from app.assets import service as assets
from app.assets.model import TemplateDraft
from app.main import Parts
from app.positions.model import State
from tests import factories
from tests.anchoring.conftest import Deployed, Settled, Whole
from tests.anchoring.test_faults import Anchors
from tests.conftest import Run

RECORDS = """
query { ledgerEvents(first: 100) { edges { node {
  id positionId kind previousState newState hash record { number skipped anchorId state txHash }
} } } }
"""


async def place_on(parts: Parts, chain_id: int | None) -> factories.Place:
    """An asset of a template that names a chain, or none."""
    services = parts.services
    owner = await factories.institution(services)
    draft = TemplateDraft(
        f"on {chain_id}",
        "CONSTR_ESCROW",
        factories.Region.US,
        {"currency": "USD", "region": "US"},
        onchain_enabled=chain_id is not None,
        onchain_chain_id=chain_id,
    )
    async with factories.working(services, owner.id) as work:
        made = await assets.create_template(work, owner.id, draft, lifecycles=frozenset(services.lifecycles))
    asset = await factories.asset(services, made)
    return factories.Place(owner, made, asset, factories.principal(owner.id))


def recorded(deployed: Deployed) -> list[dict[str, Any]]:
    """What the contract told."""
    web3 = Web3(Web3.HTTPProvider(deployed.node.url))
    contract: Any = web3.eth.contract(
        address=Web3.to_checksum_address(deployed.contract), abi=artifact()["abi"]
    )
    return [dict(one["args"]) for one in contract.events.Recorded().get_logs(from_block=0)]


async def test_each_event_is_recorded_once_in_order_with_hashes_and_references_alone(
    parts: Parts, deployed: Deployed, settled: Settled, whole: Whole, run: Run
) -> None:
    here = await place_on(parts, deployed.node.chain_id)
    for _ in range(4):
        await factories.position(parts.services, here.asset, state=State.RELEASED)
    await settled()
    await whole()
    events = [edge["node"] for edge in (await run(RECORDS)).data["ledgerEvents"]["edges"]]
    assert [event["record"]["number"] for event in events] == list(range(1, 13))
    assert {event["record"]["state"] for event in events} == {"FINAL"}
    told = recorded(deployed)
    assert [one["number"] for one in told] == list(range(1, 13))
    states = [None, "CREATED", "FUNDED", "PARTIALLY_RELEASED", "RELEASED", "CANCELLED", "EXPIRED"]
    for event, one in zip(events, told, strict=True):
        assert one["event_id"].rstrip(b"\0").decode() == event["id"]
        assert one["position_id"].rstrip(b"\0").decode() == event["positionId"]
        assert one["hash"].hex() == event["hash"]
        assert (states[one["previous_state"]], states[one["new_state"]]) == (
            event["previousState"],
            event["newState"],
        )
        assert set(one) == {
            "log_id", "event_id", "position_id", "number", "kind", "previous_state", "new_state", "hash"
        }  # fmt: skip


async def test_a_template_of_another_chain_is_skipped_and_says_why(
    parts: Parts, deployed: Deployed, settled: Settled, run: Run
) -> None:
    there = await place_on(parts, 1)
    await factories.position(parts.services, there.asset)
    nowhere = await place_on(parts, None)
    await factories.position(parts.services, nowhere.asset)
    await settled()
    first, second = [edge["node"] for edge in (await run(RECORDS)).data["ledgerEvents"]["edges"]]
    assert first["record"] == {
        "number": None,
        "skipped": f"the template names chain 1, and this ledger is anchored on chain {deployed.node.chain_id}",
        "anchorId": None,
        "state": None,
        "txHash": None,
    }
    assert second["record"] is None
    assert not recorded(deployed)


async def test_other_institutions_are_not_told_what_is_recorded(
    parts: Parts, deployed: Deployed, settled: Settled, owner: asyncpg.Connection
) -> None:
    here = await place_on(parts, deployed.node.chain_id)
    await factories.position(parts.services, here.asset)
    await settled()
    other = await factories.place(parts.services, name="Somebody Else")
    async with parts.services.database.reading(other.institution.id) as reading:
        assert not (await reading.exec_driver_sql("SELECT * FROM anchor_records")).all()
    assert await owner.fetchval("SELECT count(*) FROM anchor_records") == 1


async def test_records_survive_a_reorganisation_each_once(
    parts: Parts, deployed: Deployed, settled: Settled, anchors: Anchors
) -> None:
    here = await place_on(parts, deployed.node.chain_id)
    before = deployed.node.snapshot()
    await factories.position(parts.services, here.asset, state=State.RELEASED)
    await settled()
    deployed.node.revert(before)
    deployed.node.mine(5)
    await factories.position(parts.services, here.asset)
    await settled()
    assert [one["number"] for one in recorded(deployed)] == [1, 2, 3, 4]
    assert any(row["reorgs"] for row in await anchors("mode = 'RECORD'"))
