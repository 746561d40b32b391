"""The same batch of transitions written straight in SQL: the same rows, indexes and durability, and no server."""

import asyncio
import time
from collections.abc import Sequence

import asyncpg

from app.ledger.store import EVENT_COLUMNS

CONNECTIONS = (1, 8)
LOCK = "SELECT id FROM positions WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"
MOVE = """
UPDATE positions SET released = released + 1, held = held - 1, version = version + 1, updated_at = clock_timestamp()
WHERE institution_id = $2 AND id = ANY($1::text[])
"""
HEAD = "SELECT global_sequence FROM ledger_head FOR UPDATE"
CHAIN = "SELECT sequence FROM institution_heads WHERE institution_id = $1 FOR UPDATE"
# Each event is the one before it of the same position, with what a release of 1.00 makes of it.
CHANGED = {
    "global_sequence": "$3::bigint + n.place",
    "sequence": "$4::bigint + n.place",
    "id": "'evt_' || left(md5(e.id || p.version), 26)",
    "position_version": "p.version",
    "previous_state": "e.new_state",
    "previous_stage": "e.new_stage",
    "amount_moved": "1",
    **{name: f"p.{name}" for name in ("funded", "released", "refunded", "held")},
    "idempotency_key": "gen_random_uuid()::text",
    "occurred_at": "p.updated_at",
    "recorded_at": "p.updated_at",
    "previous_hash": "e.hash",
    "hash": "sha256(e.hash)",
}
INSERT = f"""
INSERT INTO ledger_events ({", ".join(EVENT_COLUMNS)})
SELECT {", ".join(CHANGED.get(name, f"e.{name}") for name in EVENT_COLUMNS)}
FROM unnest($1::text[]) WITH ORDINALITY AS n (id, place)
JOIN positions p ON p.institution_id = $2 AND p.id = n.id
JOIN ledger_events e ON e.position_id = p.id AND e.position_version = p.version - 1
"""
MOVE_HEAD = "UPDATE ledger_head SET global_sequence = $1, recorded_at = clock_timestamp()"
MOVE_CHAIN = "UPDATE institution_heads SET sequence = $2, hash = sha256(hash) WHERE institution_id = $1"


async def _batch(connection: asyncpg.Connection, institution_id: str, ids: Sequence[str]) -> None:
    async with connection.transaction():
        await connection.execute(LOCK, ids)
        await connection.execute(MOVE, ids, institution_id)
        head = await connection.fetchval(HEAD)
        place = await connection.fetchval(CHAIN, institution_id)
        await connection.execute(INSERT, ids, institution_id, head, place)
        await connection.execute(MOVE_HEAD, head + len(ids))
        await connection.execute(MOVE_CHAIN, institution_id, place + len(ids))


async def transitions(url: str, institution_id: str, ids: Sequence[str], size: int, rounds: int) -> float:
    """Transitions a second, by as many connections as are best."""
    return max([await _by(number, url, institution_id, ids, size, rounds) for number in CONNECTIONS])


async def _by(
    connections: int, url: str, institution_id: str, ids: Sequence[str], size: int, rounds: int
) -> float:
    batches = [ids[at : at + size] for at in range(0, len(ids), size)] * rounds
    count = sum(map(len, batches))
    pool = [await asyncpg.connect(url) for _ in range(connections)]

    async def work(connection: asyncpg.Connection) -> None:
        while batches:
            await _batch(connection, institution_id, batches.pop())

    began = time.perf_counter()
    await asyncio.gather(*(work(connection) for connection in pool))
    seconds = time.perf_counter() - began
    for connection in pool:
        await connection.close()
    return count / seconds
