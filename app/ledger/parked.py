"""Events that a follower could not take, set aside with the reason so that the others go on."""

from collections.abc import Sequence

from app.ledger.model import Event
from app.ledger.store import SELECT_EVENTS, event_of
from app.storage.database import Driver

RETRIED_MAX = 100
REASON_LENGTH_MAX = 1_000

PARK = """
INSERT INTO parked_events (follower, global_sequence, reason, attempts, parked_at)
VALUES ($1, $2, $3, $4, clock_timestamp())
ON CONFLICT (follower, global_sequence) DO UPDATE
SET reason = excluded.reason, attempts = parked_events.attempts + excluded.attempts, retry = false
"""
RETRIED = f"""
{SELECT_EVENTS} WHERE global_sequence IN (SELECT global_sequence FROM parked_events WHERE follower = $1 AND retry)
ORDER BY global_sequence LIMIT {RETRIED_MAX}
"""
SETTLED = "DELETE FROM parked_events WHERE follower = $1 AND global_sequence = $2"
FORGET_BEYOND = """
DELETE FROM parked_events p USING followers f
WHERE p.follower = $1 AND f.name = $1 AND p.global_sequence > f.cursor
"""


async def park(driver: Driver, follower: str, global_sequence: int, reason: str, attempts: int) -> None:
    """Set an event aside, or note that it could not be taken once more."""
    await driver.execute(PARK, follower, global_sequence, reason[:REASON_LENGTH_MAX], attempts)


async def retried(driver: Driver, follower: str) -> Sequence[Event]:
    """What an operator wants tried again, as the feed role; the first hundred."""
    return [event_of(row) for row in await driver.fetch(RETRIED, follower)]


async def settle(driver: Driver, follower: str, global_sequence: int) -> None:
    """It was taken after all."""
    await driver.execute(SETTLED, follower, global_sequence)


async def forget_beyond(driver: Driver, follower: str) -> int:
    """Forget what was set aside beyond the follower's cursor; returns how many.

    What is there comes again, or it was of a history that was given up: its number belongs to another event now.
    """
    status = await driver.execute(FORGET_BEYOND, follower)
    return int(status.rpartition(" ")[2])
