"""The dashboard's live feed: complete and in order, whatever the network or the server does meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from playwright.async_api import Browser, expect

from app.storage.database import Address
from tests.e2e.conftest import ROOT_KEY, settings_of, started, until_ready
from tests.e2e.conftest import shared as shared  # noqa: PLC0414 - the fixture, by its name
from tests.relay import Relay, relay
from tests.serving import Bookkeeper, Server, free_port

from .visiting import Visit, key_of, visiting

pytestmark = pytest.mark.browser

EVENTS = (
    "query ($where: LedgerEventWhere) { ledgerEvents(first: 500, where: $where) { edges { node { id } } } }"
)


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


def ledger(server: Server, institution_id: str) -> list[str]:
    found = server.ask(EVENTS, {"where": {"institutionId": {"eq": institution_id}}})
    return [edge["node"]["id"] for edge in found["ledgerEvents"]["edges"]]


async def shown(visit: Visit) -> list[str]:
    """The events of the feed, the oldest first."""
    ids: list[str] = await visit.page.locator(".rows-body [data-event]").evaluate_all(
        "rows => rows.sort((one, other) => "
        "other.closest('[data-index]').dataset.index - one.closest('[data-index]').dataset.index)"
        ".map(row => row.dataset.event)"
    )
    return ids


async def shows_all(visit: Visit, server: Server, institution_id: str) -> None:
    """Each event once, in the ledger's order."""
    wanted = ledger(server, institution_id)
    await visit.page.locator(f'[data-event="{wanted[-1]}"]').wait_for()
    assert await shown(visit) == wanted


async def test_a_cut_network_is_shown_and_what_came_in_between_is_marked(
    visit: Visit, between: Relay, browsed: Server
) -> None:
    books = Bookkeeper(browsed)
    await visit.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    for _ in range(3):
        await asyncio.to_thread(books.open)
    await shows_all(visit, browsed, books.institution_id)

    await visit.page.context.set_offline(True)
    between.cut()
    await expect(visit.page.locator(".standing")).to_contain_text("Connection lost at")
    await expect(visit.page.locator(".trouble")).to_contain_text("comes in when it is back")
    for _ in range(4):
        await asyncio.to_thread(books.open)
    await visit.page.context.set_offline(False)

    await visit.is_live()
    await expect(visit.page.locator('[data-gap="back"]')).to_contain_text("4 events came in between")
    await expect(visit.page.locator('[data-gap="lost"]')).to_contain_text("Connection lost at")
    await expect(visit.page.locator(".feed-row.is-late")).to_have_count(4)
    await visit.picture("live-after-a-cut")
    await asyncio.to_thread(books.open)
    await shows_all(visit, browsed, books.institution_id)
    await expect(visit.page.locator(".feed-row.is-late")).to_have_count(4)


@pytest.mark.parametrize("chosen", [False, True], ids=["all-that-the-key-sees", "an-institution-is-chosen"])
async def test_more_than_is_kept_is_counted_once_it_has_caught_up(
    visit: Visit, between: Relay, browsed: Server, chosen: bool
) -> None:
    books, others = Bookkeeper(browsed), Bookkeeper(browsed)
    if chosen:
        await visit.open("/live", key=browsed.root_key)
        await visit.page.get_by_label("Institution").select_option(books.institution_id)
    else:
        await visit.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    await asyncio.to_thread(books.open)
    await shows_all(visit, browsed, books.institution_id)
    await visit.page.context.set_offline(True)
    between.cut()
    await expect(visit.page.locator(".standing")).to_contain_text("Connection lost at")
    await asyncio.to_thread(others.crowd, 1)
    await asyncio.to_thread(books.crowd, 21)
    await visit.page.context.set_offline(False)
    back = visit.page.locator('[data-gap="back"]')
    told: set[str] = set()
    while "2100 events came in between" not in "".join(told):
        told.add((await back.inner_text(timeout=60_000)).partition(": ")[2])
        assert told <= {"catching up with what came in between", "2100 events came in between"}


