"""A server with the demo in it, for everything that is written about it."""

from collections.abc import Iterator

import pytest

from tests.serving import Bookkeeper, Server, served, wait_for_demo


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running `escrowgrid dev --memory` with its demo data, and its root key."""
    with served() as running:
        wait_for_demo(running)
        yield running


@pytest.fixture(scope="session")
def books(server: Server) -> Bookkeeper:
    """An institution on it in which a test can make things happen."""
    made = Bookkeeper(server)
    made.crowd()
    return made


@pytest.fixture(scope="session")
def anchoring_server() -> Iterator[Server]:
    """The same with a development chain that it anchors on, and without the demo."""
    with served("--no-demo", "--chain") as running:
        yield running
