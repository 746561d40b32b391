"""Rows that somebody else holds: their commands step aside, and everybody else goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import cast

import asyncpg
import pytest

from app.context import Services
from app.errors import Overloaded, Refusal, Unavailable
from app.ledger.writer.aside import SIDE_LANES_MAX, Aside
from app.ledger.writer.contract import Command
from app.ledger.writer.queue import Submission
from app.positions.model import Position, State
from app.settings import Settings
from tests import factories
from tests.factories import FUND, Place, release

Held = Callable[..., AbstractAsyncContextManager[None]]


@pytest.fixture
def held(owner_url: str) -> Held:
    """While the block lasts somebody else holds the rows of these positions."""

    @asynccontextmanager
    async def hold(*positions: Position) -> AsyncIterator[None]:
        connection = await asyncpg.connect(owner_url)
        try:
            async with connection.transaction():
                ids = [position.id for position in positions]
                await connection.execute("SELECT FROM positions WHERE id = ANY($1) FOR UPDATE", ids)
                yield
        finally:
            await connection.close()

    return hold


async def test_a_command_on_a_held_row_waits_aside_and_delays_nobody(
    services: Services, place: Place, held: Held
) -> None:
    stuck = await factories.position(services, place.asset)
    others = [await factories.position(services, place.asset) for _ in range(20)]
    async with held(stuck):
        waiting = asyncio.create_task(services.writer.submit(factories.move(services, stuck, FUND)))
        answers = await asyncio.wait_for(
            asyncio.gather(
                *(services.writer.submit(factories.move(services, other, FUND)) for other in others)
            ),
            timeout=3,
        )
        assert [answer.row.position.state for answer in answers] == [State.FUNDED] * 20
        assert not waiting.done()
    answer = await waiting
    assert answer.row.position.version == 2
    assert answer.event.sequence == 42
    assert not answer.replayed


async def test_it_is_decided_on_the_row_as_it_is_when_it_gets_it(
    services: Services, second: Services, place: Place, held: Held
) -> None:
    position = await factories.position(services, place.asset)
    async with held(position):
        stale = asyncio.create_task(
            second.writer.submit(factories.move(second, position, FUND, expected_version=1))
        )
        fresh = asyncio.create_task(
            services.writer.submit(factories.move(services, position, FUND, expected_version=1))
        )
        await asyncio.sleep(0.1)
    results = await asyncio.gather(stale, fresh, return_exceptions=True)
    assert sorted(isinstance(result, Refusal) for result in results) == [False, True]


async def test_a_list_with_one_held_row_waits_as_a_whole(
    services: Services, place: Place, held: Held, owner: asyncpg.Connection
) -> None:
    positions = [await factories.position(services, place.asset) for _ in range(3)]
    async with held(positions[1]):
        before = await factories.footprint(owner)
        waiting = asyncio.create_task(
            services.writer.submit_all([factories.move(services, position, FUND) for position in positions])
        )
        await asyncio.sleep(0.1)
        assert await factories.footprint(owner) == before
        # Its other rows are free meanwhile.
        await services.writer.submit(factories.move(services, positions[2], release_nothing()))
    with pytest.raises(Refusal, match="cannot do that") as refused:
        await waiting
    assert refused.value.field == "items.2"
    assert await owner.fetchval("SELECT count(*) FROM positions WHERE state = 'FUNDED'") == 0


async def test_many_commands_on_one_stuck_row_do_not_delay_those_on_another_that_was_held(
    services: Services, place: Place, held: Held
) -> None:
    stuck, other = [await factories.position(services, place.asset) for _ in range(2)]
    async with held(stuck):
        many = [
            asyncio.create_task(services.writer.submit(factories.move(services, stuck, FUND)))
            for _ in range(15)
        ]
        await asyncio.sleep(0.1)
        async with held(other):
            one = asyncio.create_task(services.writer.submit(factories.move(services, other, FUND)))
            await asyncio.sleep(0.2)
            assert not one.done()
        # It was free a moment ago: fifteen others wait for something else.
        assert (await asyncio.wait_for(one, timeout=2)).row.position.state is State.FUNDED
    results = await asyncio.gather(*many, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1, "it was funded once"


async def test_a_list_that_waits_for_a_held_row_holds_none_of_its_other_rows(
    services: Services, place: Place, held: Held
) -> None:
    free, stuck = sorted(
        [await factories.position(services, place.asset) for _ in range(2)], key=lambda position: position.id
    )
    async with held(stuck):
        listed = asyncio.create_task(
            services.writer.submit_all(
                [factories.move(services, position, FUND) for position in (free, stuck)]
            )
        )
        for intent in (FUND, *[release("1.00")] * 6):
            await asyncio.wait_for(services.writer.submit(factories.move(services, free, intent)), timeout=1)
    with pytest.raises(Refusal, match="cannot do that"):
        await listed


class TestWithASmallQueue:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"writer_queue_max": 20, "side_lane_wait_seconds": 3.0})

    async def test_what_waits_aside_counts_as_waiting(
        self, services: Services, place: Place, held: Held, owner: asyncpg.Connection
    ) -> None:
        position = await factories.position(services, place.asset, state=State.FUNDED)
        before = await factories.footprint(owner)
        async with held(position):
            tasks = [
                asyncio.create_task(
                    services.writer.submit(factories.move(services, position, release("1.00")))
                )
                for _ in range(20)
            ]
            while len(services.writer) < 20:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert len(services.writer) == 20
            with pytest.raises(Overloaded, match="nothing was done"):
                await services.writer.submit(factories.move(services, position, release("1.00")))
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, Unavailable) for result in results)
        assert await factories.footprint(owner) == before
        assert len(services.writer) == 0


def release_nothing() -> factories.Intent:
    return factories.Intent(state=State.CANCELLED)


async def test_when_a_side_lane_stops_by_itself_who_waits_is_told_and_the_next_has_another(
    services: Services, place: Place, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = await factories.position(services, place.asset)
    aside = services.writer._aside
    async with held(position):
        waiting = asyncio.create_task(services.writer.submit(factories.move(services, position, FUND)))
        async with asyncio.timeout(3):
            while not len(aside):
                await asyncio.sleep(0.01)

        def broken(_submission: object) -> bool:
            monkeypatch.undo()
            raise RuntimeError("a defect")

        monkeypatch.setattr(aside, "_give_up", broken)
        with pytest.raises(Unavailable, match="ask again with the same idempotency key"):
            await asyncio.wait_for(waiting, 3)
        assert len(aside) == 0
        again = asyncio.create_task(services.writer.submit(factories.move(services, position, FUND)))
        await asyncio.sleep(0.1)
    assert (await asyncio.wait_for(again, 3)).row.position.state is State.FUNDED


async def test_a_row_that_is_held_again_the_moment_its_lane_ends_has_another_lane(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[Submission] = []

    async def attempt(submissions: Sequence[Submission]) -> bool:
        tried.extend(submissions)
        for one in submissions:
            one.settle([])
        # Before anybody can hear that this lane is over: it ends without another turn of the loop.
        if len(tried) == 1:
            asyncio.get_running_loop().call_soon(aside.put, "row", submission())
        return True

    def submission() -> Submission:
        return Submission(
            [cast("Command", SimpleNamespace(institution_id="inst_a"))],
            0.0,
            asyncio.get_running_loop().create_future(),
        )

    aside = Aside(attempt, lambda _one: False)
    aside.put("row", submission())
    async with asyncio.timeout(3):
        while len(tried) < 2:
            await asyncio.sleep(0)
        await aside.close()
    assert len(aside) == 0
    assert not caplog.records


class TestWithLittlePatience:
    """The side lane has a timeout of its own."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"side_lane_wait_seconds": 0.2})

    async def test_a_row_held_for_too_long_is_a_clear_error_and_writes_nothing(
        self, services: Services, place: Place, held: Held, owner: asyncpg.Connection
    ) -> None:
        position = await factories.position(services, place.asset, state=State.FUNDED)
        before = await factories.footprint(owner)
        command = factories.move(services, position, release("1.00"), idempotency_key="late")
        async with held(position):
            with pytest.raises(Unavailable, match="nothing was done, try again"):
                await asyncio.wait_for(services.writer.submit(command), timeout=3)
        assert await factories.footprint(owner) == before
        answer = await services.writer.submit(command)
        assert not answer.replayed
        assert answer.row.position.version == 3

    async def test_more_stuck_rows_than_side_lanes_still_stall_nobody(
        self, services: Services, place: Place, held: Held
    ) -> None:
        stuck = [await factories.position(services, place.asset) for _ in range(SIDE_LANES_MAX + 2)]
        free = await factories.position(services, place.asset)
        async with held(*stuck):
            waiting = [
                asyncio.create_task(services.writer.submit(factories.move(services, position, FUND)))
                for position in stuck
            ]
            for intent in (FUND, release("1.00"), release()):
                await asyncio.wait_for(services.writer.submit(factories.move(services, free, intent)), 1)
            results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), timeout=5)
        assert all(isinstance(result, Unavailable) for result in results)

    async def test_shutting_down_waits_for_the_side_lane(
        self, services: Services, place: Place, held: Held
    ) -> None:
        position = await factories.position(services, place.asset)
        async with held(position):
            waiting = asyncio.create_task(services.writer.submit(factories.move(services, position, FUND)))
            await asyncio.sleep(0.1)
            closing = asyncio.create_task(services.writer.close())
            await asyncio.sleep(0.02)
            assert not closing.done()
        await closing
        assert (await waiting).row.position.state is State.FUNDED
