"""The ticker by server-sent events: it goes on from Last-Event-ID after a cut and after a reload."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer

import pytest
from playwright.async_api import Browser, Page, expect

from tests.relay import relay
from tests.serving import ROOT, Bookkeeper, Server, served

from .test_example_page import Quiet, events_after, head, told

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    handler = partial(Quiet, directory=str(ROOT / "frontend-examples" / "sse"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(origin: str) -> Iterator[Server]:
    with served("--no-demo", settings={"CORS_ORIGINS": origin}) as running:
        yield running


async def follow(page: Page, port: int, key: str) -> None:
    await page.get_by_label("Server").fill(f"http://127.0.0.1:{port}/graphql")
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Follow").click()


async def test_it_goes_on_after_a_cut_and_a_reload(
    shared_browser: Browser, origin: str, server: Server
) -> None:
    books = Bookkeeper(server)
    page = await shared_browser.new_page()
    await page.goto(origin)
    start = head(server)
    async with relay(server.port) as between:
        await follow(page, between.port, server.root_key)
        await expect(page.locator("#standing")).to_have_text("Live")
        await asyncio.to_thread(books.open)
        await page.locator("#ticker li").first.wait_for()
        between.cut()
        await asyncio.to_thread(books.open)
        wanted = events_after(server, start)
        await page.locator(f'[data-event="{wanted[-1]}"]').wait_for()
        assert await told(page) == wanted

        left = head(server)
        await page.goto("about:blank")
        await asyncio.to_thread(books.open)
        await page.goto(origin)
        await follow(page, between.port, server.root_key)
        missed = events_after(server, left)
        await page.locator(f'[data-event="{missed[-1]}"]').wait_for()
        assert await told(page) == missed
    await page.close()


async def test_a_wrong_key_is_refused_in_words(shared_browser: Browser, origin: str, server: Server) -> None:
    page = await shared_browser.new_page()
    await page.goto(origin)
    await follow(page, server.port, "nobody-has-this-key")
    await expect(page.locator("#standing")).to_contain_text("there is no such key")
    await page.close()
