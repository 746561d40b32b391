"""Chains misbehave: nothing is lost, nothing is anchored twice, and everybody can see why it waits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from app.anchoring import status
from app.main import Parts, assemble
from app.positions.model import State
from app.settings import Settings
from app.storage.database import Address, DatabaseRole, take_role
from tests import factories
from tests.anchoring.conftest import Anchors, Deployed, Settled, Whole, log_of
from tests.anchoring.proxy import Proxy, drop, swallow
from tests.anchoring.test_contract import Contract
from tests.conftest import Run, eventually

CHAINS = "{ anchorChains { failure balanceLow } }"
Happen = Callable[..., Awaitable[None]]


@pytest.fixture
def happen(parts: Parts) -> Happen:
    """Three more events."""
    places: list[factories.Place] = []

    async def more(times: int = 1) -> None:
        if not places:
            places.append(await factories.place(parts.services))
        for _ in range(times):
            await factories.position(parts.services, places[0].asset, state=State.RELEASED)

    return more


async def waits(anchors: Anchors, words: str) -> None:
    """Until an anchor says why it waits."""

    async def told() -> bool:
        return any(words in (row["failure"] or "") for row in await anchors())

    await eventually(told)


async def stands_still(run: Run, words: str) -> None:
    """Until the chain's state says why nothing is submitted."""

    async def told() -> bool:
        answered = await run(CHAINS)
        return any(words in (one["failure"] or "") for one in answered.data["anchorChains"])

    await eventually(told)


async def in_state(anchors: Anchors, state: str) -> None:
    async def there() -> bool:
        return any(row["state"] == state for row in await anchors())

    await eventually(there)


async def test_a_node_that_is_down_for_long_delays_anchors_and_nothing_else(
    happen: Happen, proxy: Proxy, settled: Settled, whole: Whole, run: Run, anchors: Anchors
) -> None:
    await happen()
    await settled()
    proxy.down()
    await happen(5)
    await stands_still(run, "the node does not answer")
    assert not [row for row in await anchors() if row["state"] not in ("FINAL", "PENDING")]
    proxy.well()
    await settled()
    assert await whole() >= 2
    answered = await run(CHAINS)
    assert answered.data["anchorChains"][0]["failure"] is None


@pytest.mark.parametrize("after", [True, False], ids=["after it was taken", "before it was taken"])
async def test_a_node_that_hangs_up_on_a_send_gets_the_same_transaction_again(
    after: bool, happen: Happen, proxy: Proxy, settled: Settled, whole: Whole, owner: asyncpg.Connection
) -> None:
    proxy.on("eth_sendRawTransaction", drop(after=after), times=2)
    await happen()
    await settled()
    assert await whole() == await owner.fetchval("SELECT count(*) FROM anchor_transactions")


async def test_a_dropped_transaction_is_sent_again(
    happen: Happen, proxy: Proxy, settled: Settled, whole: Whole, owner: asyncpg.Connection
) -> None:
    proxy.on("eth_sendRawTransaction", swallow, times=2)
    await happen()
    await settled()
    assert await whole() == await owner.fetchval("SELECT count(*) FROM anchor_transactions")


async def test_a_server_that_dies_between_signing_and_sending_sends_what_it_signed(
    address: Address, settings: Settings, proxy: Proxy, anchors: Anchors, settled: Settled, whole: Whole,
    owner: asyncpg.Connection,
) -> None:  # fmt: skip
    proxy.on("eth_sendRawTransaction", drop())
    first = assemble(settings, address)
    async with first.running():
        place = await factories.place(first.services)
        await factories.position(first.services, place.asset, state=State.RELEASED)
        await in_state(anchors, "SIGNED")
    signed = [row["tx_hash"] for row in await anchors("state = 'SIGNED'")]
    proxy.well()
    async with assemble(settings, address).running():
        await settled()
    assert (await anchors())[0]["tx_hash"] == signed[0]
    assert await whole() == await owner.fetchval("SELECT count(*) FROM anchor_transactions")


@pytest.mark.parametrize("deep", [False, True], ids=["of one block", "of final blocks"])
async def test_a_reorganisation_takes_an_anchor_and_it_comes_back(
    deep: bool, happen: Happen, deployed: Deployed, settled: Settled, whole: Whole, anchors: Anchors
) -> None:
    await happen()
    await settled()
    before = deployed.node.snapshot()
    await happen()
    await (settled() if deep else in_state(anchors, "MINED"))
    await asyncio.to_thread(deployed.node.revert, before)
    await asyncio.to_thread(deployed.node.mine, 2)

    async def noticed() -> bool:
        return any(row["reorgs"] for row in await anchors())

    await eventually(noticed)
    await settled()
    assert await whole() >= 2


