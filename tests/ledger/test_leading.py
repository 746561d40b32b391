"""Who follows: one leader, whom an heir's word overrules; and what is an event's fault rather than the database's."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from app.ledger import leases, steering
from app.ledger.followers import LeadLost, Poison, Runner
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.main import Parts
from app.positions.model import State
from app.storage.database import DatabaseRole, take_role
from tests import factories
from tests.conftest import eventually
from tests.factories import Place
from tests.ledger.test_followers import Diary, level, runner, standing

PARKED = "SELECT global_sequence FROM parked_events WHERE follower = 'diary' ORDER BY 1"
LAPSE = "UPDATE leases SET expires_at = clock_timestamp() WHERE name = 'follower:diary'"


async def parked(owner: asyncpg.Connection) -> list[int]:
    return [row["global_sequence"] for row in await owner.fetch(PARKED)]


class Held(Diary):
    """Stays in the middle of an event until it is let go, then refuses it where it is told to."""

    def __init__(self, refuses: bool = False) -> None:
        super().__init__()
        self.refuses = refuses
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def follow(self, events: Sequence[Event], lease: Lease) -> None:
        if len(events) > 1 and self.refuses:
            raise RuntimeError("not the page")
        self.reached.set()
        await self.go_on.wait()
        if self.refuses:
            raise Poison("it is mine alone")
        await super().follow(events, lease)


async def test_a_leader_that_was_succeeded_parks_nothing_that_its_heir_has_done(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    await factories.position(parts.services, place.asset, state=State.RELEASED)
    old, heir = Held(refuses=True), Diary()
    slow, quick = runner(parts, old, "slow"), runner(parts, heir, "quick")
    await slow.start()
    await old.reached.wait()
    await owner.execute(LAPSE)
    await quick.start()
    await eventually(lambda: level(parts))
    old.go_on.set()
    await asyncio.sleep(0.5)
    assert heir.taken == [1, 2, 3]
    assert await parked(owner) == []
    assert (await standing(parts)).leader == "quick"
    await slow.close()
    await quick.close()


async def test_a_leader_that_was_succeeded_settles_nothing(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    await factories.position(parts.services, place.asset)
    diary = Diary()
    diary.poison = {1}
    running = runner(parts, diary)
    await running.start()

    async def is_parked() -> bool:
        return await parked(owner) == [1]

    await eventually(is_parked)
    await running.close()
    old = Held()
    slow = runner(parts, old, "slow")
    await slow.start()
    await owner.execute("UPDATE parked_events SET retry = true")
    await old.reached.wait()
    await owner.execute("UPDATE leases SET token = token + 1, holder = 'heir' WHERE name = 'follower:diary'")
    old.go_on.set()
    await asyncio.sleep(0.3)
    assert old.taken == [1]
    assert await parked(owner) == [1], "the heir tries it, and settles it"
    await slow.close()


async def test_a_leader_that_takes_events_singly_keeps_its_lease_meanwhile(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    await factories.position(parts.services, place.asset, state=State.RELEASED)

    class Slow(Diary):
        async def follow(self, events: Sequence[Event], lease: Lease) -> None:
            if len(events) > 1:
                raise RuntimeError("not the page")
            await asyncio.sleep(0.8)
            await super().follow(events, lease)

    slow, other = Slow(), Diary()
    one, two = runner(parts, slow, "one"), runner(parts, other, "two")
    await one.start()
    await asyncio.sleep(0.1)
    await two.start()
    await eventually(lambda: level(parts))
    await one.close()
    await two.close()
    assert (slow.taken, other.taken) == ([1, 2, 3], []), "each took longer than two thirds of the lease"


async def test_work_that_outlasts_the_lease_counts_where_nobody_led_meanwhile(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    await factories.position(parts.services, place.asset, state=State.FUNDED)
    held = Held()
    running = runner(parts, held)
    await running.start()
    await held.reached.wait()
    await owner.execute(LAPSE)
    held.go_on.set()
    await eventually(lambda: level(parts))
    assert held.taken == [1, 2]
    await running.close()


async def test_a_cursor_that_a_newer_leader_wrote_is_not_moved_by_an_older_one(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    """The token on the cursor itself counts, too."""
    await factories.position(parts.services, place.asset)
    held = Held()
    running = runner(parts, held)
    await running.start()
    await held.reached.wait()
    await owner.execute("UPDATE followers SET token = 99 WHERE name = 'diary'")
    held.go_on.set()
    await asyncio.sleep(0.5)
    assert (await standing(parts)).cursor == 0
    await running.close()


async def test_a_reset_to_where_a_page_began_is_not_undone_by_the_end_of_that_page(
    parts: Parts, place: Place
) -> None:
    await factories.position(parts.services, place.asset, state=State.FUNDED)
    held = Held()
    running = runner(parts, held)
    await running.start()
    await held.reached.wait()
    async with parts.services.database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        await steering.reset(driver, "diary", 0)
    held.go_on.set()
    await eventually(lambda: level(parts))
    await running.close()
    assert held.taken == [1, 2, 1, 2]


async def test_a_lease_that_ran_out_is_another_one_also_for_who_held_it(
    parts: Parts, owner: asyncpg.Connection
) -> None:
    database = parts.services.database
    first = await leases.take(database, "a lease", "one", 60)
    assert first == Lease("a lease", 1)
    assert await leases.take(database, "a lease", "one", 60) == first, "it was renewed"
    assert await leases.take(database, "a lease", "two", 60) is None
    await owner.execute("UPDATE leases SET expires_at = clock_timestamp() WHERE name = 'a lease'")
    assert await leases.take(database, "a lease", "one", 60) == Lease("a lease", 2)
    assert not await leases.renew(database, first, 60)


@pytest.mark.parametrize("look", [leases.holds, leases.unbroken])
async def test_nobody_takes_a_lease_while_a_transaction_relies_on_it(parts: Parts, look) -> None:
    database = parts.services.database
    lease = await leases.take(database, "a lease", "one", 0.3)
    assert lease is not None
    async with database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        assert await look(driver, lease)
        heir = asyncio.create_task(leases.take(database, "a lease", "two", 60))
        await asyncio.sleep(0.6)
        assert not heir.done(), "it waits for the end of the transaction"
    assert await heir == Lease("a lease", 2)
    async with database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        assert not await look(driver, lease)


TROUBLES = [
    asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
    asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"),
    asyncpg.LockNotAvailableError("canceling statement due to lock timeout"),
    asyncpg.DeadlockDetectedError("deadlock detected"),
    asyncpg.SerializationError("could not serialize access"),
    asyncpg.DiskFullError("no space left on device"),
    asyncpg.AdminShutdownError("terminating connection"),
    asyncpg.InsufficientPrivilegeError("permission denied"),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda error: type(error).__name__)
async def test_trouble_of_the_database_is_waited_out_told_and_never_an_events_fault(
    parts: Parts, place: Place, owner: asyncpg.Connection, trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ledger.followers.PAUSE_SECONDS", 0.005)
    monkeypatch.setattr("app.ledger.followers.PAUSE_SECONDS_MAX", 0.01)
    await factories.position(parts.services, place.asset, state=State.FUNDED)

    class Weak(Diary):
        tries = 0

        async def follow(self, events: Sequence[Event], lease: Lease) -> None:
            self.tries += 1
            if self.tries <= 15:
                raise trouble
            await super().follow(events, lease)

    weak = Weak()
    running = runner(parts, weak)
    await running.start()

    async def told() -> bool:
        failure = (await standing(parts)).failure
        return failure is not None and failure.startswith(type(trouble).__name__)

    await eventually(told)
    await eventually(lambda: level(parts))
    await running.close()
    assert weak.taken == [1, 2]
    assert await parked(owner) == []
    assert (await standing(parts)).failure is None


FAULTS = [
    asyncpg.NumericValueOutOfRangeError("numeric field overflow"),
    asyncpg.CheckViolationError("violates a check constraint"),
    ValueError("not what this follower can read"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda error: type(error).__name__)
async def test_what_the_database_refuses_of_an_event_is_parked_after_its_tries(
    parts: Parts, place: Place, owner: asyncpg.Connection, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ledger.followers.PAUSE_SECONDS", 0.005)
    await factories.position(parts.services, place.asset, state=State.RELEASED)

    class Picky(Diary):
        async def follow(self, events: Sequence[Event], lease: Lease) -> None:
            if any(event.global_sequence == 2 for event in events):
                raise fault
            await super().follow(events, lease)

    picky = Picky()
    running = runner(parts, picky)
    await running.start()
    await eventually(lambda: level(parts))
    await running.close()
    assert picky.taken == [1, 3]
    assert await parked(owner) == [2]


async def test_a_database_that_is_read_only_for_a_while_costs_a_follower_nothing_but_time(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    """Real refusals, also of the leases and the notes of failure."""
    diary = Diary()
    running = runner(parts, diary)
    await running.start()
    await eventually(lambda: level(parts))
    await factories.position(parts.services, place.asset)
    await eventually(lambda: level(parts))
    name = await owner.fetchval("SELECT current_database()")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
    await owner.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await owner.execute(end, name)
    await asyncio.sleep(1.5)
    assert running._task is not None
    assert not running._task.done()
    await owner.execute("SET default_transaction_read_only = off")
    await owner.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = off')
    await owner.execute(end, name)
    await factories.position(parts.services, place.asset)
    await eventually(lambda: level(parts))
    await running.close()
    assert diary.taken == [1, 2]
    assert await parked(owner) == []


async def test_a_failure_is_noted_by_the_leader_alone(parts: Parts, owner: asyncpg.Connection) -> None:
    running: Runner = runner(parts, Diary())
    await running.start()
    await eventually(lambda: level(parts))
    running._lease = Lease("follower:diary", 0)
    await running._note_failure("an old leader's")
    assert (await standing(parts)).failure is None
    with pytest.raises(LeadLost):
        async with running._leading(Lease("follower:diary", 0)):
            pass
    await running.close()
