"""The queue of deliveries in the database: what is added, due, claimed and settled.

Of each endpoint and position the earliest pending delivery alone is ready (has a time in `next_attempt_at`);
the others wait behind it, so that their order is kept. Whoever changes which one that is holds the endpoint's
row first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.ledger.model import Event, Kind
from app.positions.model import State
from app.storage.database import Driver, Named
from app.webhooks import statements
from app.webhooks.model import DeliveryState, Outcome, Verdict, Wanted

# Longer than an attempt can take: whoever finds an older claim knows that its owner is gone.
CLAIM = timedelta(seconds=30)
# An attempt that begins later might be under way when its claim ends.
BEGIN = timedelta(seconds=10)

# An endpoint by its institution and id.
Address = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Subscriber:
    """What the follower has to know of an endpoint."""

    institution_id: str
    endpoint_id: str
    wanted: Wanted
    starts_after: int

    def wants(self, event: Event) -> bool:
        """Whether that event is sent to it."""
        mine = event.institution_id == self.institution_id and event.sequence > self.starts_after
        return mine and self.wanted.includes(event)


@dataclass(frozen=True, slots=True)
class Addition:
    """A delivery to be."""

    institution_id: str
    id: str
    endpoint_id: str
    event_id: str
    position_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery whose next attempt is ours to make; `attempts` were made before."""

    id: str
    event_id: str | None
    attempts: int
    step: int
    created_at: datetime
    claimed_until: datetime


@dataclass(frozen=True, slots=True)
class Locked:
    """An endpoint whose queue nobody else changes."""

    address: Address
    url: str
    enabled: bool
    failing_since: datetime | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be sent to an endpoint now: the sealed secrets in force with their ids, the newest first."""

    url: str
    begin_by: datetime
    secrets: tuple[tuple[str, bytes], ...] = ()
    deliveries: tuple[Claimed, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of an attempt, and what follows."""

    delivery: Claimed
    outcome: Outcome
    verdict: Verdict
    attempted_at: datetime
    # Where it went; the endpoint may have another URL by now.
    url: str


async def subscribers(driver: Driver, institution_ids: Sequence[str]) -> list[Subscriber]:
    """The endpoints in use of those institutions, as the feed role; waits for those that begin at this moment.

    An endpoint that is not seen here was not begun when this asked: it begins after every event known by then.
    """
    async with driver.transaction():
        await driver.execute(statements.ENDPOINTS_BEGIN, institution_ids)
    return [_subscriber(row) for row in await driver.fetch(statements.SUBSCRIBED, institution_ids)]


async def lock_subscribers(driver: Driver, institution_ids: Sequence[str]) -> list[Subscriber]:
    """The same under lock, within the caller's transaction as the writer role."""
    return [_subscriber(row) for row in await driver.fetch(statements.LOCK_SUBSCRIBED, institution_ids)]


async def add(driver: Driver, additions: Sequence[Addition], now: datetime) -> None:
    """Add deliveries to endpoints whose rows are locked; those that are there already stay as they are."""
    await driver.execute(statements.ADD_NEW, *_columns(additions), now)
    await _promote(driver, additions, now)


async def add_again(
    driver: Driver, additions: Sequence[Addition], now: datetime, *, undelivered_only: bool
) -> int:
    """The same, but those that are there already begin anew; returns how many are pending now."""
    status = await driver.execute(statements.ADD_AGAIN, *_columns(additions), now, undelivered_only)
    await driver.execute(statements.DEMOTE, *_pairs(additions), now)
    await _promote(driver, additions, now)
    return int(status.rpartition(" ")[2])


async def due(driver: Driver, now: datetime, busy: Sequence[str], follower: str) -> list[Address]:
    """The endpoints, apart from the busy ones, that something is due for, unless the follower is paused."""
    return [
        (row["institution_id"], row["id"]) for row in await driver.fetch(statements.DUE, now, busy, follower)
    ]


async def left_over(driver: Driver) -> list[Address]:
    """Endpoints that are no longer in use and have pending deliveries."""
    return [(row["institution_id"], row["id"]) for row in await driver.fetch(statements.LEFT_OVER)]


async def lock(driver: Driver, address: Address) -> Locked | None:
    """An endpoint, under lock until the transaction ends; None when its row is held by somebody else."""
    row = await driver.fetchrow(statements.LOCK_ENDPOINT, *address)
    return None if row is None else Locked(address, row["url"], row["enabled"], row["failing_since"])


