"""Appends decided events: takes the heads, gives each event its place and its link, writes them all at once."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Integer, LargeBinary, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from app.errors import Unavailable
from app.kit.canonical import Json, canonical_json, plain_json
from app.kit.chain import SALT_BYTES
from app.kit.money import CURRENCIES, spell
from app.ledger import epochs, sealed, spelling
from app.ledger.keeper import NOT_HERE
from app.ledger.model import (
    HASH_VERSION,
    KIND_VERSION,
    Actor,
    Commitments,
    Draft,
    Event,
    Key,
    Personal,
    Salts,
)
from app.ledger.store import EVENT_COLUMNS, ledger_events
from app.storage.database import Driver

# What the driver is told of each column.
SQL_TYPES = {
    BigInteger: "bigint",
    Integer: "int",
    LargeBinary: "bytea",
    JSONB: "jsonb",
    Numeric: "numeric",
    SmallInteger: "smallint",
    Text: "text",
    TIMESTAMP: "timestamptz",
}
EVENT_TYPES = [SQL_TYPES[type(column.type)] for column in ledger_events.columns]

# The driver cannot spell arrays of JSON: they travel as text.
_TRAVEL = ", ".join(
    f"${i}::{'text' if kind == 'jsonb' else kind}[]" for i, kind in enumerate(EVENT_TYPES, start=1)
)
_COLUMNS = ", ".join(EVENT_COLUMNS)
_ARRIVE = ", ".join(
    f"{name}::jsonb" if kind == "jsonb" else name
    for name, kind in zip(EVENT_COLUMNS, EVENT_TYPES, strict=True)
)
INSERT_EVENTS = (
    f"INSERT INTO ledger_events ({_COLUMNS}) SELECT {_ARRIVE} FROM unnest({_TRAVEL}) AS n ({_COLUMNS})"
)
# A database that is kept by others shows no head to lock. The timeline tells of a restore under a running server.
LOCK_HEAD = f"""
SELECT global_sequence, recorded_at, timeline <> {epochs.TIMELINE} AS restored FROM ledger_head FOR UPDATE
"""
# The clock is read in the statement after the lock, so that time and sequence agree.
LOCK_CHAINS = """
SELECT institution_id, sequence, hash, clock_timestamp() AS now FROM institution_heads
WHERE institution_id = ANY($1::text[]) ORDER BY institution_id FOR UPDATE
"""
_NEXT = len(EVENT_COLUMNS) + 1
# The events and the heads that they move: one statement, for each costs others who wait for the heads a round trip.
APPEND = f"""
WITH head AS (
  UPDATE ledger_head SET global_sequence = ${_NEXT}::bigint, recorded_at = ${_NEXT + 1}::timestamptz
), chains AS (
  UPDATE institution_heads h SET sequence = n.sequence, hash = n.hash
  FROM unnest(${_NEXT + 2}::text[], ${_NEXT + 3}::bigint[], ${_NEXT + 4}::bytea[]) AS n (institution_id, sequence, hash)
  WHERE h.institution_id = n.institution_id
)
{INSERT_EVENTS}
"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decided event with everything that can be spelled before its place is known."""

    draft: Draft
    event_id: str
    actor: Actor
    key: Key
    salts: Salts
    commitments: Commitments
    fixed: str


@dataclass(frozen=True, slots=True)
class _Chain:
    sequence: int
    hash: bytes


def prepare(draft: Draft, event_id: str, actor: Actor, key: Key) -> Prepared:
    """Spell and commit what is known already, so that the head is held for as short as can be."""
    assert draft.balances.hold(), "funded = released + refunded + held"
    salts = _salts(draft.personal)
    commitments = spelling.commitments(draft.personal, salts)
    fixed = spelling.fixed(draft, event_id, actor, key, commitments)
    return Prepared(draft, event_id, actor, key, salts, commitments, fixed)


