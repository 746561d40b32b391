"""A server for browsers: empty, so that nothing happens but what a test makes happen."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from playwright.async_api import Browser

from tests.serving import Bookkeeper, Server, served

from .visiting import Visit, chromium, visiting


@pytest.fixture(scope="session")
def browsed() -> Iterator[Server]:
    """A running server without the demo."""
    with served("--no-demo") as running:
        yield running


@pytest.fixture(scope="session")
def server_url(browsed: Server) -> str:
    """Where it is."""
    return browsed.url


@pytest.fixture(scope="session")
def root_key(browsed: Server) -> str:
    """The key that opens everything in it."""
    return browsed.root_key


@pytest.fixture(scope="session")
def bookkeeper(browsed: Server) -> Bookkeeper:
    """An institution on it."""
    return Bookkeeper(browsed)


@pytest.fixture
def record_event(bookkeeper: Bookkeeper) -> Callable[[], Awaitable[str]]:
    """Makes one ledger event happen."""

    async def record() -> str:
        return await asyncio.to_thread(bookkeeper.open)

    return record


@pytest.fixture(scope="session")
async def shared_browser() -> AsyncIterator[Browser]:
    """One Chromium for all visits to the dashboard."""
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def dashboard(shared_browser: Browser, server_url: str) -> AsyncIterator[Visit]:
    """A visit to the dashboard of a server that offers no keys."""
    async with visiting(shared_browser, server_url, offers_keys=False) as visit:
        yield visit
