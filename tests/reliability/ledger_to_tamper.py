"""A small ledger with something of everything, checkpoints signed along the way, that a superuser then has to himself."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg

from app.ledger.checkpoints import Checkpoint, Checkpointer, read_all
from app.ledger.leases import Lease
from app.ledger.signer import Signer, signer_from
from app.main import Parts, assemble
from app.personal.masters import Masters, masters_of
from app.positions.model import State
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.factories import FUND, Place, release

# Whatever the ledger proves: each column of these tables is changed, also one that is added later.
COVERED = (
    "ledger_events",
    "positions",
    "institution_heads",
    "ledger_head",
    "personal_data",
    "holders",
    "institution_keys",
    "checkpoints",
)
# And what is not covered, with what there is instead. A table that comes later has to be placed.
OTHERWISE = {
    "audit_events": "its rows are bound by the seals: tests/audit/test_seals.py changes every column",
    "audit_seals": "the same",
    "epochs": "judged by the events they start after: tests/ledger/test_proofs.py",
    "assets": "those that events name, and their template: tests/ledger/test_proofs.py",
    "asset_templates": "the versions that events name are there; nothing proves yet what they say",
    "policies": "the same",
    "institutions": "those that events name are there; names and regions are not the ledger's",
    "api_keys": "who may ask, and nothing that the ledger says; changes are in the audit",
    "webhook_endpoints": "the same",
    "webhook_secrets": "the same",
    "webhook_deliveries": "work under way: what was to be sent follows from the events",
    "followers": "work under way: where each stands",
    "parked_events": "work under way",
    "leases": "work under way",
    "rate_buckets": "work under way",
    "mirror_queue": "work under way; both sides are compared before the ledger moves",
    "mirror_copy": "the same",
    "documents": "known by the hash of what they say",
    "master_keys": "the ids of keys that are kept elsewhere",
    "anchors": "what the contract says judges them: escrowgrid anchor status",
    "anchor_chains": "as a chain looked when it was last asked",
    "anchor_records": "the same as anchors",
    "anchor_tree": "made anew from the events; its root is compared with the contract's",
    "anchor_nodes": "the same",
    "anchor_transactions": "work under way",
    "alembic_version": "compared where it matters: at each start",
}
# What names a row of each.
NAMES = {
    "ledger_events": "id",
    "positions": "id",
    "institution_heads": "institution_id",
    "ledger_head": "global_sequence",
    "personal_data": "event_id",
    "holders": "id",
    "institution_keys": "institution_id",
    "checkpoints": "size",
}
CONSTRAINTS = """
SELECT conrelid::regclass::text AS table_name, conname FROM pg_constraint
WHERE contype IN ('c', 'u', 'f', 'p', 'x')
  AND (conrelid = ANY($1::regclass[]) OR confrelid = ANY($1::regclass[]))
ORDER BY contype = 'p', contype = 'u'
"""
UNIQUE = (
    "SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique AND indrelid = ANY($1::regclass[])"
)
GENERATED = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = 'public' AND is_generated = 'ALWAYS' AND table_name = ANY($1)
"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known outside of the database: the signing key, and the checkpoints exported from it."""

    signer: Signer
    masters: Masters
    exported: Sequence[Checkpoint]


async def write(address: Address, folder: Path) -> Evidence:
    """Three institutions, positions that took every road; the server is gone when it returns."""
    settings = Settings(data_dir=folder, checkpoint_seconds=3600, tick_seconds=0.2)
    signer = signer_from(None, folder)
    parts = assemble(settings, address)
    async with parts.running():
        first = await factories.place(parts.services, name="First")
        second = await factories.place(parts.services, name="Second", currency="JPY")
        await factories.institution(parts.services, "Idle")
        await factories.policy(parts.services, first.institution.id, max_amount=Decimal(10_000))
        for number, where in enumerate((first, second, first)):
            await _every_road(parts, where, number)
            await _checkpoint(parts, signer)
    connection = await asyncpg.connect(address.owner_url)
    try:
        return Evidence(signer, masters_of(settings), await read_all(connection))
    finally:
        await connection.close()


async def _every_road(parts: Parts, where: Place, number: int) -> None:
    services = parts.services
    for state in State:
        await factories.position(services, where.asset, "100", state=state)
    later = services.clock() + timedelta(days=number + 1)
    command = await factories.opening(
        services,
        where.asset,
        "250",
        external_reference=f"REF-{number}",
        expires_at=later,
        reason="an order",
        metadata={"order": number, "rate": "0.5"},
    )
    position = (await services.writer.submit(command)).row.position
    for intent in (FUND, release("100"), release("50")):
        move = factories.move(services, position, intent, reason=f"step {intent.amount}")
        await services.writer.submit(move)


async def _checkpoint(parts: Parts, signer: Signer) -> None:
    """Signed by one of our own, as the server's own leader does it once a minute."""
    checkpointer = Checkpointer(parts.services.database, signer, parts.services.clock, 0)
    await checkpointer.stop()
    await asyncio.sleep(0)
    await checkpointer.idle(Lease("unused", 1))


async def take_over(owner: asyncpg.Connection) -> None:
    """All that stands in a superuser's way: triggers, constraints, generated columns. And a copy, to undo by."""
    for row in await owner.fetch(CONSTRAINTS, list(COVERED)):
        await owner.execute(
            f'ALTER TABLE {row["table_name"]} DROP CONSTRAINT IF EXISTS "{row["conname"]}" CASCADE'
        )
    for row in await owner.fetch(UNIQUE, list(COVERED)):
        await owner.execute(f"DROP INDEX {row[0]}")
    for row in await owner.fetch(GENERATED, list(COVERED)):
        await owner.execute(f'ALTER TABLE {row["table_name"]} ALTER "{row["column_name"]}" DROP EXPRESSION')
    await owner.execute("CREATE SCHEMA kept")
    for table in COVERED:
        await owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        await owner.execute(f"CREATE TABLE kept.{table} AS TABLE {table}")


async def undo(owner: asyncpg.Connection, *tables: str) -> None:
    """Everything as it was, or these tables."""
    async with owner.transaction():
        for table in tables or COVERED:
            await owner.execute(f"DELETE FROM {table}")
            await owner.execute(f"INSERT INTO {table} SELECT * FROM kept.{table}")
