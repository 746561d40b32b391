"""The audit's own chain: what is sealed cannot be changed, taken out or slipped in without being found."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.audit import store, worker
from app.audit.model import AuditEvent
from app.audit.seals import ROW_COLUMNS, Row, Seal, next_seal, row_hash, seal_of
from app.audit.worker import Sealer
from app.context import Services
from app.kit.chain import GENESIS
from app.kit.clock import system_clock
from app.ledger.signer import Signer, SigningKeys
from app.main import Parts, assemble
from app.positions.escrow import BUILT_IN
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.database import Address
from app.verify.findings import Report
from app.verify.walk import verify as walk
from tests import factories
from tests.reliability.tampering import apart_from_guards

from .conftest import entry

Wrote = Callable[..., Awaitable[list[AuditEvent]]]
Verified = Callable[..., Awaitable[Report]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Sealing by hand."""
    return settings.model_copy(update={"audit_seal_seconds": 3600.0, "audit_seal_delay_seconds": 0.0})


@pytest.fixture
async def sealer(parts: Parts) -> Sealer:
    """It does nothing by itself any more."""
    await parts.sealer.close()
    return parts.sealer


@pytest.fixture
def wrote(services: Services) -> Wrote:
    """Writes rows that occurred some seconds ago."""

    async def write(*seconds: float, **changed: Any) -> list[AuditEvent]:
        now = system_clock()
        made = [
            AuditEvent.of(entry(**changed), services.ids.new("aud"), now - timedelta(seconds=ago))
            for ago in seconds
        ]
        async with services.database.writing(ALL_INSTITUTIONS) as connection:
            await store.add(connection, made)
        return made

    return write


@pytest.fixture
def verified(address: Address) -> Verified:
    """What `escrowgrid verify` finds."""

    async def run(**named: Any) -> Report:
        return apart_from_guards(await walk(address.direct_url, BUILT_IN, **named))

    return run


@pytest.fixture
async def tamperer(owner: asyncpg.Connection) -> asyncpg.Connection:
    """The database's own administrator, who can lift every rule."""
    for table in ("audit_events", "audit_seals"):
        await owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    return owner


async def seals(owner: asyncpg.Connection) -> list[Seal]:
    return [seal_of(row) for row in await owner.fetch("SELECT * FROM audit_seals ORDER BY number")]


def found(report: Report) -> list[tuple[str, str]]:
    return [(finding.table, finding.row) for finding in report.findings]


async def test_every_row_is_sealed_once_in_the_order_of_time(
    sealer: Sealer,
    wrote: Wrote,
    owner: asyncpg.Connection,
    verified: Verified,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "SEAL_ROWS_MAX", 10)
    monkeypatch.setattr(worker, "SEALS_AT_ONCE_MAX", 2)
    made = [row for number in range(7) for row in await wrote(*range(60 + number, 65 + number))]
    assert await sealer.seal() == 35
    kept = await seals(owner)
    assert [len(seal.ids) for seal in kept] == [10, 10, 10, 5]
    assert [seal.number for seal in kept] == [1, 2, 3, 4]
    assert not any(seal.late for seal in kept)
    in_order = [row.id for row in sorted(made, key=lambda row: (row.occurred_at, row.id))]
    assert [name for seal in kept for name in seal.ids] == in_order
    assert kept[0].previous_hash == GENESIS
    assert [seal.hash for seal in kept[:-1]] == [seal.previous_hash for seal in kept[1:]]
    assert await sealer.seal() == 0
    report = await verified()
    assert report.is_clean, found(report)
    assert (report.looked_at["audit_events"], report.looked_at["audit_seals"]) == (35, 4)


