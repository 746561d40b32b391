"""Whom the dashboard reaches: by keyboard, by screen reader, in the dark, on a phone, over a slow line."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.serving import Bookkeeper, Server

from .visiting import Scheme, Visit, keep, key_of, visiting

pytestmark = pytest.mark.browser

STATIC = Path(__file__).parents[2] / "app" / "http" / "dashboard" / "static"
BUILT_BYTES_MAX = 1_000_000
SENT_BYTES_MAX = 300_000
FIRST_PAINT_MILLISECONDS_MAX = 3_000
# Google's bound for a good page is 0.1.
SHIFT_MAX = 0.05
LARGEST_PAINT_MILLISECONDS_MAX = 4_000
OBSERVE = """
window.seen = {shift: 0, blocked: 0, largest: 0};
const observe = (type, take) =>
  new PerformanceObserver(list => list.getEntries().forEach(take)).observe({type, buffered: true});
observe('layout-shift', ({value}) => { window.seen.shift += value; });
observe('longtask', ({duration}) => { window.seen.blocked += duration - 50; });
observe('largest-contentful-paint', ({startTime}) => { window.seen.largest = startTime; });
"""
TIMINGS = """() => ({
  firstByte: performance.getEntriesByType('navigation')[0].responseStart,
  firstPaint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
  largestPaint: window.seen.largest,
  blocked: window.seen.blocked,
  shift: window.seen.shift,
})"""


@dataclass(frozen=True)
class Line:
    """How the page comes, and to what machine."""

    kilobytes_per_second: int = 0
    latency_milliseconds: int = 0
    slowdown: int = 1


# The second is what Lighthouse takes for a phone.
LINES = {"this-machine": Line(), "slow-4g-phone": Line(200, 150, 4)}
SCREENS = ("/", "/positions", "/live", "/administration?of=templates", "/administration?of=policies",
           "/administration?of=keys")  # fmt: skip
LOOKS: tuple[tuple[Scheme, int], ...] = (("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390))


@pytest.fixture(scope="module")
def admin_key(browsed: Server, bookkeeper: Bookkeeper) -> str:
    return key_of(browsed, bookkeeper.institution_id, "ADMIN")


@pytest.fixture(scope="module")
def position(bookkeeper: Bookkeeper) -> str:
    found = bookkeeper.open("5000.00")
    bookkeeper.fund(found)
    return found


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
async def looked_at(
    request: pytest.FixtureRequest, shared_browser: Browser, server_url: str
) -> AsyncIterator[Visit]:
    scheme, width = request.param
    async with visiting(
        shared_browser, server_url, scheme=scheme, width=width, height=850, bypass_csp=True, offers_keys=False
    ) as visit:
        yield visit


async def test_axe_finds_nothing_serious_on_any_screen(
    looked_at: Visit, admin_key: str, position: str, request: pytest.FixtureRequest
) -> None:
    found = {}
    look = request.node.callspec.id
    await looked_at.open()
    found["key"] = await looked_at.serious(f"key-{look}")
    await looked_at.open(key=admin_key)
    for path in (*SCREENS, f"/positions/{position}"):
        await looked_at.open(path)
        await looked_at.is_live()
        await looked_at.page.wait_for_load_state("networkidle")
        if position in path:
            await looked_at.button("Release a part").click()
            await looked_at.page.get_by_label("Amount").fill("12")
        name = path.strip("/").replace("/", "-").replace("?of=", "-") or "portfolio"
        name = "position" if position in name else name
        found[path] = await looked_at.serious(f"{name}-{look}")
        await looked_at.picture(f"{name}-{look}")
    assert not {path: wrong for path, wrong in found.items() if wrong}


async def test_an_address_where_nothing_is_says_so_and_leads_on(looked_at: Visit) -> None:
    await looked_at.open("/nothing")
    await expect(looked_at.heading("There is no such page")).to_be_visible()
    assert await looked_at.serious("nothing") == []
    await looked_at.page.get_by_role("link", name="dashboard").click()
    await expect(looked_at.page.get_by_label("API key")).to_be_visible()


async def test_nothing_is_wider_than_a_phone(looked_at: Visit, admin_key: str, position: str) -> None:
    await looked_at.open(key=admin_key)
    for path in (*SCREENS, f"/positions/{position}"):
        await looked_at.open(path)
        await looked_at.is_live()
        wide = await looked_at.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, path
    cut = "map => map.scrollWidth - map.clientWidth"
    assert await looked_at.page.locator(".lifecycle").evaluate(cut) <= 0, "its last stages are seen"


async def test_a_position_is_found_and_moved_without_a_mouse(
    dashboard: Visit, bookkeeper: Bookkeeper, admin_key: str
) -> None:
    await asyncio.to_thread(bookkeeper.open, "10.00")
    opened = await asyncio.to_thread(bookkeeper.open, "20.00")
    page = dashboard.page
    await dashboard.open(key=admin_key)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for _ in range(3):
        await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Positions", exact=True)).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(dashboard.heading("Positions")).to_be_visible()
    await expect(page.locator("main")).to_be_focused()

    links = page.locator(".rows-body .row a")
    await links.first.focus()
    await page.keyboard.press("ArrowDown")
    await expect(links.nth(1)).to_be_focused()
    await page.keyboard.press("ArrowUp")
    await expect(links.first).to_be_focused()
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/positions/{opened}")
    await dashboard.button("Fund").focus()
    await page.keyboard.press("Enter")
    await dashboard.button("Fund now").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status").filter(has_text="Done: funded")).to_be_visible()
    await page.go_back()
    await expect(dashboard.heading("Positions")).to_be_visible()


async def test_light_and_dark_are_chosen_and_remembered(dashboard: Visit, admin_key: str) -> None:
    await dashboard.open(key=admin_key)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = await dashboard.page.evaluate(ground)
    await dashboard.page.get_by_label("Appearance").select_option("Dark")
    dark = await dashboard.page.evaluate(ground)
    assert dark != light
    await dashboard.page.reload()
    await dashboard.is_live()
    assert await dashboard.page.evaluate(ground) == dark


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
async def test_it_loads_little_and_soon_and_only_once(
    shared_browser: Browser,
    server_url: str,
    line: Line,
    request: pytest.FixtureRequest,
    report: Callable[[str], None],
) -> None:
    async with visiting(shared_browser, server_url) as visit:
        session = await visit.page.context.new_cdp_session(visit.page)
        await session.send("Network.enable")
        if line.kilobytes_per_second:
            await session.send(
                "Network.emulateNetworkConditions",
                {
                    "offline": False,
                    "latency": line.latency_milliseconds,
                    "downloadThroughput": line.kilobytes_per_second * 1024,
                    "uploadThroughput": line.kilobytes_per_second * 1024,
                },
            )
            await session.send("Emulation.setCPUThrottlingRate", {"rate": line.slowdown})
        sent: list[float] = []
        session.on("Network.loadingFinished", lambda done: sent.append(done["encodedDataLength"]))
        await visit.page.add_init_script(OBSERVE)
        await visit.open()
        await visit.is_live()
        live = await visit.page.evaluate("performance.now()")
        await visit.page.wait_for_load_state("networkidle")
        told = await visit.page.evaluate(TIMINGS)
        told |= {"live": live, "kilobytes": sum(sent) / 1000, "requests": len(sent)}
        name = request.node.callspec.id
        keep(f"load-{name}.json", told)
        report(
            f"dashboard over {name}: first byte {told['firstByte']:.0f} ms, first paint {told['firstPaint']:.0f} ms, "
            f"largest paint {told['largestPaint']:.0f} ms, live after {live:.0f} ms, blocked {told['blocked']:.0f} ms, "
            f"shift {told['shift']:.3f}, {told['kilobytes']:.0f} kB in {told['requests']} requests"
        )
        assert told["shift"] < SHIFT_MAX
        assert told["firstPaint"] < FIRST_PAINT_MILLISECONDS_MAX
        assert told["largestPaint"] < LARGEST_PAINT_MILLISECONDS_MAX
        assert 50_000 < sum(sent) < SENT_BYTES_MAX

        await visit.page.reload()
        await visit.is_live()
        again = await visit.page.evaluate(
            "performance.getEntriesByType('resource').filter(({name}) => name.includes('/dashboard/assets/'))"
            ".map(({transferSize}) => transferSize)"
        )
        assert again
        assert sum(again) == 0, "files that are named by their content are not fetched twice"


def test_what_was_built_is_small_and_whole() -> None:
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < BUILT_BYTES_MAX
    assert not [path for path in files if path.suffix == ".map"]
    licenses = (STATIC / "licenses.md").read_text()
    for name in ("react", "urql", "graphql-ws", "newsreader", "instrument-sans"):
        assert f"\n## {name} " in licenses
