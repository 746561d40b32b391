"""What a position's screen tells of the chain: where its events are anchored, as it happens, and what proves them."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.serving import ROOT, Bookkeeper, Server, served

from .visiting import Scheme, Visit, key_of, visiting

pytestmark = pytest.mark.browser

# The development chain makes a block a second; heads are anchored every five.
ANCHORED_MILLISECONDS_MAX = 60_000


@pytest.fixture(scope="module")
def anchoring() -> Iterator[Server]:
    with served("--no-demo", "--chain") as running:
        yield running


@pytest.fixture(scope="module")
def books(anchoring: Server) -> Bookkeeper:
    return Bookkeeper(anchoring)


@pytest.fixture(scope="module")
def reader_key(anchoring: Server, books: Bookkeeper) -> str:
    return key_of(anchoring, books.institution_id, "READ_ONLY")


@pytest.fixture
async def visit(shared_browser: Browser, anchoring: Server) -> AsyncIterator[Visit]:
    async with visiting(shared_browser, anchoring.url, offers_keys=False) as made:
        yield made


async def test_an_event_is_told_to_be_anchored_as_it_happens_and_its_proof_holds_elsewhere(
    visit: Visit, anchoring: Server, books: Bookkeeper, reader_key: str, tmp_path: Path
) -> None:
    position = await asyncio.to_thread(books.open, "900000.00")
    await visit.open(f"/positions/{position}", key=reader_key)
    happened = visit.page.locator(".timeline > li")
    await expect(happened).to_have_count(1)
    await asyncio.to_thread(books.fund, position)
    await expect(happened).to_have_count(2)
    newest = happened.first
    await expect(newest.locator(".anchored")).to_have_text("Not anchored yet")

    # Nobody reloads the page, and nobody asks for it again.
    final = newest.get_by_text("Anchored for good in block")
    await expect(final).to_be_visible(timeout=ANCHORED_MILLISECONDS_MAX)
    await final.click()
    await expect(newest.locator(".anchored .proof")).to_contain_text("the first")
    async with visit.page.expect_download() as coming:
        await newest.get_by_role("button", name="Download the proof").click()
    event = await newest.get_attribute("data-event")
    await expect(newest.get_by_role("status")).to_have_text(f"Saved as proof-{event}.json.")
    await visit.picture("position-anchored")
    await visit.picture("anchored", newest)

    file = tmp_path / (await coming.value).suggested_filename
    await (await coming.value).save_as(file)
    # As the page says, but for what only a node can tell: docs/anchoring.md's test asks one.
    command = await newest.locator(".command").inner_text()
    assert command == f"python3 verify_proof.py {file.name} --rpc NODE --contract ADDRESS"
    checked = await asyncio.to_thread(checks, file)
    assert checked.returncode == 0, checked.stdout
    told = anchoring.ask("{ anchorChains { contract } }")["anchorChains"][0]["contract"]
    assert json.loads(file.read_text())["anchor"]["contract"] == told
    file.write_text(file.read_text().replace("900000.00", "900001.00"))
    assert (await asyncio.to_thread(checks, file)).returncode == 1


def checks(file: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "verify_proof.py", file], capture_output=True, text=True, check=False
    )


async def test_after_a_lost_connection_the_anchors_are_shown_as_they_are_now(
    visit: Visit, anchoring: Server, books: Bookkeeper, reader_key: str
) -> None:
    position = await asyncio.to_thread(books.open, "1.00")
    await visit.open(f"/positions/{position}", key=reader_key)
    line = visit.page.locator(".timeline > li .anchored")
    await expect(line).to_be_visible()
    await visit.page.context.set_offline(True)
    await expect(visit.page.locator(".standing")).to_contain_text("Connection lost at")
    state = (
        "query ($id: ID!) { position(id: $id) { events(first: 1) { edges { node { anchor { state } } } } } }"
    )
    for _ in range(60):
        found = await asyncio.to_thread(anchoring.ask, state, {"id": position})
        anchor = found["position"]["events"]["edges"][0]["node"]["anchor"]
        if anchor and anchor["state"] == "FINAL":
            break
        await asyncio.sleep(0.5)
    await visit.page.context.set_offline(False)
    await visit.is_live()
    await expect(line.locator("summary")).to_contain_text("Anchored for good in block")


async def test_where_nothing_is_anchored_nothing_is_said_of_it(
    dashboard: Visit, browsed: Server, bookkeeper: Bookkeeper
) -> None:
    position = await asyncio.to_thread(bookkeeper.open, "1.00")
    key = key_of(browsed, bookkeeper.institution_id, "READ_ONLY")
    await dashboard.open(f"/positions/{position}", key=key)
    await expect(dashboard.page.locator(".timeline > li")).to_have_count(1)
    await expect(dashboard.page.locator(".anchored")).to_have_count(0)
    assert "nchored" not in await dashboard.page.locator("main").inner_text()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
async def test_everybody_can_read_it(
    shared_browser: Browser,
    anchoring: Server,
    books: Bookkeeper,
    reader_key: str,
    scheme: Scheme,
    width: int,
) -> None:
    position = await asyncio.to_thread(books.open, "5.00")
    async with visiting(
        shared_browser, anchoring.url, scheme=scheme, width=width, bypass_csp=True, offers_keys=False
    ) as visit:
        await visit.open(f"/positions/{position}", key=reader_key)
        summary = visit.page.locator(".anchored > summary")
        await expect(summary).to_contain_text("Anchored", timeout=ANCHORED_MILLISECONDS_MAX)
        await summary.focus()
        await visit.page.keyboard.press("Enter")
        await expect(visit.button("Download the proof")).to_be_visible()
        assert await visit.serious(f"position-anchored-{scheme}-{width}") == []
        assert await visit.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        await visit.picture(f"position-anchored-{scheme}-{width}")