async def test_a_nonce_that_another_sender_took_is_given_up(
    happen: Happen, proxy: Proxy, deployed: Deployed, settled: Settled, whole: Whole,
    owner: asyncpg.Connection,
) -> None:  # fmt: skip
    contract = Contract(deployed)
    proxy.on("eth_sendRawTransaction", swallow)
    await happen()

    async def swallowed() -> bool:
        return proxy.asked["eth_sendRawTransaction"] > 0

    await eventually(swallowed)
    await contract.call("set_pauser", deployed.account, True)
    proxy.well()
    await settled()
    await whole()
    assert await owner.fetchval("SELECT count(*) FROM anchor_transactions WHERE dead") == 1


async def test_a_nonce_that_hangs_on_somebody_elses_lost_transaction_is_given_up(
    happen: Happen,
    deployed: Deployed,
    settled: Settled,
    whole: Whole,
    anchors: Anchors,
    owner: asyncpg.Connection,
) -> None:
    await happen()
    await settled()
    contract = Contract(deployed)
    before = deployed.node.snapshot()
    await contract.call("set_pauser", deployed.account, True)
    await happen()
    await settled()
    # The other transaction is gone for good, and ours has the nonce behind it.
    await asyncio.to_thread(deployed.node.revert, before)
    await asyncio.to_thread(deployed.node.mine, 2)

    async def noticed() -> bool:
        return any(row["reorgs"] for row in await anchors())

    await eventually(noticed)
    await settled()
    await whole()
    assert await owner.fetchval("SELECT count(*) FROM anchor_transactions WHERE dead") >= 1


async def test_fees_above_the_most_are_waited_out(
    happen: Happen, proxy: Proxy, settled: Settled, whole: Whole, anchors: Anchors
) -> None:
    def dear(method: str, result: Any) -> Any:
        return result | {"baseFeePerGas": hex(10**15)} if method == "eth_getBlockByNumber" else result

    proxy.twist = dear
    await happen()
    await waits(anchors, "gas costs 1000000.0 gwei")
    assert not proxy.asked["eth_sendRawTransaction"]
    proxy.well()
    await settled()
    await whole()


async def test_a_node_on_another_chain_gets_nothing(
    happen: Happen, proxy: Proxy, settled: Settled, whole: Whole, run: Run, anchors: Anchors
) -> None:
    proxy.on("eth_chainId", lambda: {"result": "0x1"})
    await happen()
    await stands_still(run, "the node is on chain 1, and CHAIN_ID is")
    assert not await anchors()
    assert not proxy.asked["eth_sendRawTransaction"]
    proxy.well()
    await settled()
    await whole()


async def test_an_address_without_code_gets_nothing(
    happen: Happen, proxy: Proxy, settled: Settled, whole: Whole, run: Run, anchors: Anchors
) -> None:
    proxy.on("eth_getCode", lambda: {"result": "0x"})
    await happen()
    await stands_still(run, "there is no contract at")
    assert not await anchors()
    assert not proxy.asked["eth_sendRawTransaction"]
    proxy.well()
    await settled()
    await whole()


async def test_a_paused_contract_is_waited_for(
    happen: Happen, proxy: Proxy, deployed: Deployed, settled: Settled, whole: Whole, anchors: Anchors
) -> None:
    contract = Contract(deployed)
    await contract.call("pause")
    await happen()
    await waits(anchors, "paused")
    assert not proxy.asked["eth_sendRawTransaction"]
    await contract.call("unpause")
    await settled()
    await whole()


async def test_what_is_reverted_again_and_again_stands_still_until_an_operator_retries(
    happen: Happen, proxy: Proxy, deployed: Deployed, settled: Settled, whole: Whole, anchors: Anchors,
    owner: asyncpg.Connection,
) -> None:  # fmt: skip
    contract = Contract(deployed)
    await contract.call("pause")
    proxy.on("eth_estimateGas", lambda: {"result": hex(200_000)})
    await happen()
    await in_state(anchors, "FAILED")
    (failed,) = await anchors()
    assert (failed["reverts"], "was reverted in block" in failed["failure"]) == (3, True)
    sent = proxy.asked["eth_sendRawTransaction"]
    await asyncio.sleep(0.4)
    assert proxy.asked["eth_sendRawTransaction"] == sent, "it does not spend what it cannot win"
    proxy.well()
    await contract.call("unpause")
    async with owner.transaction():
        await take_role(owner, DatabaseRole.WRITER, ())
        assert await status.retry(owner) == 1
    await settled()
    await whole()


