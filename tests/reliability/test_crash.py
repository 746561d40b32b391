"""A crash loses nothing: of the server's process, and of the database (DESIGN §14)."""

import pytest

from tests.reliability.crash import crash_database, kill_servers
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Row

# However busy the machine is: what counts are zeros, not seconds.
pytestmark = pytest.mark.timeout(600)

KILLS = 25
CRASHES = 10


@pytest.mark.slow
async def test_kill_9_of_the_server_under_load_loses_nothing_and_repeats_nothing(
    site: Site, row: Row
) -> None:
    tally = row("kill -9 of the server", "kills")
    await kill_servers(tally, Limit(KILLS), site)
    assert tally.is_clean, tally
    assert tally.reached == KILLS
    assert tally.counts["outcomes open at first"] > KILLS, "they were not killed under load"


@pytest.mark.slow
async def test_a_database_crash_under_load_loses_nothing_and_the_server_serves_again_by_itself(
    site: Site, row: Row
) -> None:
    tally = row("crash of the database", "crashes")
    await crash_database(tally, Limit(CRASHES), site)
    assert tally.is_clean, tally
    assert tally.reached == CRASHES
