"""Deadlines that pass at once are each acted on once, whoever dies meanwhile (DESIGN §3)."""

import pytest

from tests.reliability.expiry import deadlines
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Row

# However busy the machine is: what counts are zeros, not seconds.
pytestmark = pytest.mark.timeout(600)

POSITIONS = 1_000


@pytest.mark.slow
async def test_a_thousand_deadlines_at_once_expire_once_each_while_servers_are_killed(
    site: Site, row: Row
) -> None:
    tally = row("deadlines", "positions")
    await deadlines(tally, Limit(1), site, positions=POSITIONS)
    assert tally.is_clean, tally
    assert tally.counts["servers killed"], "nobody was killed"