async def test_a_running_server_seals_by_itself(
    address: Address,
    settings: Settings,
    services: Services,
    wrote: Wrote,
    owner: asyncpg.Connection,
    parts: Parts,
) -> None:
    await parts.sealer.close()
    (row,) = await wrote(5)
    quick = settings.model_copy(update={"audit_seal_seconds": 0.05})
    other = assemble(quick, address)
    async with other.running():
        async with asyncio.timeout(10):
            while not await owner.fetchval(
                "SELECT EXISTS (SELECT FROM audit_seals WHERE $1 = ANY (ids))", row.id
            ):
                await asyncio.sleep(0.05)


async def test_rows_wait_for_those_that_may_still_come(
    parts: Parts, services: Services, wrote: Wrote, owner: asyncpg.Connection
) -> None:
    waiting = Sealer(services.database, Signer(bytes(32)), "x", every_seconds=60, delay_seconds=30)
    await parts.sealer.close()
    old, _new = (await wrote(40))[0], await wrote(20)
    assert await waiting.seal() == 1
    assert [seal.ids for seal in await seals(owner)] == [(old.id,)]
    await waiting.close()


CHANGES = {
    "id": "'aud_changed'",
    "institution_id": "'inst_other'",
    "actor_id": "'key_somebody_else'",
    "actor_role": "'ADMIN'",
    "operation": "'revokeApiKey'",
    "action": "'ASSET_TEMPLATE_CREATED'",
    "resource_type": "'policy'",
    "resource_id": "'ast_other'",
    "outcome": "'SUCCESS'",
    "code": "NULL",
    "request_id": "'req_2'",
    "client_address": "'198.51.100.7'",
    "payload": """'{"x": 2}'""",
    "occurred_at": "occurred_at + interval '1 microsecond'",
    "arrived_at": "arrived_at - interval '1 day'",
}


@pytest.mark.parametrize("column", ROW_COLUMNS)
async def test_every_changed_column_is_found(
    sealer: Sealer, wrote: Wrote, tamperer: asyncpg.Connection, verified: Verified, column: str
) -> None:
    rows = await wrote(30, 20, 10, payload={"x": 1})
    await sealer.seal()
    assert (await verified()).is_clean
    await tamperer.execute(f"UPDATE audit_events SET {column} = {CHANGES[column]} WHERE id = $1", rows[1].id)
    report = await verified()
    assert ("audit_events", rows[1].id) in found(report)
    # A row that is no longer where or what it was is missing there, and nobody's where it is now.
    assert report.total == (2 if column == "id" else 1)


def test_every_column_of_a_row_is_changed_by_the_test_above() -> None:
    assert set(CHANGES) == set(ROW_COLUMNS)


async def test_a_row_moved_to_another_month_is_found_twice(
    sealer: Sealer,
    wrote: Wrote,
    tamperer: asyncpg.Connection,
    verified: Verified,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "SEAL_ROWS_MAX", 1)
    rows = await wrote(30, 20, 10)
    await sealer.seal()
    moved = "UPDATE audit_events SET occurred_at = occurred_at - interval '400 days' WHERE id = $1"
    await tamperer.execute(moved, rows[1].id)
    report = await verified()
    assert [finding.row for finding in report.findings] == [rows[1].id] * 2
    assert {"missing" in finding.message for finding in report.findings} == {True, False}


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_deleted_row_is_found(
    sealer: Sealer, wrote: Wrote, tamperer: asyncpg.Connection, verified: Verified, which: int
) -> None:
    rows = await wrote(30, 20, 10)
    await sealer.seal()
    await tamperer.execute("DELETE FROM audit_events WHERE id = $1", rows[which].id)
    report = await verified()
    assert found(report) == [("audit_events", rows[which].id)]
    assert "is missing" in report.findings[0].message


