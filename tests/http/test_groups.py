"""Subscribers who ask the same share one execution, and each still gets every message once, in order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import orjson
import pytest

from app import schema
from app.context import Context, Request, Services
from app.http import groups as module
from app.http import told as telling
from app.http.exchange import Exchange
from app.http.groups import Groups
from app.http.library import Library
from app.http.operation import Asked
from app.http.running import Runner
from app.positions.model import State
from app.principal import Principal, Role
from tests import factories
from tests.conftest import eventually
from tests.factories import Place

EVENTS = "subscription($after: String) { ledgerEvents(after: $after) { cursor node { sequence newState } } }"
CHANGES = "subscription { positionsChanged { cursor position { version held } event { sequence } } }"

Follow = Callable[..., Any]


@pytest.fixture
async def place(services: Services) -> Place:
    return await factories.place(services)


@pytest.fixture
def runner(services: Services) -> Runner:
    """What the groups need of a server: services and the schema."""
    nothing = cast("Any", None)
    library = Library(None, services.settings.trusted_documents)
    built = schema.build(services.settings)
    return Runner(services, built, nothing, nothing, nothing, Groups(), nothing, nothing, library)


@pytest.fixture
def follow(runner: Runner, services: Services, place: Place) -> Follow:
    """One subscriber: the list its messages go to, for as long as the block lasts."""

    @asynccontextmanager
    async def begin(
        query: str = EVENTS, *, after: str | None = None, principal: Principal | None = None, slow: float = 0
    ) -> AsyncIterator[list[Any]]:
        context = Context(services, principal or place.admin, Request(services.ids.new("req")))
        got: list[Any] = []

        async def read() -> None:
            asked = Asked(query, {"after": after} if after else None)
            async for told in runner.groups.follow(runner, context, asked, Exchange("req_1")):
                got.append(orjson.loads(told.body)["data"])
                await asyncio.sleep(slow)

        task = asyncio.create_task(read())
        try:
            yield got
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await context.close()

    return begin


def sequences(got: list[Any]) -> list[int]:
    return [message["ledgerEvents"]["node"]["sequence"] for message in got]


async def grown(lists: list[list[Any]], count: int) -> None:
    async def enough() -> bool:
        return all(len(one) >= count for one in lists)

    await eventually(enough)


async def joined(runner: Runner, members: int) -> None:
    async def together() -> bool:
        return sum(group.members for group in runner.groups._groups.values()) == members

    await eventually(together)


async def test_many_subscribers_share_one_execution_of_each_event(
    follow: Follow, runner: Runner, services: Services, place: Place
) -> None:
    async with follow() as a, follow() as b, follow(after=None) as c:
        await joined(runner, 3)
        for _ in range(5):
            await factories.position(services, place.asset)
        await grown([a, b, c], 5)
    assert a == b == c
    assert sequences(a) == [1, 2, 3, 4, 5]
    assert runner.groups.executions == 5


async def test_who_comes_back_catches_up_alone_and_then_joins_the_others(
    follow: Follow, runner: Runner, services: Services, place: Place
) -> None:
    async with follow() as first:
        await joined(runner, 1)
        for _ in range(4):
            await factories.position(services, place.asset)
        await grown([first], 4)
        cursor = first[1]["ledgerEvents"]["cursor"]
        async with follow(after=cursor) as back:
            await grown([back], 2)
            await joined(runner, 2)
            await factories.position(services, place.asset)
            await grown([first, back], 3)
            await grown([first], 5)
    assert sequences(first) == [1, 2, 3, 4, 5]
    assert sequences(back) == [3, 4, 5]
    assert runner.groups.executions == 5


async def test_nothing_is_lost_or_repeated_while_writers_write_and_members_come_and_go(
    follow: Follow, runner: Runner, services: Services, place: Place
) -> None:
    async def write() -> None:
        for _ in range(15):
            await factories.position(services, place.asset, state=State.FUNDED)

    async with follow() as steady:
        await joined(runner, 1)
        writing = [asyncio.create_task(write()) for _ in range(4)]
        seen: list[list[int]] = []
        while not all(task.done() for task in writing):
            async with follow() as visitor:
                await asyncio.sleep(0.03)
            seen.append(sequences(visitor))
        await asyncio.gather(*writing)
        await grown([steady], 120)
    assert sequences(steady) == list(range(1, 121))
    for visit in seen:
        assert visit == list(range(visit[0], visit[0] + len(visit))) if visit else True


async def test_those_who_may_see_other_things_are_in_other_groups(
    follow: Follow, runner: Runner, services: Services, place: Place
) -> None:
    other = await factories.place(services, name="Other")
    reader = factories.principal(place.institution.id, Role.READ_ONLY)
    async with follow() as mine, follow(principal=other.admin) as theirs, follow(principal=reader) as read:
        await joined(runner, 3)
        assert len(runner.groups) == 3
        await factories.position(services, place.asset)
        await factories.position(services, other.asset)
        await grown([mine, theirs, read], 1)
    assert len(mine) == len(theirs) == len(read) == 1
    assert mine[0]["ledgerEvents"]["cursor"] != theirs[0]["ledgerEvents"]["cursor"]


async def test_a_slow_member_that_its_group_has_forgotten_goes_on_alone_and_misses_nothing(
    follow: Follow, runner: Runner, services: Services, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "ENTRIES_MAX", 3)
    async with follow() as quick, follow(slow=0.05) as slow:
        await joined(runner, 2)
        for _ in range(20):
            await factories.position(services, place.asset)
        await grown([quick], 20)
        await grown([slow], 20)
    assert sequences(quick) == sequences(slow) == list(range(1, 21))


async def test_many_groups_keep_no_more_than_a_few_and_nobody_misses_anything(
    follow: Follow, runner: Runner, services: Services, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROUPS_BYTES_MAX", 24_000)
    monkeypatch.setattr(module, "GROUP_BYTES_MIN", 3_000)

    async def move(times: int) -> None:
        for _ in range(times):
            await factories.position(services, place.asset)

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(follow())
        await joined(runner, 1)
        await move(30)
        await grown([first], 30)
        alone = runner.groups.bytes
        assert 16_000 < alone <= 24_000
        # Those that come later get their share from the one that was there.
        others = [
            await stack.enter_async_context(follow(EVENTS.replace("cursor", f"a{number}: cursor", 1)))
            for number in range(5)
        ]
        slow = await stack.enter_async_context(follow(EVENTS.replace("cursor", "b: cursor", 1), slow=0.02))
        await joined(runner, 7)
        assert runner.groups.bytes <= 24_000 // 7
        await move(30)
        await grown([first], 60)
        await grown([*others, slow], 30)
        assert alone / 2 < runner.groups.bytes <= 24_000
    assert sequences(first) == list(range(1, 61))
    assert all(sequences(one) == list(range(31, 61)) for one in (*others, slow))


async def test_a_group_that_ends_costs_its_members_nothing(
    follow: Follow, runner: Runner, services: Services, place: Place
) -> None:
    async with follow() as a, follow() as b:
        await joined(runner, 2)
        await factories.position(services, place.asset)
        await grown([a, b], 1)
        for task in list(runner.groups._tasks.values()):
            task.cancel()
        await factories.position(services, place.asset)
        await grown([a, b], 2)
        await joined(runner, 2)
        await factories.position(services, place.asset)
        await grown([a, b], 3)
    assert sequences(a) == sequences(b) == [1, 2, 3]


async def test_changes_of_positions_begin_with_what_is_and_are_shared_from_there(
    follow: Follow, runner: Runner, services: Services, place: Place
) -> None:
    position = await factories.position(services, place.asset, "10.00")
    async with follow(CHANGES) as a, follow(CHANGES) as b:
        await joined(runner, 2)
        await services.writer.submit(factories.move(services, position, factories.FUND))
        await services.writer.submit(factories.move(services, position, factories.release("4.00")))
        await grown([a, b], 3)
    assert a == b
    assert [
        (m["positionsChanged"]["position"]["version"], m["positionsChanged"]["position"]["held"]) for m in a
    ] == [
        (1, "0.00"),
        (2, "10.00"),
        (3, "6.00"),
    ]
    assert runner.groups.executions == 2


async def test_the_last_one_to_leave_ends_the_group(follow: Follow, runner: Runner) -> None:
    async with follow(), follow():
        await joined(runner, 2)
    assert len(runner.groups) == 0
