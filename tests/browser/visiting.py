"""A person at the dashboard: Chromium on the real page, and what it did behind their back."""

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.async_api import Browser, Locator, Page, Request, WebSocket, async_playwright, expect

from tests.serving import ROOT, Server

PATIENCE_MILLISECONDS = 15_000
LAUNCH = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
# What a person can look at after a run; left out of the repository.
ARTEFACTS = ROOT / "build" / "browser"
AXE = Path(__file__).parent / "axe" / "axe.min.js"
Scheme = Literal["light", "dark"]


@dataclass
class Visit:
    """One tab."""

    page: Page
    origin: str
    addresses: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str = "/", *, key: str | None = None) -> None:
        """Go there; with a key, enter it where it is asked for."""
        await self.page.goto(self.origin + path)
        if key is not None:
            await self.page.get_by_label("API key").fill(key)
            await self.page.get_by_role("button", name="Open").click()
            await self.is_live()

    async def is_live(self) -> None:
        """Wait until the page follows the ledger."""
        await expect(self.page.locator(".standing")).to_have_text("Live")

    def heading(self, name: str) -> Locator:
        return self.page.get_by_role("heading", name=name)

    def holding(self, currency: str) -> Locator:
        """What the portfolio says is held in that currency."""
        return self.page.locator(f'[data-currency="{currency}"] .holding-held')

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    async def picture(self, name: str, of: Locator | None = None) -> None:
        """Keep what it looks like, or a part of it."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        if of is None:
            await self.page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)
        else:
            await of.screenshot(path=ARTEFACTS / f"{name}.png")

    async def serious(self, name: str) -> list[dict[str, Any]]:
        """What axe finds that keeps somebody out; all that it found is kept as `name`."""
        await self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = await self.page.evaluate("axe.run()")
        keep(
            f"axe-{name}.json",
            {
                "axe": found["testEngine"]["version"],
                "page": urlsplit(found["url"]).path,
                "passes": [one["id"] for one in found["passes"]],
                "violations": [short(one) for one in found["violations"]],
                "undecided": [short(one) for one in found["incomplete"]],
            },
        )
        wrong = [one for one in found["violations"] if one["impact"] != "minor"]
        return [short(one) for one in wrong]


def keep(name: str, told: object) -> None:
    """Something to read after a run, beside the pictures."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    (ARTEFACTS / name).write_text(json.dumps(told, indent=2) + "\n")


def short(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule of axe, and where it is not kept."""
    return {
        "id": rule["id"],
        "impact": rule["impact"],
        "help": rule["help"],
        "where": [node["html"] for node in rule["nodes"]],
    }


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Chromium as the machine has it: nothing is downloaded."""
    names = (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    assert path, "these tests need Chromium: install it, or say in CHROMIUM where it is"
    async with async_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MILLISECONDS)
        browser = await playwright.chromium.launch(executable_path=path, args=LAUNCH)
        yield browser
        await browser.close()


@asynccontextmanager
async def visiting(
    browser: Browser,
    origin: str,
    *,
    scheme: Scheme = "light",
    width: int = 1280,
    height: int = 900,
    bypass_csp: bool = False,
    offers_keys: bool = True,
) -> AsyncIterator[Visit]:
    """A fresh profile; at the end nothing has gone wrong in it, and nothing has left the server's address.

    Without `offers_keys` the server hands out no key, as one in production does not.
    """
    context = await browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}, bypass_csp=bypass_csp
    )
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    page = await context.new_page()
    visit = Visit(page, origin)
    if not offers_keys:
        await page.route("**/graphiql/config.json", lambda route: route.fulfill(status=404))

    def asked(request: Request) -> None:
        visit.addresses.append(request.url)

    def opened(socket: WebSocket) -> None:
        visit.addresses.append(socket.url)

    page.on("request", asked)
    page.on("websocket", opened)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("console", lambda said: visit.complaints.append(said.text) if is_serious(said.text) else None)
    yield visit
    await context.close()
    assert visit.complaints == []
    assert {urlsplit(address).netloc for address in visit.addresses} == {urlsplit(origin).netloc}


def is_serious(said: str) -> bool:
    return any(sign in said for sign in ("Content Security Policy", "Uncaught", "Warning:", "TrustedScript"))


def key_of(server: Server, institution_id: str, role: str) -> str:
    """A new key of that institution."""
    made = server.ask(
        "mutation ($input: CreateApiKeyInput!) "
        "{ createApiKey(input: $input) { secret userErrors { code message } } }",
        {"input": {"institutionId": institution_id, "label": f"{role} of the tests", "role": role}},
    )
    secret: str = made["createApiKey"]["secret"]
    return secret
