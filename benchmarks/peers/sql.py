"""The same batches written straight in SQL: the same rows, indexes, triggers, policies and durability, and no server.

A batch is a transaction of the writer's role: its positions locked, the heads taken last, every column of every event
and what changed of every position sent as arrays, with the heads that they move, by the server's own statements.
All values but the places of events are made beforehand. It leaves out what a server is for, so it is a limit: nothing
is asked (facts, keys already used, what a position is), decided, spelled, hashed, answered or told to anybody. What
it appends is no chain: databases it has been at do not verify.
"""

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg

from app.kit.ids import Ids
from app.ledger import append
from app.ledger.store import EVENT_COLUMNS
from app.positions import rows
from app.storage.database import DatabaseRole, take_role

CONNECTIONS = (1, 2, 8)
RELEASED = Decimal("1.00")
LOCK = "SELECT id FROM positions WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"
NEWEST = f"""
SELECT DISTINCT ON (position_id) {", ".join(EVENT_COLUMNS)} FROM ledger_events
WHERE institution_id = $1 AND position_id = ANY($2::text[]) ORDER BY position_id, position_version DESC
"""
MAKER = Ids()
EVENT_PLACES = {name: place for place, name in enumerate(EVENT_COLUMNS)}


@dataclass(frozen=True)
class Batch:
    """The arguments of its statements; those of an event's place are given once it is known."""

    ids: list[str]
    events: list[list[Any]]
    positions: list[list[Any]]


async def transitions(url: str, institution_id: str, ids: Sequence[str], size: int, rounds: int) -> float:
    """Transitions a second in batches of `size`, each position `rounds` times, by as many connections as are best."""
    return max([await _by(number, url, institution_id, ids, size, rounds) for number in CONNECTIONS])


async def _by(
    connections: int, url: str, institution_id: str, ids: Sequence[str], size: int, rounds: int
) -> float:
    pool = [await asyncpg.connect(url) for _ in range(connections)]
    found = await pool[0].fetch(NEWEST, institution_id, list(ids))
    newest = {row["position_id"]: dict(row) for row in found}
    # Each connection has positions of its own, so that their versions come in order.
    work = [
        [
            _batch(institution_id, [newest[id] for id in ids[at : at + size]])
            for _ in range(rounds + 1)
            for at in range(place * size, len(ids), connections * size)
        ]
        for place in range(connections)
    ]
    # The first prepares the statements, and is not timed.
    for connection, batches in zip(pool, work, strict=True):
        if batches:
            await _write(connection, institution_id, batches.pop(0))
    count = sum(len(batch.ids) for batches in work for batch in batches)
    began = time.perf_counter()
    await asyncio.gather(
        *(_all(connection, institution_id, batches) for connection, batches in zip(pool, work, strict=True))
    )
    seconds = time.perf_counter() - began
    for connection in pool:
        await connection.close()
    return count / seconds


async def _all(connection: asyncpg.Connection, institution_id: str, batches: Sequence[Batch]) -> None:
    for batch in batches:
        await _write(connection, institution_id, batch)


async def _write(connection: asyncpg.Connection, institution_id: str, batch: Batch) -> None:
    async with connection.transaction():
        await take_role(connection, DatabaseRole.WRITER, [institution_id])
        await connection.fetch(LOCK, batch.ids)
        head = await connection.fetchrow(append.LOCK_HEAD)
        chain = (await connection.fetch(append.LOCK_CHAINS, [institution_id]))[0]
        size = len(batch.ids)
        for name, last in (
            ("global_sequence", head["global_sequence"]),
            ("sequence", chain["sequence"]),
        ):
            batch.events[EVENT_PLACES[name]] = list(range(last + 1, last + 1 + size))
        places = {
            name: batch.events[EVENT_PLACES[name]][-1] for name in ("global_sequence", "sequence", "hash")
        }
        await connection.execute(
            append.APPEND,
            *batch.events,
            places["global_sequence"],
            max(head["recorded_at"], chain["now"]),
            [institution_id],
            [places["sequence"]],
            [places["hash"]],
        )
        await connection.execute(rows.UPDATE, *batch.positions)


def _batch(institution_id: str, newest: list[dict[str, Any]]) -> Batch:
    """A release of 1.00 of each; `newest`, the last event of each, becomes that release's."""
    now = datetime.now(UTC)
    for event in newest:
        event.update(_released(event, now, MAKER))
    return Batch(
        [event["position_id"] for event in newest],
        [[event[name] for event in newest] for name in EVENT_COLUMNS],
        [list(column) for column in zip(*_positions(institution_id, newest, now), strict=True)],
    )


def _released(event: dict[str, Any], now: datetime, ids: Ids) -> dict[str, Any]:
    return {
        "id": ids.new("evt"),
        "position_version": event["position_version"] + 1,
        "previous_state": event["new_state"],
        "previous_stage": event["new_stage"],
        "amount_moved": RELEASED,
        "released": event["released"] + RELEASED,
        "held": event["held"] - RELEASED,
        "request_id": ids.new("req"),
        "idempotency_key": ids.new("auto"),
        "fingerprint": secrets.token_bytes(32),
        "occurred_at": now,
        "recorded_at": now,
        "previous_hash": event["hash"],
        "hash": secrets.token_bytes(32),
    }


def _positions(
    institution_id: str, events: Sequence[dict[str, Any]], now: datetime
) -> Iterator[tuple[Any, ...]]:
    """What `rows.UPDATE` is told of each."""
    for event in events:
        balances = (event[name] for name in ("funded", "released", "refunded", "held"))
        yield (
            institution_id,
            event["position_id"],
            *balances,
            event["new_state"],
            event["new_stage"],
            event["position_version"],
            now,
            None,
        )
