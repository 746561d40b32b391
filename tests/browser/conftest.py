"""A server for browsers: empty, so that nothing happens but what a test makes happen."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.serving import Bookkeeper, Server, served


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
