"""The tail skips nothing, and nobody's slowness costs anybody else anything (DESIGN §6, §14).

ESCROWGRID_TAIL_EVENTS chooses how many events are read under fire (100,000 in CI).
"""

import os

import pytest

from tests.reliability.joining import thousand_joining
from tests.reliability.resuming import resume
from tests.reliability.returning import thousand_on_sockets
from tests.reliability.site import Site
from tests.reliability.stalling import stalled_subscribers
from tests.reliability.stream import tail_under_fire
from tests.reliability.tally import Limit, Row

# However busy the machine is: what counts are zeros, not seconds.
pytestmark = pytest.mark.timeout(1200)

EVENTS = int(os.environ.get("ESCROWGRID_TAIL_EVENTS", "20000"))
KILLS = 24
BACKLOG = 4_000
BESIDE_STALLED = 150


@pytest.mark.slow
async def test_every_reader_sees_each_event_once_and_in_order_whatever_is_killed(
    site: Site, row: Row
) -> None:
    tally = row("the tail under fire", "events")
    await tail_under_fire(tally, Limit(EVENTS), site, crashes=1)
    assert tally.is_clean, tally
    assert tally.reached >= EVENTS
    assert tally.counts["listeners killed"], "nothing was killed"


async def test_a_reader_goes_on_within_two_seconds_of_its_connections_deaths(site: Site, row: Row) -> None:
    tally = row("resuming", "kills")
    await resume(tally, Limit(KILLS), site)
    assert tally.is_clean, tally
    assert tally.reached == KILLS


@pytest.mark.slow
async def test_a_thousand_subscribers_come_back_at_once_and_the_writers_go_on(site: Site, row: Row) -> None:
    tally = row("a thousand joining", "subscribers")
    await thousand_joining(tally, Limit(1), site, backlog=BACKLOG)
    assert tally.is_clean, tally


@pytest.mark.slow
async def test_subscribers_that_take_nothing_cost_the_others_neither_time_nor_memory(
    site: Site, row: Row
) -> None:
    tally = row("stalled subscribers", "stalled")
    await stalled_subscribers(tally, Limit(1), site, events=BESIDE_STALLED)
    assert tally.is_clean, tally


@pytest.mark.slow
async def test_a_thousand_subscriptions_resume_on_sockets_from_cursors_of_mutations(
    site: Site, row: Row
) -> None:
    tally = row("a thousand on sockets", "subscriptions")
    await thousand_on_sockets(tally, Limit(1), site)
    assert tally.is_clean, tally
