"""Followers take every event at least once, in order, under one leader, and set aside what they cannot take."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from app.errors import Invalid, NotFound
from app.ledger import steering
from app.ledger.checkpoints import Checkpoint, Checkpointer, read_all
from app.ledger.followers import Follower, Poison, Runner
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.ledger.signer import Signer, signer_from
from app.main import Parts
from app.positions.model import State
from app.storage.database import DatabaseRole, take_role
from app.verify.walk import verify
from tests import factories
from tests.conftest import eventually


class Diary(Follower):
    """Writes down what it took; refuses what it is told to."""

    def __init__(self, name: str = "diary") -> None:
        self.name = name
        self.taken: list[int] = []
        self.poison: set[int] = set()
        self.stumbles = 0

    async def follow(self, events: Sequence[Event], lease: Lease) -> None:
        for event in events:
            if event.global_sequence in self.poison:
                raise Poison("this one is poisonous")
            if self.stumbles:
                self.stumbles -= 1
                raise RuntimeError("not now")
        self.taken += [event.global_sequence for event in events]


def runner(parts: Parts, follower: Follower, holder: str = "a") -> Runner:
    services = parts.services
    settings = services.settings.model_copy(update={"lease_seconds": 1.2, "tick_seconds": 0.05})
    return Runner(services.database, services.tail, settings, follower, holder)


async def standing(parts: Parts, name: str = "diary") -> steering.Standing:
    async with parts.services.database.pool(DatabaseRole.FEED).acquire() as driver:
        return next(one for one in await steering.standings(driver) if one.name == name)


async def level(parts: Parts, name: str = "diary") -> bool:
    return (await standing(parts, name)).lag == 0


async def test_a_follower_takes_what_was_and_what_comes_in_order(parts: Parts) -> None:
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.RELEASED)
    diary = Diary()
    running = runner(parts, diary)
    await running.start()
    await eventually(lambda: level(parts))
    await factories.position(parts.services, place.asset, state=State.FUNDED)
    await eventually(lambda: level(parts))
    await running.close()
    assert diary.taken == [1, 2, 3, 4, 5]


async def test_a_passing_failure_is_tried_again_and_nothing_is_left_out(parts: Parts) -> None:
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.RELEASED)
    diary = Diary()
    diary.stumbles = 3
    running = runner(parts, diary)
    await running.start()
    await eventually(lambda: level(parts))
    await running.close()
    assert sorted(set(diary.taken)) == [1, 2, 3]


async def test_a_poisonous_event_is_parked_with_its_reason_and_the_others_go_on(parts: Parts) -> None:
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.RELEASED)
    diary = Diary()
    diary.poison = {2}
    running = runner(parts, diary)
    await running.start()
    await eventually(lambda: level(parts))
    assert diary.taken == [1, 3]
    assert (await standing(parts)).parked == 1
    async with parts.services.database.pool(DatabaseRole.FEED).acquire() as driver:
        (parked,) = await steering.parked(driver, "diary")
    assert (parked.global_sequence, parked.reason) == (2, "Poison: this one is poisonous")

    diary.poison = set()
    async with parts.services.database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        assert await steering.unpark(driver, "diary", None) == 1
    parts.services.tail.wake()

    async def settled() -> bool:
        return (await standing(parts)).parked == 0

    await eventually(settled)
    await running.close()
    assert diary.taken == [1, 3, 2]


async def test_only_one_of_two_leads_and_the_other_takes_over_where_it_stopped(parts: Parts) -> None:
    place = await factories.place(parts.services)
    first, second = Diary(), Diary()
    one, two = runner(parts, first, "one"), runner(parts, second, "two")
    await one.start()
    await factories.position(parts.services, place.asset, state=State.FUNDED)
    await eventually(lambda: level(parts))
    await two.start()
    await asyncio.sleep(0.3)
    assert (await standing(parts)).leader == "one"
    assert not second.taken
    await one.close()
    await factories.position(parts.services, place.asset)

    async def taken_over() -> bool:
        return second.taken == [3]

    await eventually(taken_over)
    await two.close()
    assert first.taken == [1, 2]


async def test_a_leader_that_slept_past_its_lease_cannot_acknowledge(
    parts: Parts, owner: asyncpg.Connection
) -> None:
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.FUNDED)
    woken = asyncio.Event()

    class Sleeper(Diary):
        async def follow(self, events: Sequence[Event], lease: Lease) -> None:
            await super().follow(events, lease)
            await woken.wait()

    sleeper, heir = Sleeper(), Diary()
    slow = runner(parts, sleeper, "slow")
    await slow.start()

    async def asleep() -> bool:
        return bool(sleeper.taken)

    await eventually(asleep)
    await owner.execute("UPDATE leases SET expires_at = clock_timestamp() WHERE name = 'follower:diary'")
    quick = runner(parts, heir, "quick")
    await quick.start()
    await eventually(lambda: level(parts))
    woken.set()
    await asyncio.sleep(0.3)
    assert (await standing(parts)).leader == "quick"
    assert heir.taken == [1, 2]
    await slow.close()
    await quick.close()


async def test_a_page_that_was_read_while_an_epoch_began_is_not_taken(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.FUNDED)
    tail, lost = parts.services.tail, []
    page = tail.page

    async def crossing(scope: str, after: int) -> Sequence[Event]:
        events = await page(scope, after)
        if not lost and asyncio.current_task().get_name() == "follower-diary":  # type: ignore[union-attr]
            lost.append(99)
            tail._epochs = replace(tail.epochs)
            return [replace(events[0], global_sequence=99)]
        return events

    monkeypatch.setattr(tail, "page", crossing)
    diary = Diary()
    led = runner(parts, diary)
    await led.start()
    await eventually(lambda: level(parts))
    assert lost
    assert diary.taken == [1, 2], "of the history that goes on, nothing of the other"
    await led.close()


async def test_a_reset_sends_a_leading_follower_back_and_it_goes_on_from_there(parts: Parts) -> None:
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.RELEASED)
    diary = Diary()
    running = runner(parts, diary)
    await running.start()
    await eventually(lambda: level(parts))
    async with parts.services.database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        await steering.reset(driver, "diary", 1)

    async def again() -> bool:
        return diary.taken == [1, 2, 3, 2, 3]

    await eventually(again)
    await running.close()


async def test_a_paused_follower_stands_still_until_it_is_let_go_on(parts: Parts) -> None:
    place = await factories.place(parts.services)
    diary = Diary()
    running = runner(parts, diary)
    await running.start()
    await eventually(lambda: level(parts))
    await _pause(parts, paused=True)
    await asyncio.sleep(0.6)
    await factories.position(parts.services, place.asset)
    await asyncio.sleep(0.6)
    assert not diary.taken
    await _pause(parts, paused=False)
    await eventually(lambda: level(parts))
    await running.close()
    assert diary.taken == [1]


async def _pause(parts: Parts, *, paused: bool) -> None:
    async with parts.services.database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        await steering.pause(driver, "diary", paused=paused)


async def test_a_follower_that_is_not_there_and_a_cursor_beyond_the_head_are_refused(parts: Parts) -> None:
    async with parts.services.database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        with pytest.raises(NotFound):
            await steering.reset(driver, "nobody", 0)
        with pytest.raises(Invalid):
            await steering.reset(driver, "checkpoints", 1)


async def test_the_head_is_signed_when_the_server_stops_and_what_it_covers_verifies(
    parts: Parts, owner_url: str, tmp_path: Path
) -> None:
    services, signer = parts.services, Signer(bytes(32))
    place = await factories.place(services)
    await factories.position(services, place.asset, state=State.RELEASED)
    checkpointer = Checkpointer(services.database, signer, services.clock, every_seconds=3600)
    running = runner(parts, checkpointer)
    checkpointer.name = "checkpoints of this test"
    await running.start()
    await eventually(lambda: level(parts, checkpointer.name))
    await factories.position(services, place.asset, state=State.FUNDED)
    await running.close()
    async with services.database.pool(DatabaseRole.FEED).acquire() as driver:
        newest = (await read_all(driver))[-1]
    assert newest.size == 5
    assert newest.is_signed_by(signer.public_key)
    assert not newest.is_signed_by(Signer(bytes([1] * 32)).public_key)
    assert Checkpoint.from_json(newest.to_json()) == newest
    report = await verify(owner_url, services.lifecycles, kept=[newest])
    assert report.is_clean, report.findings


def test_a_checkpoint_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    made = signer_from(None, tmp_path / "new")
    assert signer_from(None, tmp_path / "new").public_key == made.public_key
    assert (tmp_path / "new" / "checkpoint.key").stat().st_mode & 0o777 == 0o600
    seed = (tmp_path / "new" / "checkpoint.key").read_text().strip()
    assert seed not in repr(made)


async def test_what_was_parked_beyond_the_cursor_is_forgotten_when_a_lead_starts(
    parts: Parts, owner: asyncpg.Connection
) -> None:
    """As after a restore: the numbers beyond belong to other events now, those behind are parked still."""
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.RELEASED)
    diary = Diary()
    diary.poison = {1, 3}
    running = runner(parts, diary)
    await running.start()
    await eventually(lambda: level(parts))
    await running.close()
    assert (await standing(parts)).parked == 2
    # Restored to between the parking of 3 and its acknowledgement, and 5 was parked in the history that is lost.
    await owner.execute("UPDATE followers SET cursor = 2 WHERE name = 'diary'")
    await owner.execute(
        "INSERT INTO parked_events VALUES ('diary', 5, 'Poison: of another history', 5, now(), true)"
    )
    diary.poison, diary.taken = set(), []
    again = runner(parts, diary, "b")
    await again.start()
    await factories.position(parts.services, place.asset, state=State.FUNDED)
    await eventually(lambda: level(parts))
    await asyncio.sleep(0.2)
    await again.close()
    assert diary.taken == [3, 4, 5], "each once, in order"
    async with parts.services.database.pool(DatabaseRole.FEED).acquire() as driver:
        assert [one.global_sequence for one in await steering.parked(driver, "diary")] == [1]


async def test_a_file_that_fails_is_not_the_databases_fault_and_parks_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset)
    diary, tries = Diary(), 0
    take = diary.follow

    async def follow(events: Sequence[Event], lease: Lease) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise FileNotFoundError("the folder is gone")
        await take(events, lease)

    monkeypatch.setattr(diary, "follow", follow)
    running = runner(parts, diary)
    await running.start()
    await eventually(lambda: level(parts))
    await running.close()
    assert diary.taken == [1]
    assert (await standing(parts)).parked == 0
    assert "follower diary failed; it tries again" in caplog.text
    assert "waits for the database" not in caplog.text
