"""Whoever goes away, in whatever way: connections of a real database go back to their pool."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
import strawberry
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from websockets.asyncio.client import connect

from app.context import Context, Services
from app.engine.limits import extensions
from app.engine.masking import Schema
from app.http import routes

from .conftest import AUTH, EVENTS, PROTOCOL, Keys, Peer, Site, eventually, served

Info = strawberry.Info[Context, None]


async def sleep(info: Info, seconds: float) -> int:
    async with info.context.reading() as connection:
        await connection.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
    return 1


@strawberry.type
class Query:
    @strawberry.field
    async def sleep(self, info: Info, seconds: float) -> int:
        return await sleep(info, seconds)

    @strawberry.field
    async def fail(self, info: Info) -> int:
        await sleep(info, 0)
        raise RuntimeError("after reading")


@strawberry.type
class Told:
    @strawberry.field
    async def read(self, info: Info) -> int:
        return await sleep(info, 0)


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def told(self, info: Info) -> AsyncIterator[Told]:
        yield Told()
        await asyncio.Event().wait()

    @strawberry.subscription
    async def beats(self, info: Info) -> AsyncIterator[int]:
        while True:
            yield await sleep(info, 0.01)


@pytest.fixture
async def real(services: Services) -> AsyncIterator[Site]:
    settings = services.settings
    schema = Schema(Query, subscription=Subscription, extensions=extensions(settings))
    keys, registry = Keys(), CollectorRegistry()

    async def ready() -> dict[str, bool]:
        return {}

    app = routes.build(services, schema, keys, ready, registry=registry)
    site = Site(app, keys, registry, {}, settings, [])
    async with served(site):
        yield site


def taken(services: Services) -> int:
    return int(services.database.engine.pool.checkedout())  # type: ignore[attr-defined]


async def test_after_answers_good_and_bad(real: Site, services: Services, noisy: None) -> None:
    async with httpx.AsyncClient(base_url=real.url, trust_env=False) as http:
        for query in ("{sleep(seconds: 0.01)}", "{fail}"):
            await http.post("/graphql", json={"query": query}, headers=AUTH)
    await eventually(lambda: taken(services) == 0)


async def test_after_clients_that_went_away(real: Site, services: Services) -> None:
    async with httpx.AsyncClient(base_url=real.url, trust_env=False, timeout=0.2) as http:
        for _ in range(3):
            with contextlib.suppress(httpx.ReadTimeout):
                await http.post("/graphql", json={"query": "{sleep(seconds: 0.5)}"}, headers=AUTH)
        for _ in range(3):
            asked = {"query": "subscription {beats}"}
            headers = {**AUTH, "Accept": EVENTS}
            async with http.stream("POST", "/graphql", json=asked, headers=headers) as response:
                async for _line in response.aiter_lines():
                    break
    await eventually(lambda: taken(services) == 0)


async def test_between_the_events_of_a_subscription(real: Site, services: Services) -> None:
    async with (
        connect(real.sockets_url, subprotocols=[PROTOCOL], proxy=None) as socket,
        httpx.AsyncClient(base_url=real.url, trust_env=False) as http,
    ):
        peer = Peer(socket)
        await peer.init()
        for number in range(20):
            await peer.subscribe(str(number), "subscription {told {read}}")
            assert (await peer.until("next"))["payload"]["data"] == {"told": {"read": 1}}
        await eventually(lambda: taken(services) == 0)
        asked, headers = {"query": "subscription {told {read}}"}, {**AUTH, "Accept": EVENTS}
        async with http.stream("POST", "/graphql", json=asked, headers=headers) as response:
            async for line in response.aiter_lines():
                if line.startswith("data"):
                    break
            await eventually(lambda: taken(services) == 0)


async def test_after_sockets_that_were_completed_or_cut(real: Site, services: Services) -> None:
    for cut in (False, True):
        async with connect(real.sockets_url, subprotocols=[PROTOCOL], proxy=None) as socket:
            peer = Peer(socket)
            await peer.init()
            await peer.subscribe("a", "subscription {beats}")
            await peer.subscribe("b", "{sleep(seconds: 5)}")
            await peer.until("next")
            assert taken(services) > 0
            if cut:
                socket.transport.abort()
            else:
                await peer.send({"type": "complete", "id": "a"})
                await peer.send({"type": "complete", "id": "b"})
            await eventually(lambda: taken(services) == 0)
    await asyncio.sleep(0)
