"""The tail: every event of a scope, once, in order, from whichever cursor, whatever breaks meanwhile."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import asyncpg
import pytest

from app.context import Services
from app.errors import CursorInvalid, Unavailable
from app.ledger.model import Event
from app.ledger.ring import Ring, weight
from app.ledger.ring import place as number_of
from app.main import Parts
from app.positions.model import State
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from tests import factories
from tests.conftest import eventually
from tests.factories import Place
from tests.ledger.conftest import Ledger
from tests.ledger.test_spelling import CREATED


async def follow(services: Services, scope: str, after: int, upto: int) -> list[int]:
    """The numbers that a subscriber is told from `after` on, until it has heard of `upto`."""
    heard: list[int] = []
    async with aclosing(services.tail.stream(scope, after)) as pages:
        while not heard or heard[-1] < upto:
            events = await asyncio.wait_for(anext(pages), timeout=10)
            heard += [number_of(scope, event) for event in events]
    return heard


async def write(services: Services, where: Place, count: int, chance: random.Random) -> None:
    """Some creations, with pauses between them."""
    for _ in range(count):
        await services.writer.submit(await factories.opening(services, where.asset))
        await asyncio.sleep(chance.uniform(0, 0.01))


async def test_readers_that_join_anywhere_while_writers_write_miss_and_repeat_nothing(
    services: Services, second: Services, place: Place, elsewhere: Place, ledger: Ledger
) -> None:
    """Sixteen writers in two processes; forty readers of the first, at cursors before and behind the end."""
    chance = random.Random(5)
    for where in (place, elsewhere):
        await asyncio.gather(*(write(services, where, 5, chance) for _ in range(4)))
    writers = [
        asyncio.create_task(write(server, where, 10, chance))
        for server in (services, second)
        for where in (place, elsewhere)
        for _ in range(4)
    ]
    scopes = {ALL_INSTITUTIONS: 200, place.institution.id: 100, elsewhere.institution.id: 100}
    readers = []
    for _ in range(40):
        scope = chance.choice(list(scopes))
        after = chance.randint(0, await services.tail.head(scope))
        readers.append((scope, after, asyncio.create_task(follow(services, scope, after, scopes[scope]))))
        await asyncio.sleep(0.002)
    await asyncio.gather(*writers)
    for scope, after, reader in readers:
        assert await reader == list(range(after + 1, scopes[scope] + 1))
    assert [event.global_sequence for event in await ledger()] == list(range(1, 201))


async def test_a_stream_goes_on_from_every_cursor(services: Services, place: Place, ledger: Ledger) -> None:
    await factories.position(services, place.asset, state=State.PARTIALLY_RELEASED)
    await factories.position(services, place.asset, state=State.RELEASED)
    events = await ledger()
    for scope in (ALL_INSTITUTIONS, place.institution.id):
        for event in [None, *events[:-1]]:
            after = 0 if event is None else number_of(scope, event)
            cursor = services.tail.epochs.cursor(scope, after)
            assert await services.tail.place(scope, cursor) == after
            heard = await follow(services, scope, after, len(events))
            assert heard == list(range(after + 1, len(events) + 1))


async def test_without_a_cursor_a_stream_begins_at_the_end(services: Services, place: Place) -> None:
    await factories.position(services, place.asset, state=State.FUNDED)
    for scope in (ALL_INSTITUTIONS, place.institution.id):
        assert await services.tail.place(scope, None) == 2


async def test_a_stream_of_one_institution_holds_nothing_of_another(
    services: Services, place: Place, elsewhere: Place
) -> None:
    for where in (place, elsewhere, place, elsewhere, place):
        await factories.position(services, where.asset)
    async with aclosing(services.tail.stream(elsewhere.institution.id, 0)) as pages:
        events = await anext(pages)
    assert [event.institution_id for event in events] == [elsewhere.institution.id] * 2


async def test_an_institution_without_events_is_waited_for(services: Services, place: Place) -> None:
    async with aclosing(services.tail.stream(place.institution.id, 0)) as pages:
        waiting = asyncio.ensure_future(anext(pages))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        made = await factories.position(services, place.asset)
        (event,) = await waiting
    assert event.position_id == made.id


async def test_an_idle_stream_tells_so_and_goes_on(services: Services, place: Place) -> None:
    async with aclosing(services.tail.stream(place.institution.id, 0, idle_seconds=0.05)) as pages:
        assert await anext(pages) == ()
        assert await anext(pages) == ()
        await factories.position(services, place.asset)
        assert [event.sequence for event in await anext(pages)] == [1]
        assert await anext(pages) == ()


class TestWithASmallRing:
    """Memory for some twenty events, pages of ten."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"ring_bytes_max": 65_536, "tail_page_size": 10})

    async def test_a_slow_subscriber_reads_the_database_and_misses_nothing(
        self, services: Services, place: Place
    ) -> None:
        scopes = (ALL_INSTITUTIONS, place.institution.id)
        streams = [services.tail.stream(scope, 0) for scope in scopes]
        await services.writer.submit(await factories.opening(services, place.asset))
        heard = [
            [number_of(s, e) for e in await anext(stream)] for s, stream in zip(scopes, streams, strict=True)
        ]
        assert heard == [[1], [1]]
        for _ in range(10):
            await asyncio.gather(
                *[services.writer.submit(await factories.opening(services, place.asset)) for _ in range(10)]
            )
        assert services.tail.ring_bytes <= 65_536
        for scope, stream, numbers in zip(scopes, streams, heard, strict=True):
            while numbers[-1] < 101:
                numbers += [number_of(scope, event) for event in await anext(stream)]
            assert numbers == list(range(1, 102))
            await stream.aclose()

    async def test_a_crowd_that_comes_back_misses_nothing(self, services: Services, place: Place) -> None:
        """A hundred subscribers at once, on two connections."""
        for _ in range(8):
            await asyncio.gather(
                *[services.writer.submit(await factories.opening(services, place.asset)) for _ in range(10)]
            )
        chance = random.Random(3)
        starts = [chance.choice([0, 0, 0, chance.randint(0, 79)]) for _ in range(100)]
        heard = await asyncio.gather(*(follow(services, place.institution.id, after, 80) for after in starts))
        assert heard == [list(range(after + 1, 81)) for after in starts]


