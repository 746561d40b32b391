"""A retry is not a second act (DESIGN §14)."""

import pytest

from tests.reliability.retries import equal_commands
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Row

# However busy the machine is: what counts are zeros, not seconds.
pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
async def test_fifty_equal_commands_at_once_across_two_servers_act_once_and_are_answered_alike(
    site: Site, row: Row
) -> None:
    tally = row("fifty equal commands", "times")
    await equal_commands(tally, Limit(1), site)
    assert tally.is_clean, tally
