"""The bell: it says that there is something new, and is built anew when it no longer hears itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from broadcaster import Broadcast
from broadcaster import Event as Ring
from broadcaster._backends.base import BroadcastBackend
from pydantic import SecretStr

from app.context import Services
from app.ledger import bell as bells
from app.ledger.bell import Bell, PostgresBell
from app.settings import Settings
from tests import factories
from tests.conftest import eventually
from tests.factories import Place

Ringing = Callable[..., AbstractAsyncContextManager[tuple[Bell, list[int]]]]


class Deaf(BroadcastBackend):
    """Takes every ring and passes none on, as a bell does whose connection died quietly."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def connect(self) -> None:
        pass

    async def disconnect(self) -> None:
        pass

    async def subscribe(self, channel: str) -> None:
        pass

    async def unsubscribe(self, channel: str) -> None:
        pass

    async def publish(self, channel: str, message: Any) -> None:
        self.sent.append(message)

    async def next_published(self) -> Ring:
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")


class Echo(Deaf):
    """Passes every ring on."""

    def __init__(self) -> None:
        super().__init__()
        self._rings: asyncio.Queue[Ring] = asyncio.Queue()

    async def publish(self, channel: str, message: Any) -> None:
        self.sent.append(message)
        self._rings.put_nowait(Ring(channel, message))

    async def next_published(self) -> Ring:
        return await self._rings.get()


class Broken(Deaf):
    """Cannot be reached at all."""

    async def connect(self) -> None:
        raise ConnectionRefusedError


@pytest.fixture
def ringing(monkeypatch: pytest.MonkeyPatch) -> Ringing:
    """A bell of the given backends, used one after the other, and a list that grows when it wakes somebody."""
    monkeypatch.setattr(bells, "UNHEARD_SECONDS_MAX", 0.05)
    monkeypatch.setattr(bells, "RECONNECT_PAUSE_SECONDS", 0.01)

    @asynccontextmanager
    async def ring(*backends: Deaf) -> AsyncIterator[tuple[Bell, list[int]]]:
        woken: list[int] = []
        supply = iter(backends)
        bell = Bell(lambda: Broadcast(backend=next(supply)), lambda: woken.append(1), "me")
        await bell.start()
        try:
            yield bell, woken
        finally:
            await bell.close()

    return ring


async def test_a_bell_that_does_not_hear_itself_is_built_anew_and_rings_again(ringing: Ringing) -> None:
    deaf, echo = Deaf(), Echo()
    async with ringing(deaf, echo) as (bell, woken):
        bell.ring(7)
        assert woken, "one's own tail needs no bell"

        async def rung() -> bool:
            return echo.sent == ["me:7"]

        await eventually(rung, seconds=3)
        assert deaf.sent == ["me:7"]
        assert bell.rebuilt == 1
        await asyncio.sleep(0.1)
        assert bell.rebuilt == 1, "it hears itself now"


async def test_a_bell_whose_driver_is_missing_is_told_and_tried_again(
    ringing: Ringing, caplog: pytest.LogCaptureFixture
) -> None:
    made = 0

    def make() -> Broadcast:
        nonlocal made
        made += 1
        if made < 3:
            raise ModuleNotFoundError("No module named 'aiokafka'")
        return Broadcast(backend=Echo())

    async with ringing(Echo()):
        bell = Bell(make, lambda: None, "me")
        await bell.start()

        async def there() -> bool:
            return made == 3 and bell.rebuilt == 2

        await eventually(there, seconds=3)
        await bell.close()
    assert "aiokafka" in caplog.text


async def test_a_bell_that_cannot_be_reached_is_tried_again(ringing: Ringing) -> None:
    async with ringing(Broken(), Broken(), Broken(), Echo()) as (bell, woken):

        async def listening() -> bool:
            return bool(woken)

        await eventually(listening, seconds=3)
        assert bell.rebuilt == 3


async def test_many_rings_are_few_messages_and_the_last_one_tells_the_newest(ringing: Ringing) -> None:
    echo = Echo()
    async with ringing(echo) as (bell, _woken):
        for number in range(1, 1001):
            bell.ring(number)
            if number % 100 == 0:
                await asyncio.sleep(0.001)

        async def told() -> bool:
            return bool(echo.sent) and echo.sent[-1] == "me:1000"

        await eventually(told, seconds=3)
        assert len(echo.sent) <= 11


async def test_ones_own_ring_wakes_nobody_twice_and_anothers_does(ringing: Ringing) -> None:
    echo = Echo()
    async with ringing(echo) as (bell, woken):
        bell.ring(1)

        async def told() -> bool:
            return bool(echo.sent)

        await eventually(told, seconds=3)
        await asyncio.sleep(0.02)
        before = len(woken)
        await echo.publish(bells.CHANNEL, "another:2")
        await asyncio.sleep(0.02)
        assert len(woken) == before + 1


async def test_a_listener_whose_driver_fails_in_a_way_of_its_own_listens_again(
    owner_url: str,
    owner: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The driver says that, and not that the connection is lost, of one that ends just as it is told something."""
    listen, refused = asyncpg.Connection.add_listener, 0

    async def fails_twice(self: asyncpg.Connection, *arguments: Any) -> None:
        nonlocal refused
        refused += 1
        if refused in (2, 3):
            raise asyncpg.InternalClientError(
                "cannot switch to state 12; another operation (2) is in progress"
            )
        await listen(self, *arguments)

    monkeypatch.setattr(asyncpg.Connection, "add_listener", fails_twice)
    async with Broadcast(backend=PostgresBell(owner_url)) as bell, bell.subscribe(bells.CHANNEL) as heard:
        # Whatever it was told last: LISTEN, or the question whether it is there still.
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        assert (await asyncio.wait_for(heard.get(), timeout=3)).message == bells.RECONNECTED
        await owner.execute("SELECT pg_notify($1, 'me:1')", bells.CHANNEL)
        assert (await asyncio.wait_for(heard.get(), timeout=3)).message == "me:1"
    assert refused == 4
    assert caplog.text.count("cannot listen: InternalClientError") == 2


class TestInMemory:
    """BELL_URL=memory:// serves one process."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"bell_url": SecretStr("memory://"), "tick_seconds": 3600.0})

    async def test_one_process_follows_itself(self, services: Services, place: Place) -> None:
        stream = services.tail.stream(place.institution.id, 0)
        await factories.position(services, place.asset)
        assert len(await asyncio.wait_for(anext(stream), timeout=3)) == 1
        await stream.aclose()