async def test_an_empty_account_alarms_and_goes_on_when_it_is_filled(
    happen: Happen, proxy: Proxy, deployed: Deployed, settled: Settled, whole: Whole, run: Run,
    anchors: Anchors,
) -> None:  # fmt: skip
    def empty(asked: str, _params: list[Any]) -> dict[str, Any] | None:
        if asked == "eth_getBalance":
            return {"result": "0x1"}
        if asked in ("eth_estimateGas", "eth_sendRawTransaction"):
            return {"error": {"code": -32000, "message": "insufficient funds for gas * price + value"}}
        return None

    proxy.fault = empty
    await happen()
    await waits(anchors, "insufficient funds")
    answered = await run(CHAINS)
    assert answered.data["anchorChains"] == [{"failure": None, "balanceLow": True}]
    proxy.well()
    await settled()
    await whole()
    assert (await run(CHAINS)).data["anchorChains"][0]["balanceLow"] is False


async def test_a_rewritten_ledger_is_not_anchored_again(
    happen: Happen, deployed: Deployed, settled: Settled, run: Run, owner: asyncpg.Connection, head: Any
) -> None:
    await happen()
    await settled()
    before = await head()
    await owner.execute("ALTER TABLE epochs DISABLE TRIGGER append_only")
    await owner.execute("ALTER TABLE ledger_events DISABLE TRIGGER append_only")
    await owner.execute(
        "UPDATE ledger_events SET hash = decode(repeat('ab', 32), 'hex') WHERE global_sequence = 2"
    )
    await owner.execute("RESET session_replication_role")
    await happen()
    await stands_still(run, "is not what was anchored")
    await asyncio.sleep(0.3)
    assert await head() == before


# What a restore leaves in the ledger.
BEGIN_EPOCH = """
INSERT INTO epochs (epoch, scope, starts_after, reason, raised_at, nonce)
VALUES (2, '*', $1, 'a test', now(), $2)
"""


async def test_a_restored_ledger_goes_on_as_another_log_and_says_so(
    happen: Happen, settled: Settled, anchors: Anchors, head: Any, deployed: Deployed,
    owner: asyncpg.Connection,
) -> None:  # fmt: skip
    await happen()
    await settled()
    kept = await head()
    # What the ledger lost: the chain has more of it than the database, since an epoch began.
    before = await log_of(owner)
    contract = Contract(deployed)
    lost = kept.size + 10
    await contract.call("anchor", before, kept.size, kept.root, lost, b"\x07" * 32)
    await owner.execute(BEGIN_EPOCH, kept.size, "0a1b2c3d")
    await happen()
    await settled()
    begun = [row for row in await anchors() if row["mode"] == "BEGIN"]
    assert [(row["since"], row["follows"], row["epoch"]) for row in begun] == [(kept.size, before, 2)]
    there = await head(2)
    assert (there.begun, there.size) == (
        True,
        await owner.fetchval("SELECT global_sequence FROM ledger_head"),
    )
    assert (await head(1)).size == lost


async def test_two_restores_of_one_backup_are_two_logs(
    happen: Happen, settled: Settled, anchors: Anchors, head: Any, deployed: Deployed,
    owner: asyncpg.Connection,
) -> None:  # fmt: skip
    await happen()
    await settled()
    kept, before = await head(), await log_of(owner)
    await Contract(deployed).call("anchor", before, kept.size, kept.root, kept.size + 10, b"\x07" * 32)
    logs = []
    for nonce in ("0a1b2c3d", "4e5f6071"):
        # The second restore knows nothing of the first.
        await owner.execute("ALTER TABLE epochs DISABLE TRIGGER append_only")
        await owner.execute("DELETE FROM epochs WHERE epoch = 2")
        await owner.execute("ALTER TABLE epochs ENABLE ALWAYS TRIGGER append_only")
        await owner.execute(BEGIN_EPOCH, kept.size, nonce)
        await happen()
        await settled()
        there = await head(2)
        assert (there.begun, there.size) == (
            True,
            await owner.fetchval("SELECT global_sequence FROM ledger_head"),
        )
        logs.append(await log_of(owner, 2))
    assert len(set(logs)) == 2
    begun = [(row["follows"], row["log_id"]) for row in await anchors() if row["mode"] == "BEGIN"]
    assert begun == [(before, name) for name in logs]