class TestWithoutATick:
    """Only the bell wakes the tail."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"tick_seconds": 3600.0})

    async def test_what_another_process_writes_is_heard(
        self, services: Services, second: Services, place: Place
    ) -> None:
        waiting = asyncio.create_task(follow(services, ALL_INSTITUTIONS, 0, 1))
        await second.writer.submit(await factories.opening(second, place.asset))
        assert await asyncio.wait_for(waiting, timeout=3) == [1]

    async def test_no_ring_is_lost_where_several_processes_ring_at_once(
        self, services: Services, second: Services, place: Place
    ) -> None:
        for _ in range(60):
            commands = [
                (server, await factories.opening(server, place.asset)) for server in (services, second)
            ]
            await asyncio.gather(*(server.writer.submit(command) for server, command in commands))
            head = await services.tail.head(ALL_INSTITUTIONS)
            async with asyncio.timeout(2):
                for server in (services, second):
                    await server.tail.wait(ALL_INSTITUTIONS, head - 1)

    async def test_killed_listeners_are_made_anew_and_events_still_arrive(
        self, services: Services, second: Services, place: Place, owner: asyncpg.Connection
    ) -> None:
        async def two() -> bool:
            return len(await listeners(owner)) == 2

        for number in range(1, 4):
            await eventually(two)
            before = await listeners(owner)
            waiting = asyncio.create_task(follow(services, ALL_INSTITUTIONS, number - 1, number))
            await kill(owner, before)
            await second.writer.submit(await factories.opening(second, place.asset))
            assert await asyncio.wait_for(waiting, timeout=5) == [number]
            await eventually(two)
            assert not before & await listeners(owner)

    async def test_events_written_while_everything_of_the_bell_is_killed_arrive(
        self, services: Services, second: Services, place: Place, owner: asyncpg.Connection
    ) -> None:
        waiting = asyncio.create_task(follow(services, place.institution.id, 0, 30))
        for _ in range(30):
            await kill(owner, await listeners(owner) | await listeners(owner, "SELECT pg_notify%"))
            await second.writer.submit(await factories.opening(second, place.asset))
        assert await asyncio.wait_for(waiting, timeout=5) == list(range(1, 31))


async def listeners(owner: asyncpg.Connection, *queries: str) -> set[int]:
    """The backends of bells, known by what they were asked last."""
    rows = await owner.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE ANY($1::text[])",
        queries or ("LISTEN%", "SELECT 1"),
    )
    return {row["pid"] for row in rows}


async def kill(owner: asyncpg.Connection, pids: set[int]) -> None:
    await owner.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS n (pid)", list(pids))


class TestWithTheTickAlone:
    """Without any bell the tick finds what is new."""

    async def test_a_lost_bell_costs_time_and_no_event(
        self, parts: Parts, second: Services, place: Place
    ) -> None:
        await parts.bell.close()
        waiting = asyncio.create_task(follow(parts.services, ALL_INSTITUTIONS, 0, 1))
        await second.writer.submit(await factories.opening(second, place.asset))
        assert await asyncio.wait_for(waiting, timeout=3) == [1]


async def test_streams_end_with_a_word_when_the_server_shuts_down(services: Services, place: Place) -> None:
    async with aclosing(services.tail.stream(place.institution.id, 0)) as pages:
        waiting = asyncio.ensure_future(anext(pages))
        await asyncio.sleep(0.02)
        await services.tail.close()
        with pytest.raises(Unavailable, match="go on from your last cursor"):
            await waiting


async def test_a_gap_stops_the_tail_loudly(
    parts: Parts, place: Place, owner: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Going on would skip for ever what may lie in it."""
    services = parts.services
    await factories.position(services, place.asset)
    async with aclosing(services.tail.stream(place.institution.id, 1)) as pages:
        waiting = asyncio.ensure_future(anext(pages))
        await owner.execute("UPDATE ledger_head SET global_sequence = global_sequence + 1")
        await factories.position(services, place.asset)
        with pytest.raises(Unavailable, match="needs its operator"):
            await asyncio.wait_for(waiting, timeout=3)
    assert "ledger-tail has stopped by itself: GapInLedger: event 3 follows 1" in caplog.text
    assert not (await parts.ready())["tail"]
    with pytest.raises(Unavailable):
        await anext(services.tail.stream(ALL_INSTITUTIONS, 0))