@pytest.mark.parametrize("ago", [100, 25, 20])
async def test_an_inserted_row_is_found(
    sealer: Sealer, wrote: Wrote, tamperer: asyncpg.Connection, verified: Verified, ago: float
) -> None:
    """Before all, between two, at another one's very instant."""
    rows = await wrote(30, 20, 10)
    await sealer.seal()
    await tamperer.execute(
        "INSERT INTO audit_events SELECT 'aud_0', $2, institution_id, actor_id, actor_role, operation, action, "
        "resource_type, resource_id, outcome, code, request_id, client_address, payload, arrived_at "
        "FROM audit_events WHERE id = $1",
        rows[1].id,
        rows[1].occurred_at if ago == 20 else system_clock() - timedelta(seconds=ago),
    )
    report = await verified()
    assert found(report) == [("audit_events", "aud_0")]
    assert "no seal has it" in report.findings[0].message


async def test_a_row_inserted_long_after_its_time_stays_found_though_it_is_sealed(
    sealer: Sealer, wrote: Wrote, tamperer: asyncpg.Connection, verified: Verified
) -> None:
    await wrote(30)
    await sealer.seal()
    (inserted,) = await wrote(2 * 24 * 3600)
    assert await sealer.seal() == 1
    report = await verified()
    assert found(report) == [("audit_events", inserted.id)]
    assert "long after" in report.findings[0].message


async def test_rows_that_come_late_are_sealed_apart(
    sealer: Sealer, wrote: Wrote, owner: asyncpg.Connection, verified: Verified, tamperer: asyncpg.Connection
) -> None:
    await wrote(30, 10)
    assert await sealer.seal() == 2
    late = await wrote(50, 20)
    assert {row for _table, row in found(await verified())} == {row.id for row in late}, (
        "until they are sealed"
    )
    fresh = await wrote(0)
    await asyncio.sleep(0.01)
    assert await sealer.seal() == 3
    kept = await seals(owner)
    assert [(seal.late, seal.ids) for seal in kept[1:]] == [
        (True, tuple(row.id for row in late)),
        (False, (fresh[0].id,)),
    ]
    assert await sealer.seal() == 0, "each once"
    report = await verified()
    assert report.is_clean, found(report)
    assert report.looked_at["audit_events sealed late"] == 2
    await tamperer.execute("UPDATE audit_events SET code = 'X' WHERE id = $1", late[0].id)
    await tamperer.execute("DELETE FROM audit_events WHERE id = $1", late[1].id)
    assert sorted(found(await verified())) == sorted(("audit_events", row.id) for row in late)


async def test_a_transaction_that_ends_late_is_sealed(
    sealer: Sealer, wrote: Wrote, owner: asyncpg.Connection, verified: Verified
) -> None:
    slow = owner.transaction()
    await slow.start()
    await owner.execute(
        "INSERT INTO audit_events (id, occurred_at, actor_id, actor_role, operation, action, resource_type, outcome, "
        "request_id, payload) VALUES ('aud_slow', now(), 'root', 'ROOT', 'o', 'A', 'r', 'SUCCESS', 'req', '{}')"
    )
    for _ in range(3):
        await wrote(0)
        await asyncio.sleep(0.01)
        assert await sealer.seal() == 1
    await slow.commit()
    assert await sealer.seal() == 1
    assert await sealer.seal() == 0
    assert (await verified()).is_clean


async def test_rows_from_before_the_column_are_sealed_too(
    sealer: Sealer, wrote: Wrote, tamperer: asyncpg.Connection, verified: Verified
) -> None:
    rows = await wrote(30, 20)
    await tamperer.execute("UPDATE audit_events SET arrived_at = NULL")
    assert await sealer.seal() == 2
    assert (await verified()).is_clean
    await tamperer.execute("UPDATE audit_events SET arrived_at = now() WHERE id = $1", rows[0].id)
    assert found(await verified()) == [("audit_events", rows[0].id)]


async def test_any_month_and_the_default_partition_are_sealed(
    sealer: Sealer, wrote: Wrote, owner: asyncpg.Connection, verified: Verified
) -> None:
    await wrote(400 * 24 * 3600, 70 * 24 * 3600, 35 * 24 * 3600, 5)
    assert await sealer.seal() == 4
    parts = await owner.fetch("SELECT DISTINCT tableoid FROM audit_events")
    assert len(parts) > 1
    assert (await verified()).is_clean


