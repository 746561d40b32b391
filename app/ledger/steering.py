"""What an operator does with followers: see where they stand, move their cursor, pause, try parked events again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.errors import Invalid, NotFound
from app.storage.database import Driver

STANDINGS = """
SELECT f.name, f.cursor, h.global_sequence AS head, f.paused, f.failure, f.updated_at,
       (SELECT count(*) FROM parked_events p WHERE p.follower = f.name) AS parked,
       (SELECT l.holder FROM leases l WHERE l.name = 'follower:' || f.name AND l.expires_at > clock_timestamp())
         AS leader
FROM followers f CROSS JOIN ledger_head h ORDER BY f.name
"""
PARKED = """
SELECT follower, global_sequence, reason, attempts, parked_at FROM parked_events
WHERE follower = $1 ORDER BY global_sequence LIMIT 1000
"""
# Whoever leads now loses the lead, so that what it acknowledges meanwhile does not undo the reset.
DETHRONE = """
UPDATE leases SET token = token + 1, expires_at = clock_timestamp() WHERE name = 'follower:' || $1 RETURNING token
"""
RESET = """
UPDATE followers SET cursor = $2, token = coalesce($3, token), failure = NULL, updated_at = clock_timestamp()
WHERE name = $1
"""
PAUSE = "UPDATE followers SET paused = $2, updated_at = clock_timestamp() WHERE name = $1"
UNPARK = "UPDATE parked_events SET retry = true WHERE follower = $1 AND ($2::bigint IS NULL OR global_sequence = $2)"
HEAD = "SELECT global_sequence FROM ledger_head"
# Of a ledger that nobody signed yet, since its first event.
UNSIGNED = """
SELECT h.global_sequence - coalesce(c.size, 0) AS events,
       extract(epoch FROM clock_timestamp() - coalesce(c.signed_at, first.recorded_at))::float8 AS age_seconds
FROM ledger_head h
LEFT JOIN LATERAL (SELECT size, signed_at FROM checkpoints ORDER BY size DESC LIMIT 1) c ON true
LEFT JOIN LATERAL (SELECT recorded_at FROM ledger_events ORDER BY global_sequence LIMIT 1) first ON true
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a follower stands; `leader` is the process that leads it, None when nobody does."""

    name: str
    cursor: int
    head: int
    paused: bool
    parked: int
    failure: str | None
    leader: str | None
    updated_at: datetime

    @property
    def lag(self) -> int:
        """How many events it is behind."""
        return self.head - self.cursor


@dataclass(frozen=True, slots=True)
class Unsigned:
    """How many events no checkpoint covers, and how long ago the newest one was signed."""

    events: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that was set aside."""

    follower: str
    global_sequence: int
    reason: str
    attempts: int
    parked_at: datetime


async def standings(driver: Driver) -> Sequence[Standing]:
    """Every follower, as the feed role."""
    return [Standing(**dict(row)) for row in await driver.fetch(STANDINGS)]


async def head(driver: Driver) -> int:
    """The last global sequence."""
    return int(await driver.fetchval(HEAD))


async def unsigned(driver: Driver) -> Unsigned:
    """What no checkpoint covers, as the feed role."""
    row = await driver.fetchrow(UNSIGNED)
    assert row is not None, "a ledger has a head"
    return Unsigned(max(row["events"], 0), max(row["age_seconds"] or 0.0, 0.0))


async def parked(driver: Driver, name: str) -> Sequence[Parked]:
    """What a follower set aside, as the feed role; the first thousand."""
    return [Parked(**dict(row)) for row in await driver.fetch(PARKED, name)]


async def reset(driver: Driver, name: str, cursor: int) -> None:
    """Have a follower go on after `cursor`, within the caller's transaction as the writer role."""
    most = await head(driver)
    if not 0 <= cursor <= most:
        raise Invalid(f"the cursor is between 0 and the head, {most}", "cursor")
    token = await driver.fetchval(DETHRONE, name)
    _require(await driver.execute(RESET, name, cursor, token), name)


async def pause(driver: Driver, name: str, *, paused: bool) -> None:
    """Stop a follower at its next page, or let it go on."""
    _require(await driver.execute(PAUSE, name, paused), name)


async def unpark(driver: Driver, name: str, global_sequence: int | None) -> int:
    """Ask for another try of one parked event, or of all; returns how many."""
    status = await driver.execute(UNPARK, name, global_sequence)
    return int(status.rpartition(" ")[2])


def _require(status: str, name: str) -> None:
    if status == "UPDATE 0":
        raise NotFound(f"follower: {name}")