async def append(
    connection: Driver, prepared: Sequence[Prepared], personal: Sequence[sealed.Row] = ()
) -> list[Event]:
    """Append in the given order, with what is personal beside it. The heads stay locked until the transaction ends."""
    head = await connection.fetchrow(LOCK_HEAD)
    if head is None:
        raise Unavailable(NOT_HERE)
    if head["restored"]:
        # Before the first event of the new history, so that no cursor of the old one passes for one of it.
        await epochs.mind(connection)
    institutions = sorted({item.draft.institution_id for item in prepared})
    rows = await connection.fetch(LOCK_CHAINS, institutions)
    assert len(rows) == len(institutions), "every institution has a chain"
    recorded_at: datetime = max(head["recorded_at"], rows[0]["now"])
    chains = {row["institution_id"]: _Chain(row["sequence"], row["hash"]) for row in rows}
    events = _place(prepared, head["global_sequence"], recorded_at, chains)
    await connection.execute(
        APPEND,
        *columns(events),
        events[-1].global_sequence,
        recorded_at,
        institutions,
        [chains[name].sequence for name in institutions],
        [chains[name].hash for name in institutions],
    )
    if personal:
        await sealed.insert(connection, personal)
    return events


def _place(
    prepared: Sequence[Prepared], global_sequence: int, recorded_at: datetime, chains: dict[str, _Chain]
) -> list[Event]:
    events = []
    for offset, item in enumerate(prepared, start=1):
        last = chains[item.draft.institution_id]
        occurred_at = item.draft.occurred_at or recorded_at
        sequence = last.sequence + 1
        content = spelling.placed(item.fixed, global_sequence + offset, sequence, occurred_at, recorded_at)
        hashed = spelling.event_hash(last.hash, content)
        chains[item.draft.institution_id] = _Chain(sequence, hashed)
        events.append(
            _event(item, global_sequence + offset, sequence, occurred_at, recorded_at, last.hash, hashed)
        )
    return events


def _event(
    item: Prepared,
    global_sequence: int,
    sequence: int,
    occurred_at: datetime,
    recorded_at: datetime,
    previous_hash: bytes,
    hashed: bytes,
) -> Event:
    draft = item.draft
    return Event(
        global_sequence=global_sequence,
        sequence=sequence,
        id=item.event_id,
        institution_id=draft.institution_id,
        position_id=draft.position_id,
        position_version=draft.position_version,
        kind=draft.kind,
        kind_version=KIND_VERSION,
        previous_state=draft.previous_state,
        new_state=draft.new_state,
        previous_stage=draft.previous_stage,
        new_stage=draft.new_stage,
        effect=draft.effect,
        currency=draft.currency,
        amount_moved=draft.amount_moved,
        postings=draft.postings,
        balances=draft.balances,
        data=draft.data,
        evidence=draft.evidence,
        actor=item.actor,
        key=item.key,
        template_id=draft.template_id,
        policy_id=draft.policy_id,
        lifecycle_name=draft.lifecycle_name,
        lifecycle_version=draft.lifecycle_version,
        occurred_at=occurred_at,
        recorded_at=recorded_at,
        commitments=item.commitments,
        previous_hash=previous_hash,
        hash=hashed,
        hash_version=HASH_VERSION,
    )


def columns(events: Sequence[Event]) -> list[list[Any]]:
    """The arguments of INSERT_EVENTS."""
    return [list(column) for column in zip(*(_values(event) for event in events), strict=True)]


def _values(event: Event) -> tuple[Any, ...]:
    """The values of EVENT_COLUMNS, in their order."""
    exponent = CURRENCIES[event.currency].exponent
    legs: list[Json] = [[leg.account, spell(leg.amount, exponent), leg.currency] for leg in event.postings]
    balances = event.balances
    return (
        event.global_sequence,
        event.institution_id,
        event.sequence,
        event.id,
        event.position_id,
        event.position_version,
        event.kind,
        event.kind_version,
        event.previous_state,
        event.new_state,
        event.previous_stage,
        event.new_stage,
        event.effect,
        event.currency,
        event.amount_moved,
        plain_json(legs),
        balances.funded,
        balances.released,
        balances.refunded,
        balances.held,
        canonical_json(event.data),
        canonical_json(event.evidence),
        event.actor.id,
        event.actor.role,
        event.actor.request_id,
        event.key.institution_id,
        event.key.value,
        event.key.fingerprint,
        event.template_id,
        event.policy_id,
        event.lifecycle_name,
        event.lifecycle_version,
        event.occurred_at,
        event.recorded_at,
        event.commitments.holder,
        event.commitments.reason,
        event.commitments.metadata,
        event.previous_hash,
        event.hash,
        event.hash_version,
    )


def _salts(personal: Personal) -> Salts:
    return Salts(
        holder=_salt(personal.holder_reference),
        reason=_salt(personal.reason),
        metadata=_salt(personal.metadata),
    )


def _salt(value: object) -> bytes | None:
    return None if value is None else secrets.token_bytes(SALT_BYTES)