SEAL_CHANGES = {
    "number": "number + 10",
    "late": "NOT late",
    "starts_at": "starts_at - interval '1 day'",
    "starts_id": "''",
    "ends_at": "ends_at + interval '1 microsecond'",
    "ends_id": "ends_id || 'z'",
    "ids": """ARRAY['aud_x' COLLATE "C"] || ids[2:]""",
    "hashes": "ARRAY[sha256('')] || hashes[2:]",
    "sealed_at": "sealed_at + interval '1 second'",
    "caught_up_to": "caught_up_to + interval '1 second'",
    "previous_hash": "sha256('')",
    "hash": "sha256('')",
    "public_key": "sha256('')",
    "signature": "sha256('') || sha256('')",
}


@pytest.mark.parametrize("column", SEAL_CHANGES)
async def test_a_changed_seal_is_found(
    sealer: Sealer,
    wrote: Wrote,
    tamperer: asyncpg.Connection,
    verified: Verified,
    column: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "SEAL_ROWS_MAX", 2)
    await wrote(*range(60, 30, -5))
    await sealer.seal()
    assert (await verified()).is_clean
    await tamperer.execute(f"UPDATE audit_seals SET {column} = {SEAL_CHANGES[column]} WHERE number = 2")
    report = await verified()
    assert any(table == "audit_seals" for table, _row in found(report)), found(report)


async def test_every_column_of_a_seal_is_changed_by_the_test_above(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'audit_seals'::regclass AND attnum > 0"
    )
    assert {row["attname"] for row in rows} == set(SEAL_CHANGES)


@pytest.mark.parametrize("number", [1, 2])
async def test_a_seal_taken_out_is_found(
    sealer: Sealer,
    wrote: Wrote,
    tamperer: asyncpg.Connection,
    verified: Verified,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "SEAL_ROWS_MAX", 2)
    await wrote(*range(60, 30, -5))
    await sealer.seal()
    await tamperer.execute("DELETE FROM audit_seals WHERE number = $1", number)
    assert ("audit_seals", str(number + 1)) in found(await verified())


async def test_a_chain_made_anew_has_not_the_ledgers_signature(
    parts: Parts, services: Services, wrote: Wrote, tamperer: asyncpg.Connection, verified: Verified
) -> None:
    """Whoever owns the database can make all hashes anew, but not sign them."""
    ours = Signer(bytes(32))
    await parts.sealer.close()
    sealer = Sealer(services.database, ours, "x", every_seconds=60, delay_seconds=0)
    rows = await wrote(30, 20)
    await sealer.seal()
    assert (await verified(keys=SigningKeys(ours.public_key))).is_clean
    await tamperer.execute("UPDATE audit_events SET code = 'X' WHERE id = $1", rows[0].id)
    await tamperer.execute("DELETE FROM audit_seals")
    await Sealer(services.database, Signer(bytes(31) + b"x"), "x", every_seconds=60, delay_seconds=0).seal()
    assert (await verified()).is_clean, "without the key nobody can tell"
    assert found(await verified(keys=SigningKeys(ours.public_key))) == [("audit_seals", "1")]
    await sealer.close()


async def test_one_process_seals_at_a_time(
    parts: Parts,
    address: Address,
    settings: Settings,
    wrote: Wrote,
    owner: asyncpg.Connection,
    verified: Verified,
) -> None:
    other = assemble(settings, address)
    async with other.running():
        await wrote(30)
        sealed = await asyncio.gather(parts.sealer.seal(), other.sealer.seal())
        assert sorted(sealed) == [0, 1]
        await wrote(20)
        assert await other.sealer.seal() == 0, "the lease is the first one's"
        await parts.sealer.close()
        assert await other.sealer.seal() == 1, "who gave it up"
    assert [seal.number for seal in await seals(owner)] == [1, 2]
    assert (await verified()).is_clean