async def take(
    driver: Driver, endpoint: Locked, now: datetime, under_way: Sequence[str], limit: int
) -> Claim:
    """Claim what is due for an endpoint; nothing where it is out of use."""
    if not endpoint.enabled:
        return Claim(endpoint.url, now)
    until = now + CLAIM
    rows = await driver.fetch(statements.TAKE, *endpoint.address, now, until, under_way, limit)
    secrets = await driver.fetch(statements.SECRETS, *endpoint.address, now) if rows else ()
    return Claim(
        endpoint.url,
        now + BEGIN,
        tuple((row["id"], row["sealed"]) for row in secrets),
        tuple(Claimed(**dict(row)) for row in rows),
    )


async def settle(driver: Driver, endpoint: Locked, settled: Sequence[Settled], now: datetime) -> None:
    """Note what came of attempts, and let go what waited behind them."""
    institution_id, endpoint_id = endpoint.address
    rows = await driver.fetch(
        statements.SETTLE,
        institution_id,
        [one.delivery.id for one in settled],
        [one.delivery.attempts for one in settled],
        [one.verdict.state for one in settled],
        [one.verdict.step for one in settled],
        [one.verdict.next_attempt_at for one in settled],
        [one.outcome.status for one in settled],
        [one.outcome.error for one in settled],
        [one.outcome.response for one in settled],
        now,
        [one.attempted_at for one in settled],
        [one.delivery.claimed_until for one in settled],
    )
    positions = [row["position_id"] for row in rows if row["position_id"] is not None]
    pairs = ([institution_id] * len(positions), [endpoint_id] * len(positions), positions)
    if any(one.verdict.state is DeliveryState.PENDING for one in settled):
        await driver.execute(statements.DEMOTE, *pairs, now)
    await driver.execute(statements.PROMOTE, *pairs, now)


async def note_health(
    driver: Driver, endpoint: Locked, settled: Sequence[Settled], now: datetime
) -> datetime | None:
    """Note since when every attempt at an event has failed, and return it; a success of any kind ends that.

    What another URL answered, which the endpoint had before, says nothing about this one.
    """
    told = [one for one in settled if not one.outcome.is_ours and one.url == endpoint.url]
    since = endpoint.failing_since
    if any(one.outcome.is_success for one in told):
        since = None
    elif any(one.delivery.event_id is not None for one in told):
        since = since or now
    if since != endpoint.failing_since:
        await driver.execute(statements.FAILING, *endpoint.address, since)
    return since


async def old(driver: Driver, before: datetime, limit: int) -> list[Address]:
    """Deliveries that were settled before then, by institution and id, as the feed role."""
    return [(row["institution_id"], row["id"]) for row in await driver.fetch(statements.OLD, before, limit)]


async def forget(driver: Driver, deliveries: Sequence[Address], before: datetime) -> None:
    """Remove those deliveries, as far as they are still settled since before then."""
    institutions = sorted({institution_id for institution_id, _id in deliveries})
    await driver.execute(statements.FORGET, institutions, [one for _institution, one in deliveries], before)


async def release(driver: Driver, institution_id: str, claimed: Sequence[Claimed]) -> None:
    """Give claims back, so that others need not wait for their end; an heir's claim is not ours to give."""
    ends = [one.claimed_until for one in claimed]
    await driver.execute(statements.RELEASE, institution_id, [one.id for one in claimed], ends)


async def cancel(driver: Driver, address: Address, now: datetime, limit: int) -> int:
    """Cancel pending deliveries of an endpoint; returns how many, at most `limit`."""
    status = await driver.execute(statements.CANCEL, *address, limit, now)
    return int(status.rpartition(" ")[2])


def kinds_of(names: Sequence[str] | None) -> tuple[Kind, ...] | None:
    """Kinds as a row spells them."""
    return None if names is None else tuple(map(Kind, names))


def states_of(names: Sequence[str] | None) -> tuple[State, ...] | None:
    """States as a row spells them."""
    return None if names is None else tuple(map(State, names))


async def _promote(driver: Driver, additions: Sequence[Addition], now: datetime) -> None:
    await driver.execute(statements.PROMOTE, *_pairs(additions), now)


def _columns(additions: Sequence[Addition]) -> tuple[list[object], ...]:
    names = ("institution_id", "id", "endpoint_id", "event_id", "position_id", "sequence")
    return tuple([getattr(one, name) for one in additions] for name in names)


def _pairs(additions: Sequence[Addition]) -> tuple[list[str], list[str], list[str]]:
    return (
        [one.institution_id for one in additions],
        [one.endpoint_id for one in additions],
        [one.position_id for one in additions],
    )


def _subscriber(row: Named) -> Subscriber:
    wanted = Wanted(kinds_of(row["kinds"]), states_of(row["states"]))
    return Subscriber(row["institution_id"], row["id"], wanted, row["starts_after"])