async def test_trouble_that_nobody_foresaw_is_tried_again_and_no_event_is_missed(
    parts: Parts, place: Place, owner: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    services = parts.services
    await owner.execute("REVOKE SELECT ON ledger_events FROM escrowgrid_feed")
    try:
        await factories.position(services, place.asset)

        async def complains() -> bool:
            return "permission denied" in caplog.text

        await eventually(complains)
    finally:
        await owner.execute("GRANT SELECT ON ledger_events TO escrowgrid_feed")
    await factories.position(services, place.asset)
    assert await follow(services, place.institution.id, 0, 2) == [1, 2]
    assert (await parts.ready())["tail"]


async def test_trouble_that_lasts_stops_the_tail_and_is_told_by_ready(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    services = parts.services
    await owner.execute("REVOKE SELECT ON ledger_events FROM escrowgrid_feed")
    await factories.position(services, place.asset)

    async def stopped() -> bool:
        return services.tail.failure is not None

    try:
        await eventually(stopped, seconds=30)
    finally:
        await owner.execute("GRANT SELECT ON ledger_events TO escrowgrid_feed")
    assert not (await parts.ready())["tail"]
    with pytest.raises(Unavailable, match="needs its operator"):
        await anext(services.tail.stream(place.institution.id, 0))


RESTORE = """
ALTER TABLE ledger_events DISABLE TRIGGER append_only;
DELETE FROM ledger_events WHERE global_sequence > 2;
ALTER TABLE ledger_events ENABLE ALWAYS TRIGGER append_only;
UPDATE ledger_head SET global_sequence = 2;
UPDATE institution_heads h SET sequence = e.sequence, hash = e.hash FROM ledger_events e WHERE e.global_sequence = 2;
"""


async def test_streams_that_had_read_further_than_a_restored_ledger_end_loudly(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    """The database was taken back to an earlier point under a running server."""
    for _ in range(5):
        await factories.position(services, place.asset)
    scopes = (ALL_INSTITUTIONS, place.institution.id)
    streams = [services.tail.stream(scope, 5) for scope in scopes]
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0.05)
    await owner.execute(RESTORE)
    for stream, task in zip(streams, waiting, strict=True):
        with pytest.raises(CursorInvalid, match="restored"):
            await asyncio.wait_for(task, timeout=3)
        await stream.aclose()
    # What follows is told to those who begin anew.
    began = asyncio.create_task(follow(services, ALL_INSTITUTIONS, 2, 3))
    await factories.position(services, place.asset)
    assert await began == [3]


@pytest.fixture
def ring() -> Ring:
    return Ring(10 * weight(CREATED))


def event(number: int, sequence: int, institution_id: str) -> Event:
    return replace(CREATED, global_sequence=number, sequence=sequence, institution_id=institution_id)


def numbers(events: Sequence[Event] | None) -> list[int] | None:
    return None if events is None else [event.global_sequence for event in events]


def test_the_ring_keeps_the_newest_events_within_its_weight(ring: Ring) -> None:
    assert ring.after("*", 0, 5) is None
    for number in range(1, 26):
        ring.add(event(number, number, "a"))
        assert ring.bytes <= 10 * weight(CREATED)
    assert len(ring) == 10
    assert ring.after("*", 14, 100) is None, "it does not reach back that far"
    assert numbers(ring.after("*", 15, 3)) == [16, 17, 18]
    assert numbers(ring.after("*", 24, 100)) == [25]
    assert numbers(ring.after("*", 25, 100)) == []
    assert numbers(ring.after("*", 30, 100)) == []


def test_the_ring_finds_the_events_of_one_institution_by_their_own_numbers(ring: Ring) -> None:
    for number in range(1, 11):
        ring.add(event(number, (number + 1) // 2, "ab"[number % 2]))
    assert numbers(ring.after("b", 3, 100)) == [7, 9]
    assert numbers(ring.after("a", 0, 2)) == [2, 4]
    assert ring.after("c", 0, 100) is None
    for number in range(11, 20):
        ring.add(event(number, number, "c"))
    assert ring.after("b", 3, 100) is None
    assert numbers(ring.after("a", 4, 100)) == [10]
    ring.clear()
    assert (len(ring), ring.bytes) == (0, 0)
    assert ring.after("*", 19, 1) is None


def test_one_event_heavier_than_the_ring_is_kept_alone() -> None:
    small = Ring(1)
    for number in (1, 2):
        small.add(event(number, number, "a"))
    assert numbers(small.after("*", 1, 10)) == [2]


async def test_a_tail_that_goes_in_a_way_nobody_foresaw_ends_its_streams(
    parts: Parts, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Silence would look like a quiet ledger."""
    services = parts.services

    async def taken_along() -> None:
        raise asyncio.CancelledError

    async with aclosing(services.tail.stream(place.institution.id, 0)) as pages:
        waiting = asyncio.ensure_future(anext(pages))
        await asyncio.sleep(0.02)
        monkeypatch.setattr(services.tail, "_read_news", taken_along)
        services.tail.wake()
        with pytest.raises(Unavailable, match="needs its operator"):
            await asyncio.wait_for(waiting, timeout=3)
    assert "ledger-tail has stopped by itself" in caplog.text
    assert not (await parts.ready())["tail"]