async def test_a_lease_lost_midway_writes_nothing(
    parts: Parts, wrote: Wrote, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wrote(30)
    lead = parts.sealer._lead

    async def lost() -> Any:
        lease = await lead()
        await owner.execute(
            "UPDATE leases SET holder = 'other', token = token + 1 WHERE name = $1", worker.LEASE
        )
        return lease

    monkeypatch.setattr(parts.sealer, "_lead", lost)
    with pytest.raises(worker.LeadLost):
        await parts.sealer.seal()
    assert await seals(owner) == []


async def test_sealing_waits_for_no_lock_of_the_ledger_and_takes_none(
    sealer: Sealer, services: Services, wrote: Wrote, owner: asyncpg.Connection
) -> None:
    place = await factories.place(services)
    await wrote(30)
    holding = owner.transaction()
    await holding.start()
    await owner.execute("SELECT FROM ledger_head FOR UPDATE")
    await owner.execute("SELECT FROM institution_heads FOR UPDATE")
    async with asyncio.timeout(5):
        assert await sealer.seal() >= 1
    await holding.rollback()
    # And while a seal is being written, commands go on.
    await owner.execute("BEGIN; LOCK audit_seals IN ACCESS EXCLUSIVE MODE")
    await wrote(0)
    sealing = asyncio.ensure_future(sealer.seal())
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await factories.position(services, place.asset)
    assert not sealing.done()
    await owner.execute("COMMIT")
    assert await sealing >= 1


async def test_seals_are_the_servers_alone_and_for_ever(
    owner: asyncpg.Connection, sealer: Sealer, wrote: Wrote
) -> None:
    await wrote(30)
    await sealer.seal()
    for statement in (
        "UPDATE audit_seals SET late = true",
        "DELETE FROM audit_seals",
        "TRUNCATE audit_seals",
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
            await owner.execute(statement)


RECORD: dict[str, Any] = {
    "id": "aud_1",
    "institution_id": "inst_1",
    "actor_id": "root",
    "actor_role": "ROOT",
    "operation": "createAsset",
    "action": "ASSET_CREATED",
    "resource_type": "asset",
    "resource_id": None,
    "outcome": "FAILURE",
    "code": "NOT_FOUND",
    "request_id": "req_1",
    "client_address": "192.0.2.1",
    "payload": {"b": [1, "ü"], "a": None},
    "occurred_at": datetime(2026, 3, 1, tzinfo=UTC),
    "arrived_at": datetime(2026, 3, 1, 0, 0, 1, 5, tzinfo=UTC),
}


def test_the_spelling_is_frozen() -> None:
    """What is sealed must be provable for ever: these bytes never change."""
    assert row_hash(RECORD).hex() == "6af16cef424b27c89369b478102dba456102d2d6fe793ce4ac6fbabf60e45d32"
    one = next_seal(
        None, [Row.of(RECORD)], late=False, sealed_at=RECORD["arrived_at"], caught_up_to=RECORD["arrived_at"]
    )
    assert one.hash.hex() == "466be9aba75648579e40d416d525cdd9bd711d05e21e2ab85de6b371d26aa2a3"
    two = next_seal(
        one, [Row.of(RECORD)], late=True, sealed_at=RECORD["arrived_at"], caught_up_to=RECORD["arrived_at"]
    )
    assert two.previous_hash == one.hash
    assert two.number == 2


def test_every_column_is_in_the_hash() -> None:
    seen = {row_hash(RECORD)}
    for column in ROW_COLUMNS:
        value = RECORD[column]
        other = (
            value + timedelta(microseconds=1)
            if isinstance(value, datetime)
            else {"a": 0}
            if column == "payload"
            else "x"
        )
        seen.add(row_hash(RECORD | {column: other}))
    assert len(seen) == 1 + len(ROW_COLUMNS)
