"""Takes events from one database to another: as they are, to the very places they have, or not at all."""

import asyncio
from collections.abc import Mapping, Sequence

from app.ledger import spelling
from app.ledger.append import APPEND, LOCK_CHAINS, columns
from app.ledger.model import HASH_VERSION, KIND_VERSION, Event
from app.ledger.store import SELECT_EVENTS, event_of
from app.storage.database import Driver

READ = f"{SELECT_EVENTS} WHERE global_sequence > $1 ORDER BY global_sequence LIMIT $2"
HASHES = "SELECT global_sequence, hash FROM ledger_events WHERE global_sequence = ANY($1::bigint[])"
HEAD = "SELECT global_sequence FROM ledger_head"
# How many events are hashed before others get their turn.
TURN = 50

Chains = dict[str, tuple[int, bytes]]


class Unsound(Exception):
    """An event does not continue the ledger that it is brought to; the message says which and why."""


async def read(connection: Driver, after: int, limit: int) -> Sequence[Event]:
    """The next events in global order, as the feed role; raises `Unsound` for a row that is no event."""
    rows = await connection.fetch(READ, after, limit)
    events = []
    for row in rows:
        try:
            events.append(event_of(row))
        except (ValueError, KeyError, TypeError, IndexError, ArithmeticError):
            number = row["global_sequence"]
            raise Unsound(f"event {number} cannot be read as an event: a column was changed") from None
    return events


async def hashes(connection: Driver, numbers: Sequence[int]) -> Mapping[int, bytes]:
    """The hashes of events by their global sequence; those that are not there are left out."""
    rows = await connection.fetch(HASHES, list(numbers))
    return {row["global_sequence"]: row["hash"] for row in rows}


async def adopt(connection: Driver, events: Sequence[Event]) -> None:
    """Append events that another database sealed. The caller's transaction holds the head, as the writer role.

    Raises `Unsound` unless every one of them is the next in its place, hangs on the one before it and is what its
    hash seals.
    """
    institutions = sorted({event.institution_id for event in events})
    rows = await connection.fetch(LOCK_CHAINS, institutions)
    chains: Chains = {row["institution_id"]: (row["sequence"], row["hash"]) for row in rows}
    number = await connection.fetchval(HEAD)
    for count, event in enumerate(events, start=1):
        if event.global_sequence != number + count:
            raise Unsound(f"event {event.global_sequence} follows {number + count - 1}: there is a gap")
        trouble = _trouble(event, chains)
        if trouble is not None:
            raise Unsound(f"event {event.global_sequence} ({event.id}): {trouble}")
        chains[event.institution_id] = (event.sequence, event.hash)
        if count % TURN == 0:
            await asyncio.sleep(0)
    last = events[-1]
    await connection.execute(
        APPEND,
        *columns(events),
        last.global_sequence,
        last.recorded_at,
        institutions,
        [chains[name][0] for name in institutions],
        [chains[name][1] for name in institutions],
    )


def _trouble(event: Event, chains: Chains) -> str | None:
    """Why the event is not the next of its institution, or not the one that was sealed; None when all is well."""
    known = chains.get(event.institution_id)
    if known is None:
        return "its institution has no chain here"
    sequence, last = known
    if event.sequence != sequence + 1:
        return f"its sequence {event.sequence} does not follow {sequence}"
    if event.previous_hash != last:
        return "its previous hash is not the hash of the event before it"
    if (event.hash_version, event.kind_version) != (HASH_VERSION, KIND_VERSION):
        return "its versions are not known"
    return None if _is_sealed(event) else "its hash does not seal its contents: a column was changed"


def _is_sealed(event: Event) -> bool:
    try:
        return spelling.event_hash(event.previous_hash, spelling.spelling(event)) == event.hash
    except (ValueError, KeyError, ArithmeticError, AssertionError):
        # Contents that cannot even be spelled were not written by a writer.
        return False
