"""One institution's flood delays another's commands by little (DESIGN §4)."""

import pytest

from tests.reliability.fairness import flooding
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Row

# However busy the machine is: what counts are zeros, not seconds.
pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
@pytest.mark.alone
async def test_beside_a_flood_p99_stays_within_twice_its_quiet_value(site: Site, row: Row) -> None:
    tally = row("flooding", "comparisons")
    await flooding(tally, Limit(1), site)
    assert tally.is_clean, tally
