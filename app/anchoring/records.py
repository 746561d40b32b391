"""Events that are recorded on the chain one by one, because their template says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.anchoring.model import KINDS_ON_CHAIN, RECORDS_MAX, STATES_ON_CHAIN
from app.ledger.model import Event
from app.storage.database import Driver, Named

TEMPLATES = "SELECT id, onchain_enabled, onchain_chain_id FROM asset_templates WHERE id = ANY ($1::text[])"
NOTE = """
INSERT INTO anchor_records (institution_id, event_id, global_sequence, skipped, noted_at)
SELECT institution_id, event_id, global_sequence, skipped, $5
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])
  AS n (institution_id, event_id, global_sequence, skipped)
ON CONFLICT DO NOTHING
"""
WAITING = """
SELECT institution_id, event_id, global_sequence FROM anchor_records
WHERE anchor_id IS NULL AND skipped IS NULL ORDER BY global_sequence LIMIT $1
"""
TAKE = """
UPDATE anchor_records r SET anchor_id = $1, number = t.number
FROM unnest($2::text[], $3::text[], $4::bigint[]) AS t (institution_id, event_id, number)
WHERE r.institution_id = t.institution_id AND r.event_id = t.event_id
"""
GIVE_BACK = "UPDATE anchor_records SET anchor_id = NULL, number = NULL WHERE anchor_id = $1"
INSTITUTIONS = "SELECT DISTINCT institution_id FROM anchor_records WHERE anchor_id = $1"
ENTRIES = """
SELECT e.id, e.position_id, e.kind, e.previous_state, e.new_state, e.hash
FROM anchor_records r JOIN ledger_events e ON e.global_sequence = r.global_sequence
WHERE r.anchor_id = $1 ORDER BY r.number
"""


@dataclass(frozen=True, slots=True)
class Onchain:
    """What a template says."""

    enabled: bool
    chain_id: int | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that is to be recorded."""

    institution_id: str
    event_id: str
    global_sequence: int


def skip_reason(onchain: Onchain, chain_id: int) -> str | None:
    """Why events of such a template are not recorded on that chain; None when they are."""
    if onchain.chain_id == chain_id:
        return None
    return f"the template names chain {onchain.chain_id}, and this ledger is anchored on chain {chain_id}"


async def templates(driver: Driver, ids: Sequence[str]) -> Mapping[str, Onchain]:
    """What templates say, as the feed role; they never change."""
    rows = await driver.fetch(TEMPLATES, list(ids))
    return {row["id"]: Onchain(row["onchain_enabled"], row["onchain_chain_id"]) for row in rows}


async def note(driver: Driver, noted: Sequence[tuple[Event, str | None]], now: datetime) -> None:
    """Keep which events are to be recorded, or why not; those that are noted stay as they are."""
    columns = [
        [event.institution_id for event, _skipped in noted],
        [event.id for event, _skipped in noted],
        [event.global_sequence for event, _skipped in noted],
        [skipped for _event, skipped in noted],
    ]
    await driver.execute(NOTE, *columns, now)


async def waiting(driver: Driver) -> Sequence[Waiting]:
    """The next events to record, as many as one call takes, as the feed role."""
    return [Waiting(**dict(row)) for row in await driver.fetch(WAITING, RECORDS_MAX)]


async def take(driver: Driver, anchor_id: str, first: int, taken: Sequence[Waiting]) -> None:
    """Number them, as parts of one call."""
    numbers = list(range(first, first + len(taken)))
    await driver.execute(
        TAKE, anchor_id, [one.institution_id for one in taken], [one.event_id for one in taken], numbers
    )


async def give_back(driver: Driver, anchor_id: str) -> None:
    """Have another call record them: this one never will."""
    await driver.execute(GIVE_BACK, anchor_id)


async def institutions(driver: Driver, anchor_id: str) -> list[str]:
    """Whose events a call records, as the feed role."""
    return [row["institution_id"] for row in await driver.fetch(INSTITUTIONS, anchor_id)]


async def entries(driver: Driver, anchor_id: str) -> list[tuple[Any, ...]]:
    """What a call records, as the contract takes it, as the feed role."""
    return [entry(row) for row in await driver.fetch(ENTRIES, anchor_id)]


def entry(row: Named) -> tuple[Any, ...]:
    """One event: references and its hash; ids are their own text."""
    return (
        row["id"].encode().ljust(32, b"\0"),
        row["position_id"].encode().ljust(32, b"\0"),
        KINDS_ON_CHAIN[row["kind"]],
        STATES_ON_CHAIN[row["previous_state"]],
        STATES_ON_CHAIN[row["new_state"]],
        row["hash"],
    )
