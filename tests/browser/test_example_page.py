"""The example page as a person meets it: it shows what is held, follows, and goes on after whatever happens."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.async_api import Page, async_playwright, expect

from tests.relay import Relay, relay
from tests.serving import ROOT, Bookkeeper, Server, served

pytestmark = pytest.mark.browser

PATIENCE_MILLISECONDS = 15_000
LAUNCH = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
AFTER = "query ($after: String!) { ledgerEvents(first: 100, after: $after) { edges { node { id } } } }"


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing on the terminal."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """The page's own address, as the README of the examples tells to serve it."""
    handler = partial(Quiet, directory=str(ROOT / "frontend-examples" / "browser"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(origin: str) -> Iterator[Server]:
    """A server that lets that page in."""
    with served("--no-demo", settings={"CORS_ORIGINS": origin}) as running:
        yield running


@pytest.fixture(scope="module")
def books(server: Server) -> Bookkeeper:
    return Bookkeeper(server)


@pytest.fixture
async def between(server: Server) -> AsyncIterator[Relay]:
    """A bad network in front of the server."""
    async with relay(server.port) as made:
        yield made


@pytest.fixture
async def page(origin: str) -> AsyncIterator[Page]:
    """The page in a fresh browser; at the end nothing has gone wrong in it."""
    names = (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    assert path, "these tests need Chromium: install it, or say in CHROMIUM where it is"
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=LAUNCH)
        opened = await browser.new_page()
        opened.set_default_timeout(PATIENCE_MILLISECONDS)
        expect.set_options(timeout=PATIENCE_MILLISECONDS)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        await opened.goto(origin)
        yield opened
        await browser.close()
    assert complaints == []


async def connect(page: Page, port: int, key: str) -> None:
    await page.get_by_label("Server").fill(f"http://127.0.0.1:{port}/graphql")
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Connect").click()


async def is_live(page: Page) -> None:
    await expect(page.locator("#standing")).to_have_text("Live")


async def told(page: Page) -> list[str]:
    """The ids of the events in the ticker, in the order they came."""
    lines = page.locator("#ticker li[data-event]")
    ids: list[str] = await lines.evaluate_all("lines => lines.map(line => line.dataset.event)")
    return ids[::-1]


def head(server: Server) -> str:
    cursor: str = server.ask("{ ledgerHead { cursor } }")["ledgerHead"]["cursor"]
    return cursor


def events_after(server: Server, cursor: str) -> list[str]:
    return [edge["node"]["id"] for edge in server.ask(AFTER, {"after": cursor})["ledgerEvents"]["edges"]]


async def shows_all_since(page: Page, server: Server, cursor: str) -> None:
    """The ticker has every event after the cursor, each once, in order."""
    wanted = events_after(server, cursor)
    await page.locator(f'[data-event="{wanted[-1]}"]').wait_for()
    assert await told(page) == wanted


async def test_it_shows_what_is_held_and_then_what_happens(
    page: Page, server: Server, books: Bookkeeper
) -> None:
    held = await asyncio.to_thread(books.open, "250000.00")
    await connect(page, server.port, server.root_key)
    await is_live(page)
    row = page.locator(f'[data-id="{held}"]')
    await expect(row).to_contain_text("CREATED")

    await asyncio.to_thread(books.fund, held)

    await expect(row).to_contain_text("FUNDED")
    await expect(row.locator("td").nth(5)).to_have_text("250000.00 USD")
    await expect(page.locator("#ticker li").first).to_contain_text("FUNDED, 250000.00 USD")


async def test_it_goes_on_after_a_cut_connection(
    page: Page, server: Server, books: Bookkeeper, between: Relay
) -> None:
    start = head(server)
    await connect(page, between.port, server.root_key)
    await is_live(page)
    await asyncio.to_thread(books.open)
    await shows_all_since(page, server, start)

    between.cut()
    await asyncio.to_thread(books.open)

    await expect(page.locator("#ticker")).to_contain_text("Connection lost")
    await shows_all_since(page, server, start)
    await is_live(page)


async def test_it_goes_on_after_a_reload(page: Page, server: Server, books: Bookkeeper) -> None:
    await connect(page, server.port, server.root_key)
    await is_live(page)
    await asyncio.to_thread(books.open)
    await page.locator("#ticker li[data-event]").first.wait_for()
    left = head(server)

    await page.goto("about:blank")
    await asyncio.to_thread(books.open)
    await asyncio.to_thread(books.open)
    await page.go_back()

    await is_live(page)
    await shows_all_since(page, server, left)


async def test_a_position_that_ends_leaves_the_table(page: Page, server: Server, books: Bookkeeper) -> None:
    ended = await asyncio.to_thread(books.open)
    await connect(page, server.port, server.root_key)
    row = page.locator(f'[data-id="{ended}"]')
    await row.wait_for()
    await asyncio.to_thread(
        server.ask,
        "mutation ($id: ID!) { cancelPosition(input: {id: $id}) { userErrors { code } } }",
        {"id": ended},
    )
    await expect(row).to_have_count(0)


async def test_a_cursor_of_another_ledger_is_forgotten(page: Page, server: Server, books: Bookkeeper) -> None:
    address = f"http://127.0.0.1:{server.port}/graphql"
    await page.evaluate(f'localStorage.setItem("escrowgrid.cursor {address}", "from-somewhere-else")')
    await connect(page, server.port, server.root_key)
    await is_live(page)
    opened = await asyncio.to_thread(books.open)
    await page.locator(f'[data-id="{opened}"]').wait_for()


async def test_a_wrong_key_is_refused_in_words(page: Page, server: Server) -> None:
    await connect(page, server.port, "nobody-has-this-key")
    await expect(page.locator("#standing")).to_have_text("there is no such key, or it is no longer valid")
