"""One durable database for all of these tests; each starts the servers it needs and ends them. Their counts are told."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.reliability.site import Nursery, Site, opened
from tests.reliability.tally import Row, Tally, table

TOLD: list[Tally] = []
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is measured here is time and memory: nothing else may run beside it."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.alone)


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
