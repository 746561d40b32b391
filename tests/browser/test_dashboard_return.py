"""Coming back to the live feed: by the browser's button to one's place in it, by the network to what came in between."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.relay import Relay, relay
from tests.serving import Bookkeeper, Server

from .visiting import Visit, key_of, visiting

pytestmark = pytest.mark.browser

ROW = 44


@pytest.fixture
async def between(browsed: Server) -> AsyncIterator[Relay]:
    """A bad network in front of the server."""
    async with relay(browsed.port) as made:
        yield made


@pytest.fixture
async def visit(shared_browser: Browser, between: Relay) -> AsyncIterator[Visit]:
    """Somebody behind that network."""
    async with visiting(shared_browser, f"http://127.0.0.1:{between.port}", offers_keys=False) as made:
        yield made


class Heads:
    """Keeps the page from learning how far the ledger has gone, as often as it is told to."""

    def __init__(self, refusals: float) -> None:
        self.refusals = refusals
        self.refused = asyncio.Event()

    async def stand_before(self, page: Page) -> None:
        await page.route("**/graphql", self._pass)

    async def _pass(self, route: Route) -> None:
        if "query Head" not in (route.request.post_data or "") or self.refusals <= 0:
            await route.continue_()
            return
        self.refusals -= 1
        self.refused.set()
        await route.abort()


async def cut(visit: Visit, between: Relay) -> None:
    await visit.page.context.set_offline(True)
    between.cut()
    await expect(visit.page.locator(".standing")).to_contain_text("Connection lost at")


async def mend(visit: Visit) -> None:
    await visit.page.context.set_offline(False)
    await visit.is_live()


@pytest.mark.parametrize("holds_still", [False, True], ids=["goes-on", "holds-still"])
async def test_going_back_leads_to_the_place_in_the_feed(
    dashboard: Visit, browsed: Server, holds_still: bool
) -> None:
    books = Bookkeeper(browsed)
    await asyncio.to_thread(books.crowd, 1)
    await dashboard.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    page, body = dashboard.page, dashboard.page.locator(".rows-body")
    await page.locator('[data-index="0"]').wait_for()
    if holds_still:
        await dashboard.button("Hold still").click()
    await body.evaluate(f"body => {{ body.scrollTop = 40 * {ROW} + 10; }}")
    read = page.locator('[data-index="43"] [data-event]')
    line = page.locator(f'[data-event="{await read.get_attribute("data-event")}"]')
    before = await line.bounding_box()
    await line.get_by_role("link").click()
    await expect(dashboard.heading("Where it is")).to_be_visible()
    for _ in range(3):
        await asyncio.to_thread(books.open)

    await page.go_back()

    await expect(line).to_be_in_viewport()
    assert await line.bounding_box() == before
    waiting = page.get_by_text("3 waiting")
    await expect(waiting).to_have_count(1 if holds_still else 0)
    await expect(page.locator(f'[data-index="{43 if holds_still else 46}"]')).to_be_in_viewport()

    await page.get_by_role("link", name="Portfolio").click()
    await page.get_by_role("link", name="Live", exact=True).click()
    await expect(page.locator('[data-index="0"]')).to_be_in_viewport()
    await expect(waiting).to_have_count(0)


async def test_how_much_came_in_between_is_asked_until_it_is_told(
    visit: Visit, between: Relay, browsed: Server
) -> None:
    books = Bookkeeper(browsed)
    await visit.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    heads = Heads(refusals=2)
    await heads.stand_before(visit.page)
    await cut(visit, between)
    for _ in range(2):
        await asyncio.to_thread(books.open)
    await mend(visit)
    await heads.refused.wait()
    await expect(visit.page.locator('[data-gap="back"]')).to_contain_text("2 events came in between")


async def test_cut_again_before_that_was_told_each_event_is_counted_once(
    visit: Visit, between: Relay, browsed: Server
) -> None:
    books = Bookkeeper(browsed)
    await visit.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    heads = Heads(refusals=float("inf"))
    await heads.stand_before(visit.page)
    await cut(visit, between)
    for _ in range(2):
        await asyncio.to_thread(books.open)
    await mend(visit)
    await heads.refused.wait()
    await expect(visit.page.locator(".rows-body [data-event]")).to_have_count(2)
    await cut(visit, between)
    await asyncio.to_thread(books.open)
    heads.refusals = 0
    await mend(visit)

    await expect(visit.page.locator('[data-gap="back"]')).to_have_count(1)
    await expect(visit.page.locator('[data-gap="back"]')).to_contain_text("3 events came in between")
    await expect(visit.page.locator('[data-gap="lost"]')).to_have_count(1)
    await expect(visit.page.locator(".feed-row.is-late")).to_have_count(3)
