"""Servers with small limits, on real ports, over one database."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from websockets.asyncio.client import connect

from app.institutions.model import NewKey
from app.main import Parts, create_app
from app.principal import Role
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.conftest import ROOT_KEY
from tests.http.conftest import PROTOCOL, Peer, served

VIEWER = "{viewer {id}}"
PAGE = "query($n: Int!) {positions(first: $n) {edges {node {id}}}}"


@dataclass
class Served:
    """One server process as its callers see it, and what a test may look at inside."""

    url: str
    app: Starlette
    settings: Settings
    http: httpx.AsyncClient
    stack: contextlib.AsyncExitStack

    async def ask(
        self, query: str, variables: Any = None, *, key: str | None = ROOT_KEY, **headers: str
    ) -> httpx.Response:
        """POST a document."""
        sent = {"Accept": "application/json", **headers}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        return await self.http.post("/graphql", json={"query": query, "variables": variables}, headers=sent)

    async def dial(self, key: str | None = ROOT_KEY) -> Peer:
        """A socket, acknowledged when there is a key."""
        place = self.url.replace("http", "ws", 1) + "/graphql"
        socket = await self.stack.enter_async_context(
            connect(place, subprotocols=[PROTOCOL], ping_interval=None, proxy=None)
        )
        peer = Peer(socket)
        if key is not None:
            await peer.init(authorization=f"Bearer {key}")
        return peer

    async def metrics(self) -> str:
        """The metrics' text."""
        return (await self.http.get("/metrics")).text


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(settings: Settings, address: Address) -> Serve:
    """Starts servers: `async with serve(rate_capacity=100, …) as server`."""

    @asynccontextmanager
    async def begin(**changes: Any) -> AsyncIterator[Served]:
        # Validated, as `model_copy` does not.
        chosen = Settings(**{**settings.model_dump(exclude_unset=True), **changes})
        app = create_app(chosen, address)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(served_app(app, chosen))
            url = app.state.url
            http = await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, timeout=20, trust_env=False)
            )
            yield Served(url, app, chosen, http, stack)

    return begin


@asynccontextmanager
async def served_app(app: Starlette, settings: Settings) -> AsyncIterator[None]:
    """The application on a real port, with its lifespan."""

    @dataclass
    class Site:
        app: Starlette
        settings: Settings
        url: str = ""

    site = Site(app, settings)
    async with served(site, lifespan="on"):  # type: ignore[arg-type]
        app.state.url = site.url
        yield


@pytest.fixture
async def place(parts: Parts) -> factories.Place:
    """An institution with what belongs to it."""
    return await factories.place(parts.services)


@pytest.fixture
async def key(parts: Parts, place: factories.Place) -> NewKey:
    """An admin's key of that institution."""
    return await factories.key(parts.services, place.institution.id, Role.ADMIN)


@pytest.fixture
async def other_key(parts: Parts, place: factories.Place) -> NewKey:
    """Another admin's key of the same institution."""
    return await factories.key(parts.services, place.institution.id, Role.ADMIN)
