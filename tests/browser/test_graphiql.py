"""The GraphiQL page as a person meets it: Chromium, a real server, a real socket."""

import asyncio
import csv
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from graphql import OperationType, get_operation_ast, parse
from playwright.async_api import Browser, Page, WebSocket, async_playwright, expect

import app.http.graphiql
from tests.serving import Bookkeeper

pytestmark = pytest.mark.browser

VIEWER = "query Viewer { viewer { label role } }"
LIVE = "subscription Live { ledgerEvents { cursor } }"
OPERATIONS = json.loads((Path(app.http.graphiql.__file__).parent / "operations.json").read_text())

PATIENCE_SECONDS = 15
LOOK_EVERY_SECONDS = 0.05
LOOKS_MAX = int(PATIENCE_SECONDS / LOOK_EVERY_SECONDS)
LAUNCH = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-background-networking",
          "--disable-component-update")  # fmt: skip
MODEL = "name => __MONACO.editor.getModels().find(model => model.uri.path.endsWith(name))?.getValue()"


@dataclass
class Visit:
    """One person's browser on the page, and what it did behind their back."""

    page: Page
    addresses: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def open(self, server_url: str) -> None:
        """Load the page and wait until both editors are there."""
        await self.page.goto(f"{server_url}/graphql")
        await self.page.locator(".graphiql-query-editor .view-lines").wait_for()
        await self.page.locator(".graphiql-response .view-lines").wait_for()

    async def enter_key(self, key: str) -> None:
        """Type a key into the bar."""
        await self.page.get_by_label("API key", exact=True).fill(key)
        await self.page.get_by_role("button", name="Use key").click()

    async def run(self, document: str) -> None:
        """Replace what stands in the editor and press the play button."""
        await self.page.locator(".graphiql-query-editor .view-lines").click()
        await self.page.keyboard.press("Control+a")
        await self.page.keyboard.insert_text(document)
        await self.press_play()

    async def press_play(self) -> None:
        """Run what stands in the editor, once GraphiQL has understood it."""
        await asyncio.sleep(0.3)
        await self.page.get_by_role("button", name="Execute query").click()

    async def response(self) -> dict[str, Any]:
        """What the response pane shows now."""
        shown: dict[str, Any] = json.loads(await self.page.evaluate(MODEL, "response.json") or "{}")
        return shown

    async def shown(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """What the response pane shows as soon as it is what is wanted."""
        for _ in range(LOOKS_MAX):
            if wanted(response := await self.response()):
                return response
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        pytest.fail(f"the response pane shows {response}")

    async def has_received(self, kind: str) -> None:
        """Wait until the socket has brought a message of this kind."""
        for _ in range(LOOKS_MAX):
            if any(f'"{kind}"' in frame for frame in self.received):
                return
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        pytest.fail(f"the socket has brought {self.received}")

    async def is_told(self, words: str) -> None:
        """Wait until the bar says so."""
        await self.page.locator("header output").get_by_text(words).wait_for()


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Chromium as the machine has it: nothing is downloaded."""
    names = (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    assert path, "these tests need Chromium: install it, or say in CHROMIUM where it is"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=LAUNCH)
        yield browser
        await browser.close()


@pytest.fixture
async def visit(browser: Browser, server_url: str) -> AsyncIterator[Visit]:
    """A fresh browser profile; at the end nothing has gone wrong, and nothing has left the server's address."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    page = await context.new_page()
    visit = Visit(page)

    def opened(socket: WebSocket) -> None:
        visit.addresses.append(socket.url)
        socket.on("framereceived", lambda frame: visit.received.append(str(frame)))

    page.on("request", lambda request: visit.addresses.append(request.url))
    page.on("websocket", opened)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("console", lambda said: visit.complaints.append(said.text) if is_serious(said.text) else None)
    await offer_keys(page, [])
    yield visit
    await context.close()
    assert visit.complaints == []
    assert hosts(visit.addresses) == {urlsplit(server_url).netloc}


async def offer_keys(page: Page, keys: list[dict[str, str]]) -> None:
    """Let the server look like one in production, or like a developer's."""
    path = "**/graphiql/config.json"
    await page.unroute(path)
    await page.route(
        path, lambda route: route.fulfill(status=200 if keys else 404, json={"developmentKeys": keys})
    )


def is_serious(said: str) -> bool:
    return "Content Security Policy" in said or "Uncaught" in said


def is_plain_query(operation: dict[str, Any]) -> bool:
    definition = get_operation_ast(parse(operation["document"]))
    assert definition, f"{operation['name']} holds one operation"
    return definition.operation == OperationType.QUERY and not operation["variables"]


def hosts(addresses: list[str]) -> set[str]:
    return {urlsplit(address).netloc for address in addresses if not address.startswith(("data:", "blob:"))}


async def test_the_page_asks_for_a_key(visit: Visit, server_url: str) -> None:
    await visit.open(server_url)
    await visit.run(VIEWER)
    await visit.is_told("No key")


async def test_a_key_is_entered_once_and_survives_a_reload(
    visit: Visit, server_url: str, root_key: str
) -> None:
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.run(VIEWER)
    await visit.shown(lambda response: "data" in response)

    await visit.page.reload()
    await visit.is_told("Connected as")

    assert visit.page.url == f"{server_url}/graphql"
    assert not any(root_key in address for address in visit.addresses)
    stored = await visit.page.evaluate("JSON.stringify({...localStorage})")
    assert "Viewer" in stored, "GraphiQL keeps a history here"
    assert root_key not in stored, "the key is no part of it"


async def test_a_wrong_key_is_refused_in_words(visit: Visit, server_url: str) -> None:
    await visit.open(server_url)
    await visit.enter_key("no-such-key")
    await visit.is_told("Key refused")


async def test_a_forgotten_key_is_gone(visit: Visit, server_url: str, root_key: str) -> None:
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.page.get_by_role("button", name="Forget key").click()
    await visit.is_told("No key")
    await visit.page.reload()
    await visit.is_told("No key")


async def test_a_development_server_offers_its_keys_and_the_first_is_taken(
    visit: Visit, server_url: str, root_key: str
) -> None:
    keys = [{"label": "Root", "key": root_key}, {"label": "Nobody", "key": "no-such-key"}]
    await offer_keys(visit.page, keys)
    await visit.open(server_url)
    await visit.is_told("Connected as")
    await visit.page.get_by_label("Development key").select_option("Nobody")
    await visit.is_told("Key refused")


async def test_a_query_is_answered(visit: Visit, server_url: str, root_key: str) -> None:
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.run(VIEWER)
    response = await visit.shown(lambda response: "data" in response)
    assert response["data"]["viewer"]["role"] == "ROOT"


async def test_an_example_opens_in_a_tab_of_its_own_and_runs(
    visit: Visit, server_url: str, root_key: str
) -> None:
    example = next(filter(is_plain_query, OPERATIONS))
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    tabs = visit.page.locator(".graphiql-tab")
    before = await tabs.count()

    await visit.page.get_by_role("button", name="Examples").click()
    questions = await visit.page.get_by_role("menuitem").all_inner_texts()
    assert [question.split("\n")[0].strip() for question in questions] == [
        operation["question"] for operation in OPERATIONS
    ]
    await visit.page.get_by_role("menuitem", name=example["question"]).click()

    assert await tabs.count() == before + 1
    assert (await visit.page.evaluate(MODEL, "operation.graphql")).strip() == example["document"].strip()
    await visit.press_play()
    response = await visit.shown(lambda response: "data" in response)
    assert "errors" not in response


async def test_an_example_takes_the_place_of_one_that_nobody_has_changed(
    visit: Visit, server_url: str, root_key: str
) -> None:
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    tabs = visit.page.locator(".graphiql-tab")
    before = await tabs.count()

    async def choose(question: str) -> None:
        await visit.page.get_by_role("button", name="Examples").click()
        await visit.page.get_by_role("menuitem", name=question).click()

    await choose("Which positions expire this week?")
    await visit.press_play()
    await visit.shown(lambda response: "data" in response)
    await choose("What do we hold today, by currency?")
    await expect(tabs).to_have_count(before + 1)
    assert await visit.response() == {}, "the answer to another question is gone"
    await visit.press_play()
    await visit.shown(lambda response: "data" in response)

    await visit.page.locator(".graphiql-query-editor .view-lines").click()
    await visit.page.keyboard.press("Control+End")
    await visit.page.keyboard.insert_text("# mine")
    await choose("Which positions expire this week?")
    await expect(tabs).to_have_count(before + 2)
    await tabs.nth(before).get_by_role("tab").or_(tabs.nth(before).get_by_role("button")).first.click()
    assert "# mine" in await visit.page.evaluate(MODEL, "operation.graphql")


async def test_a_subscription_shows_what_happens_while_it_happens(
    visit: Visit, server_url: str, root_key: str, record_event: Callable[[], Awaitable[object]]
) -> None:
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.run(LIVE)
    await visit.has_received("connection_ack")

    seen: list[dict[str, Any]] = []
    for _ in range(2):
        await asyncio.sleep(0.3)
        await record_event()
        seen.append(await visit.shown(lambda response: "data" in response and response not in seen))

    assert all("errors" not in response for response in seen)
    await visit.page.get_by_role("button", name="Stop query").click()
    assert await visit.response() == seen[-1], "the last value stays"


HELD = "query Held { positions(first: 5) { edges { node { id held currency asset { label } } } } }"


async def test_an_answer_is_shown_as_a_table_and_saved_as_csv(
    visit: Visit, server_url: str, root_key: str, record_event: Callable[[], Awaitable[object]]
) -> None:
    await record_event()
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.run(HELD)
    await visit.shown(lambda response: "data" in response)
    await visit.page.get_by_role("button", name="Table").click()
    heads = await visit.page.locator(".results-table th").all_inner_texts()
    assert heads == ["id", "held", "currency", "asset.label"]
    row = visit.page.locator(".results-table tbody tr").first
    assert await row.locator("td").nth(3).inner_text() == "Test site"

    async with visit.page.expect_download() as downloading:
        await visit.page.get_by_role("button", name="Save CSV").click()
    saved = (await (await downloading.value).path()).read_text(encoding="utf-8-sig")
    rows = list(csv.reader(saved.splitlines()))
    assert rows[0] == heads
    assert rows[1] == await row.locator("td").all_inner_texts()
    await visit.page.get_by_role("button", name="JSON").click()
    await visit.page.locator(".graphiql-response .view-lines").wait_for()


async def test_an_answer_without_rows_says_that_it_has_none(
    visit: Visit, server_url: str, root_key: str
) -> None:
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.run(
        'query Empty { positions(where: {holderReference: {eq: "nobody"}}) { edges { node { id } } } }'
    )
    await expect(visit.page.locator(".results-bar output")).to_have_text("0 rows")
    await expect(visit.page.get_by_role("button", name="Save CSV")).to_be_disabled()


async def test_a_subscription_fills_a_table_row_by_row(
    visit: Visit, server_url: str, root_key: str, record_event: Callable[[], Awaitable[object]]
) -> None:
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.run("subscription Rows { ledgerEvents { cursor node { id newState } } }")
    await visit.has_received("connection_ack")
    await asyncio.sleep(0.3)
    await record_event()
    await visit.page.get_by_role("button", name="Table").click()
    rows = visit.page.locator(".results-table tbody tr")
    await expect(rows).to_have_count(1)
    await record_event()
    await expect(rows).to_have_count(2)
    ids = await rows.locator("td:nth-child(2)").all_inner_texts()
    assert len(set(ids)) == 2
    assert ids == sorted(ids, reverse=True), "the newest comes first"


async def test_errors_and_refusals_are_told_in_words(visit: Visit, server_url: str, root_key: str) -> None:
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.run("query Wrong { positions(first: 100000) { edges { node { id } } } }")
    told = visit.page.locator(".results-errors li")
    await expect(told).to_contain_text("500")
    await visit.run(
        'mutation Refused { fundPosition(input: {id: "pos_0"}) { userErrors { code message field } } }'
    )
    await expect(told).to_contain_text("NOT_FOUND")


async def test_days_in_an_example_are_filled_in(visit: Visit, server_url: str, root_key: str) -> None:
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.page.get_by_role("button", name="Examples").click()
    await visit.page.get_by_role("menuitem", name="Which positions expire this week?").click()
    variables = json.loads(await visit.page.evaluate(MODEL, "variables.json"))
    until = datetime.fromisoformat(variables["until"])
    assert timedelta(days=6) < until - datetime.now(UTC) <= timedelta(days=7)
    await visit.press_play()
    response = await visit.shown(lambda response: "data" in response)
    assert "errors" not in response


async def test_on_a_phone_the_question_stands_above_its_answer(
    visit: Visit, server_url: str, root_key: str
) -> None:
    await visit.page.set_viewport_size({"width": 390, "height": 844})
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.run(VIEWER)
    await visit.shown(lambda response: response.get("data"))
    question = await visit.page.locator(".graphiql-query-editor").bounding_box()
    answer = await visit.page.locator(".graphiql-response").bounding_box()
    assert question
    assert answer
    assert answer["y"] >= question["y"] + question["height"]
    assert min(question["width"], answer["width"]) > 250
    assert answer["height"] > 150
    assert answer["y"] + answer["height"] <= 844


@pytest.mark.parametrize(
    ("document", "rows"),
    [
        ("query One { viewer { label role scopes } }", "1 row"),
        ("query Two { one: viewer { label } other: viewer { role } }", "2 rows"),
        (
            "query Within { institutions(first: 1) { edges { node { id regions } } } viewer { label } }",
            "1 row",
        ),
        ('query None { position(id: "pos_0") { id events { edges { node { id } } } } }', "0 rows"),
    ],
)
async def test_a_thing_is_one_row(
    visit: Visit,
    server_url: str,
    root_key: str,
    record_event: Callable[[], Awaitable[object]],
    document: str,
    rows: str,
) -> None:
    await record_event()
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.run(document)
    await expect(visit.page.locator(".results-bar output")).to_have_text(rows)


async def test_a_thing_with_a_list_is_one_row_and_a_list_alone_is_as_many_as_it_has(
    visit: Visit, server_url: str, root_key: str, bookkeeper: Bookkeeper
) -> None:
    position = await asyncio.to_thread(bookkeeper.open)
    await asyncio.to_thread(bookkeeper.fund, position)
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    events = "events { edges { node { sequence } } }"
    told = visit.page.locator(".results-bar output")
    await visit.run(f'query Thing {{ position(id: "{position}") {{ id {events} }} }}')
    await expect(told).to_have_text("1 row")
    await visit.run(f'query List {{ position(id: "{position}") {{ {events} }} }}')
    await expect(told).to_have_text("2 rows")


async def test_an_example_is_about_something_that_exists(
    visit: Visit, server_url: str, root_key: str, record_event: Callable[[], Awaitable[str]]
) -> None:
    position = await record_event()
    await visit.open(server_url)
    await visit.enter_key(root_key)
    await visit.is_told("Connected as")
    await visit.page.get_by_role("button", name="Examples").click()
    await visit.page.get_by_role("menuitem", name="how do I fund a position?").click()
    await expect(visit.page.locator(".graphiql-tab")).to_have_count(2)
    variables = json.loads(await visit.page.evaluate(MODEL, "variables.json"))
    assert variables["input"]["id"] == position
    await visit.press_play()
    response = await visit.shown(lambda response: "data" in response)
    assert response["data"]["fundPosition"]["position"]["state"] == "FUNDED"


async def test_without_a_key_an_example_says_where_an_id_belongs(visit: Visit, server_url: str) -> None:
    await visit.open(server_url)
    await visit.page.get_by_role("button", name="Examples").click()
    await visit.page.get_by_role("menuitem", name="how do I fund a position?").click()
    await expect(visit.page.locator(".graphiql-tab")).to_have_count(2)
    variables = json.loads(await visit.page.evaluate(MODEL, "variables.json"))
    assert variables["input"]["id"] == "pos_…"
