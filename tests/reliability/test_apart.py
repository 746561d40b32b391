"""Tenants are apart: of all that is subscribed to, nothing of another institution is told (DESIGN §14)."""

from tests.reliability.apart import subscriptions_apart
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Row


async def test_no_subscription_tells_any_role_anything_of_another_institution(site: Site, row: Row) -> None:
    tally = row("subscriptions", "attempts")
    await subscriptions_apart(tally, Limit(1), site)
    assert tally.is_clean, tally