async def test_what_could_not_be_read_is_read_when_the_network_is_back(
    visit: Visit, between: Relay, browsed: Server
) -> None:
    books = Bookkeeper(browsed)
    position = await asyncio.to_thread(books.open)
    await visit.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    await visit.page.context.set_offline(True)
    between.cut()
    await visit.page.get_by_role("link", name="Positions").click()
    note = visit.page.locator(".heading .note")
    await expect(note).to_have_text("The server cannot be reached.")
    await visit.page.context.set_offline(False)
    await expect(visit.page.locator(f'[data-position="{position}"]')).to_be_visible()
    await expect(note).to_have_text("1 position")


@pytest.mark.parametrize(
    ("links", "appears"),
    [
        (("Portfolio",), "By state"),
        (("Positions",), "1 position"),
        (("TEST-1",), "Where it is"),
        (("Administration", "Templates"), "Test escrow"),
        (("Administration", "Policies"), "In force since"),
        (("Administration", "Keys"), "ADMIN of the tests"),
    ],
    ids=lambda found: "-".join(found) if isinstance(found, tuple) else "",
)
async def test_a_screen_whose_reading_failed_reads_again_by_itself(
    visit: Visit, browsed: Server, links: tuple[str, ...], appears: str
) -> None:
    """While the feed is live: it is not the return of the connection that brings it."""
    books = Bookkeeper(browsed)
    await asyncio.to_thread(books.open)
    await visit.open("/live", key=key_of(browsed, books.institution_id, "ADMIN"))
    await visit.page.route("**/graphql", lambda route: route.abort())
    for link in links:
        await visit.page.get_by_role("link", name=link, exact=True).click()
    await expect(visit.page.get_by_text("The server cannot be reached.").first).to_be_visible()
    await visit.is_live()
    await visit.page.unroute("**/graphql")
    await expect(visit.page.get_by_text(appears).first).to_be_visible()
    await expect(visit.page.get_by_text("The server cannot be reached.")).to_have_count(0)


async def test_many_cuts_lose_and_repeat_nothing(visit: Visit, between: Relay, browsed: Server) -> None:
    books = Bookkeeper(browsed)
    await visit.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    for _ in range(5):
        await asyncio.to_thread(books.open)
        between.cut()
        await asyncio.to_thread(books.open)
        await asyncio.sleep(0.3)
    await visit.is_live()
    await shows_all(visit, browsed, books.institution_id)


async def test_a_server_that_is_killed_comes_back_and_the_feed_goes_on(
    shared_browser: Browser, shared: Address
) -> None:
    server = Server(f"http://127.0.0.1:{free_port()}", ROOT_KEY)
    command = ("serve", "--port", str(server.port))
    settings = settings_of(shared) | {"ROOT_API_KEY": ROOT_KEY}
    with ExitStack() as stack:
        first = stack.enter_context(started(command, settings))
        await asyncio.to_thread(until_ready, server, first)
        books = await asyncio.to_thread(Bookkeeper, server)
        async with visiting(shared_browser, server.url) as tab:
            await tab.open("/live", key=key_of(server, books.institution_id, "READ_ONLY"))
            await asyncio.to_thread(books.open)
            await shows_all(tab, server, books.institution_id)
            first.kill()
            first.wait()
            await expect(tab.page.locator(".standing")).to_contain_text("Connection lost at")
            second = stack.enter_context(started(command, settings))
            await asyncio.to_thread(until_ready, server, second)
            await asyncio.to_thread(books.open)
            await tab.is_live()
            await shows_all(tab, server, books.institution_id)


async def test_it_holds_still_and_goes_on(dashboard: Visit, browsed: Server) -> None:
    books = Bookkeeper(browsed)
    await dashboard.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    await asyncio.to_thread(books.open)
    await expect(dashboard.page.locator(".rows-body .row")).to_have_count(1)
    await dashboard.button("Hold still").click()
    await asyncio.to_thread(books.open)
    await expect(dashboard.page.get_by_text("1 waiting")).to_be_visible()
    await expect(dashboard.page.locator(".rows-body .row")).to_have_count(1)
    await dashboard.button("Go on").click()
    await expect(dashboard.page.locator(".rows-body .row")).to_have_count(2)


