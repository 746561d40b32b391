"""One durable database for all of these tests; each starts the servers it needs and ends them. Their counts are told."""

from collections.abc import AsyncIterator

import pytest

from tests.reliability.site import Nursery, Site, opened
from tests.reliability.tally import Row, Tally, table

TOLD: list[Tally] = []


@pytest.fixture(scope="session")
async def site() -> AsyncIterator[Site]:
    """A database with fsync on, and what starts servers on it."""
    with Nursery() as nursery:
        async with opened(nursery) as made:
            yield made


@pytest.fixture
def row() -> Row:
    """Makes the tally of a promise; it is in the table at the end of the run."""

    def make(name: str, unit: str) -> Tally:
        tally = Tally(name, unit)
        TOLD.append(tally)
        return tally

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of DESIGN §14 as this run reached them."""
    if TOLD:
        terminalreporter.section("reliability")
        terminalreporter.write_line(table(TOLD))
