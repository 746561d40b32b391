"""A ledger that moved to its mirror goes on anchoring where it was: nothing forks, nothing is sent twice or forgotten."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from app.context import Context, Request
from app.engine.masking import Schema
from app.main import Parts, assemble
from app.positions.model import State
from app.principal import root
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.anchoring.conftest import Deployed, anchored, log_of
from tests.anchoring.proxy import Proxy, swallow
from tests.anchoring.test_records import place_on, recorded
from tests.conftest import eventually
from tests.mirror.conftest import another, promote, there
from verify_proof import check

__all__ = ["another", "there"]

Where = tuple[Address, asyncpg.Connection]
MASTER = "0f" * 32
PROOF = "query ($id: ID!) { ledgerEvent(id: $id) { record { number state } proof { document } } }"


@pytest.fixture
def mirrored(settings: Settings, there: Address) -> Settings:
    changes = {"mirror_url": SecretStr(there.url), "personal_keys": SecretStr(MASTER), "lease_seconds": 2.0}
    return settings.model_copy(update=changes)


@asynccontextmanager
async def serving(settings: Settings, where: Address, **changes: object) -> AsyncIterator[Parts]:
    made = assemble(settings.model_copy(update=changes), where)
    async with made.running():
        yield made


@pytest.fixture
async def away(there: Address) -> AsyncIterator[asyncpg.Connection]:
    """The mirror's superuser."""
    connection = await asyncpg.connect(there.owner_url)
    yield connection
    await connection.close()


async def until(check: Callable[[], Awaitable[Any]], what: str) -> None:
    async def holds() -> bool:
        return bool(await check())

    try:
        await eventually(holds, seconds=40)
    except AssertionError:
        raise AssertionError(what) from None


async def all_final(database: asyncpg.Connection, deployed: Deployed) -> None:
    """Makes blocks until nothing waits: every event in a final head, every record in a final call."""

    async def there() -> bool:
        await asyncio.to_thread(deployed.node.mine)
        size = await database.fetchval("SELECT global_sequence FROM ledger_head")
        final = await database.fetchval(
            "SELECT max(size) FROM anchors WHERE mode = 'ANCHOR' AND state = 'FINAL'"
        )
        open_ones = await database.fetchval(
            "SELECT count(*) FROM anchors WHERE state NOT IN ('FINAL', 'SUPERSEDED')"
        )
        waiting = await database.fetchval(
            "SELECT count(*) FROM anchor_records WHERE anchor_id IS NULL AND skipped IS NULL"
        )
        return final == size and not open_ones and not waiting

    await until(there, "not everything became final")


async def heads(database: asyncpg.Connection, deployed: Deployed) -> list[tuple[int, int]]:
    """What the chain holds of the ledger's first log: each head and the one that it was anchored on."""
    told = anchored(deployed, await log_of(database))
    data = [bytes.fromhex(log["data"][2:]) for log in told]
    return [(int.from_bytes(one[:32], "big"), int.from_bytes(one[32:64], "big")) for one in data]


async def proven(parts: Parts, deployed: Deployed, event: str, schema: Schema) -> dict[str, Any]:
    context = Context(parts.services, root(), Request(parts.services.ids.new("req")))
    answered = await schema.execute(PROOF, variable_values={"id": event}, context_value=context)
    await context.close()
    assert not answered.errors
    assert answered.data
    found: dict[str, Any] = answered.data["ledgerEvent"]
    assert found["proof"] is not None, "an old event is proven where the ledger is now"
    await asyncio.to_thread(
        check, found["proof"]["document"], None, deployed.node.url, deployed.contract, say=lambda _text: None
    )
    return found