async def test_what_came_in_between_is_told_also_while_it_holds_still(
    visit: Visit, between: Relay, browsed: Server
) -> None:
    books = Bookkeeper(browsed)
    await visit.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    await asyncio.to_thread(books.open)
    await shows_all(visit, browsed, books.institution_id)
    await visit.page.context.set_offline(True)
    between.cut()
    await expect(visit.page.locator(".standing")).to_contain_text("Connection lost at")
    await asyncio.to_thread(books.crowd, 30)
    await visit.page.context.set_offline(False)
    back = visit.page.locator('[data-gap="back"]')
    await expect(back).to_contain_text("catching up")
    await visit.button("Hold still").click()
    # Three thousand take a busy machine a quarter of a minute.
    await expect(back).to_contain_text("3000 events came in between", timeout=60_000)
    waiting = await visit.page.locator(".heading .note").inner_text()
    assert 2000 < int(waiting.removesuffix(" waiting")) <= 3000, "more than are kept"


SHIFTS = (
    "() => { window.shift = 0; new PerformanceObserver(list => { for (const entry of list.getEntries()) "
    "window.shift += entry.value; }).observe({type: 'layout-shift'}); }"
)


async def flood(server: Server, books: Bookkeeper) -> None:
    """A hundred events at a thousand a minute: five at a time, every 0.3 seconds."""
    item = {"assetId": books.asset_id, "holderReference": "FLOOD", "currency": "USD", "amount": "1.00"}
    document = (
        "mutation ($input: CreatePositionsInput!) { createPositions(input: $input) "
        "{ results { userErrors { code } } userErrors { code } } }"
    )
    for _ in range(20):
        await asyncio.to_thread(server.ask, document, {"input": {"items": [item] * 5}})
        await asyncio.sleep(0.25)


async def test_a_thousand_events_a_minute_move_nothing_that_is_being_read(
    dashboard: Visit, browsed: Server
) -> None:
    books = Bookkeeper(browsed)
    await asyncio.to_thread(books.crowd, 1)
    await dashboard.open("/live", key=key_of(browsed, books.institution_id, "READ_ONLY"))
    await dashboard.page.evaluate(SHIFTS)
    body = dashboard.page.locator(".rows-body")
    await body.evaluate("body => { body.scrollTop = 440; }")
    await asyncio.sleep(0.3)
    read = await dashboard.page.locator('.rows-body [data-index="12"] [data-event]').get_attribute(
        "data-event"
    )
    line = dashboard.page.locator(f'.rows-body [data-event="{read}"]')
    before = await line.bounding_box()

    await flood(browsed, books)
    await dashboard.page.wait_for_timeout(500)

    assert await line.bounding_box() == before, "the line that is being read stays where it is"
    assert await dashboard.page.evaluate("window.shift") < 0.01
    await body.evaluate("body => { body.scrollTop = 0; }")
    newest = ledger_newest(browsed, books.institution_id)
    await dashboard.page.locator(f'[data-event="{newest}"]').wait_for()


@pytest.mark.parametrize("path", ["/", "/positions"])
async def test_nor_does_it_make_other_screens_jump(dashboard: Visit, browsed: Server, path: str) -> None:
    books = Bookkeeper(browsed)
    await asyncio.to_thread(books.crowd, 1)
    await dashboard.open(path, key=key_of(browsed, books.institution_id, "READ_ONLY"))
    await dashboard.page.wait_for_load_state("networkidle")
    await dashboard.page.evaluate(SHIFTS)
    await flood(browsed, books)
    await dashboard.page.wait_for_timeout(2_500)
    assert await dashboard.page.evaluate("window.shift") < 0.01


def ledger_newest(server: Server, institution_id: str) -> str:
    found = server.ask(
        EVENTS.replace("first: 500", "first: 1, direction: DESC"),
        {"where": {"institutionId": {"eq": institution_id}}},
    )
    newest: str = found["ledgerEvents"]["edges"][0]["node"]["id"]
    return newest