async def test_a_promoted_mirror_proves_what_was_anchored_and_goes_on_from_there(
    mirrored: Settings,
    address: Address,
    there: Address,
    owner: asyncpg.Connection,
    away: asyncpg.Connection,
    deployed: Deployed,
    built_schema: Schema,
) -> None:
    async with serving(mirrored, address) as old:
        place = await place_on(old, deployed.node.chain_id)
        for _ in range(2):
            await factories.position(old.services, place.asset, state=State.RELEASED)
        await all_final(owner, deployed)
    event = await owner.fetchval("SELECT id FROM ledger_events WHERE global_sequence = 2")
    await promote(mirrored, address, there)
    async with serving(mirrored, there, mirror_url=None) as new:
        assert (await proven(new, deployed, event, built_schema))["record"] == {"number": 2, "state": "FINAL"}
        before = await asyncio.to_thread(
            deployed.node.ask, "eth_getTransactionCount", deployed.account, "latest"
        )
        await asyncio.sleep(1)
        after = await asyncio.to_thread(
            deployed.node.ask, "eth_getTransactionCount", deployed.account, "latest"
        )
        assert before == after, "nothing new is sent while nothing new happens"
        await factories.position(new.services, place.asset, state=State.RELEASED)
        await all_final(away, deployed)
        await proven(new, deployed, event, built_schema)
    found = await heads(away, deployed)
    assert [previous for previous, _size in found] == [0, *(size for _previous, size in found[:-1])]
    assert found[-1][1] == 9
    assert [one["number"] for one in recorded(deployed)] == list(range(1, 10)), "each once"


async def test_what_was_on_its_way_is_brought_to_an_end_by_the_promoted_mirror(
    mirrored: Settings,
    address: Address,
    there: Address,
    owner: asyncpg.Connection,
    away: asyncpg.Connection,
    deployed: Deployed,
    proxy: Proxy,
    built_schema: Schema,
) -> None:
    """Signed, perhaps sent, and never seen in a block when the ledger moves: for heads and for records."""
    proxy.on("eth_sendRawTransaction", swallow)
    async with serving(mirrored, address) as old:
        place = await place_on(old, deployed.node.chain_id)
        await factories.position(old.services, place.asset, state=State.RELEASED)

        async def sent() -> Any:
            return await owner.fetchval("SELECT count(*) FROM anchor_transactions WHERE sent_at IS NOT NULL")

        await until(sent, "nothing was sent")
    raw = await owner.fetch("SELECT hash, raw FROM anchor_transactions ORDER BY nonce")
    await promote(mirrored, address, there)
    assert await away.fetch("SELECT hash, raw FROM anchor_transactions ORDER BY nonce") == raw
    proxy.well()
    event = await away.fetchval("SELECT id FROM ledger_events WHERE global_sequence = 3")
    async with serving(mirrored, there, mirror_url=None) as new:
        await all_final(away, deployed)
        assert (await proven(new, deployed, event, built_schema))["record"] == {"number": 3, "state": "FINAL"}
    assert (await heads(away, deployed))[-1][1] == 3
    assert [one["number"] for one in recorded(deployed)] == [1, 2, 3], "each once"


async def test_what_stands_on_events_that_are_not_copied_waits_for_them(
    mirrored: Settings, address: Address, there: Address, owner: asyncpg.Connection, away: asyncpg.Connection
) -> None:
    async with serving(mirrored, address, chain_url=None, chain_id=None, chain_contract=None) as old:
        place = await factories.place(old.services)
        await factories.position(old.services, place.asset)
        root = bytes(32)
        await owner.execute(
            "INSERT INTO anchors (id, number, revision, mode, state, chain_id, contract, log_id, epoch, previous_size,"
            " previous_root, size, root, created_at, changed_at) VALUES ('anc_x', 1, 1, 'ANCHOR', 'PENDING', 1, $1, $2,"
            " 1, 0, $2, 2, $2, now(), now())",
            "0x" + "ab" * 20,
            root,
        )
        await owner.execute(
            "INSERT INTO anchor_transactions (hash, anchor_id, account, nonce, raw, fee_max, tip_max, signed_at)"
            " VALUES ($1, 'anc_x', '0x', 0, '', 1, 1, now())",
            root,
        )

        async def copied() -> Any:
            return await away.fetchval("SELECT count(*) FROM ledger_events") and await away.fetchval(
                "SELECT seeded @> ARRAY['anchor_records', 'personal_data'] FROM mirror_copy"
            )

        await until(copied, "the first event was not copied")
        await asyncio.sleep(1)
        assert await away.fetchval("SELECT count(*) FROM anchors") == 0
        await factories.position(old.services, place.asset)

        async def arrived() -> Any:
            return await away.fetchval(
                "SELECT count(*) FROM anchor_transactions"
            ) and not await owner.fetchval("SELECT count(*) FROM mirror_queue")

        await until(arrived, "it never came")
