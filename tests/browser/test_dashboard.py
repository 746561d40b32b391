"""The dashboard's screens: they show what the ledger says, and what a person does there reaches it."""

import asyncio
import itertools
from typing import Any

import pytest
from playwright.async_api import Route, expect

from tests.serving import Bookkeeper, Server, served, wait_for_demo

from .visiting import Visit, chromium, key_of, visiting

pytestmark = pytest.mark.browser

MOVE = (
    "mutation ($input: TransitionPositionInput!) "
    "{ transitionPosition(input: $input) { position { version } userErrors { code message } } }"
)
HISTORY = (
    "query ($id: ID!) { position(id: $id) { state held released version "
    "events(first: 50) { edges { node { newState amountMoved reason } } } } }"
)


@pytest.fixture(scope="module")
def admin_key(browsed: Server, bookkeeper: Bookkeeper) -> str:
    return key_of(browsed, bookkeeper.institution_id, "ADMIN")


def history(server: Server, position: str) -> Any:
    return server.ask(HISTORY, {"id": position})["position"]


async def funded(bookkeeper: Bookkeeper, amount: str = "1000.00") -> str:
    position = await asyncio.to_thread(bookkeeper.open, amount)
    await asyncio.to_thread(bookkeeper.fund, position)
    return position


class TestTheKey:
    async def test_it_is_asked_for_survives_a_reload_and_never_stands_in_an_address(
        self, dashboard: Visit, admin_key: str
    ) -> None:
        await dashboard.open("/positions", key=admin_key)
        await dashboard.page.reload()
        await dashboard.is_live()
        assert dashboard.page.url == f"{dashboard.origin}/positions"
        assert not any(admin_key in address for address in dashboard.addresses)
        assert admin_key not in await dashboard.page.evaluate("JSON.stringify({...localStorage})")

    async def test_a_wrong_one_is_refused_in_words(self, dashboard: Visit) -> None:
        await dashboard.open()
        await dashboard.page.get_by_label("API key").fill("nobody-has-this-key")
        await dashboard.button("Open").click()
        await expect(dashboard.page.get_by_role("alert")).to_contain_text("Key refused: there is no such key")

    async def test_one_that_is_revoked_ends_the_visit(
        self, dashboard: Visit, browsed: Server, bookkeeper: Bookkeeper
    ) -> None:
        key = key_of(browsed, bookkeeper.institution_id, "OPERATOR")
        await dashboard.open(key=key)
        found = browsed.ask(
            "query ($where: ApiKeyWhere) { apiKeys(where: $where) { edges { node { id } } } }",
            {"where": {"label": {"eq": "OPERATOR of the tests"}, "role": {"eq": "OPERATOR"}}},
        )
        for edge in found["apiKeys"]["edges"]:
            await asyncio.to_thread(
                browsed.ask,
                "mutation ($id: ID!) { revokeApiKey(input: {id: $id}) { userErrors { code } } }",
                {"id": edge["node"]["id"]},
            )
        await expect(dashboard.page.get_by_role("alert")).to_contain_text("Key refused")

    async def test_a_forgotten_one_is_gone(self, dashboard: Visit, admin_key: str) -> None:
        await dashboard.open(key=admin_key)
        await dashboard.button("Use another key").click()
        await expect(dashboard.page.get_by_label("API key")).to_be_visible()
        await dashboard.page.reload()
        await expect(dashboard.page.get_by_label("API key")).to_be_visible()


async def test_a_newcomer_sees_the_demo_at_once() -> None:
    with served() as server:
        await asyncio.to_thread(wait_for_demo, server)
        async with chromium() as browser, visiting(browser, server.url) as visit:
            await visit.open()
            await visit.is_live()
            for currency in ("EUR", "GBP", "SGD", "USD"):
                await expect(visit.holding(currency)).to_be_visible()
            await expect(visit.page.locator(".newest .line")).to_have_count(8)
            await visit.picture("portfolio")


class TestPortfolio:
    async def test_sums_are_those_of_the_ledger_and_follow_it(
        self, dashboard: Visit, browsed: Server, bookkeeper: Bookkeeper, admin_key: str
    ) -> None:
        await funded(bookkeeper, "1234567.89")
        await dashboard.open(key=admin_key)
        asked = (
            "query ($where: PositionWhere) { positionSummary(where: $where, groupBy: []) { currency held } }"
        )
        mine = {"where": {"institutionId": {"eq": bookkeeper.institution_id}}}
        held = browsed.ask(asked, mine)["positionSummary"][0]["held"]
        await expect(dashboard.holding("USD")).to_have_text(f"{float(held):,.2f}")

        await funded(bookkeeper, "0.11")

        after = browsed.ask(asked, mine)["positionSummary"][0]["held"]
        assert after != held
        await expect(dashboard.holding("USD")).to_have_text(f"{float(after):,.2f}")

    async def test_a_state_leads_to_its_positions(
        self, dashboard: Visit, bookkeeper: Bookkeeper, admin_key: str
    ) -> None:
        await funded(bookkeeper)
        await dashboard.open(key=admin_key)
        await dashboard.page.locator(".by-state").get_by_role("link", name="Funded").first.click()
        await expect(dashboard.heading("Positions")).to_be_visible()
        await expect(dashboard.button("Funded")).to_have_attribute("aria-pressed", "true")
        states = dashboard.page.locator(".rows-body .cell-state")
        await expect(states.first).to_have_text("Funded")
        assert set(await states.all_inner_texts()) == {"Funded"}


class TestPositions:
    async def test_ten_thousand_are_scrolled_through_with_few_on_the_page(
        self, dashboard: Visit, browsed: Server
    ) -> None:
        crowded = Bookkeeper(browsed)
        await asyncio.to_thread(crowded.crowd, 100)
        key = key_of(browsed, crowded.institution_id, "READ_ONLY")
        await dashboard.open("/positions", key=key)
        await expect(dashboard.page.get_by_text("10,000 positions")).to_be_visible()
        body = dashboard.page.locator(".rows-body")
        last = 0
        for _ in itertools.repeat(None, 400):
            last = int(await dashboard.page.locator(".rows-body .row").last.get_attribute("data-index") or 0)
            if last == 9_999:
                break
            assert await dashboard.page.locator(".rows-body .row").count() < 80
            await body.evaluate("body => { body.scrollTop = body.scrollHeight; }")
            await asyncio.sleep(0.03)
        assert last == 9_999
        ids = await dashboard.page.locator(".rows-body [data-position]").evaluate_all(
            "rows => rows.map(row => row.dataset.position)"
        )
        assert len(set(ids)) == len(ids)

    async def test_the_server_filters_and_sorts(
        self, dashboard: Visit, bookkeeper: Bookkeeper, admin_key: str
    ) -> None:
        await asyncio.to_thread(bookkeeper.open, "9000000.00")
        small = await asyncio.to_thread(bookkeeper.open, "0.01")
        await dashboard.open("/positions", key=admin_key)
        amounts = dashboard.page.locator(".rows-body .cell-agreed")
        await dashboard.page.get_by_label("Order").select_option("Largest first")
        await expect(amounts.first).to_have_text("9,000,000.00")
        await dashboard.page.get_by_label("Order").select_option("Smallest first")
        await expect(amounts.first).to_have_text("0.01")

        first = dashboard.page.locator(".rows-body .row").first
        await expect(first.locator("[data-position]")).to_have_attribute("data-position", small)
        holder = await first.locator(".cell-holder a").inner_text()
        await dashboard.page.get_by_label("Holder, in full").fill(holder)
        await expect(dashboard.page.locator(f'[data-position="{small}"]')).to_be_visible()
        others = dashboard.page.locator(".rows-body .cell-holder a").filter(has_not_text=holder)
        await expect(others).to_have_count(0)
        await dashboard.page.reload()
        await expect(dashboard.page.get_by_label("Holder, in full")).to_have_value(holder)
        await dashboard.page.get_by_label("Holder, in full").fill("TEST-")
        await expect(dashboard.page.locator(".heading .note")).to_have_text(
            "0 positions: it takes the holder's whole reference, letter by letter"
        )

    async def test_going_back_leads_to_the_place_in_the_list(self, dashboard: Visit, browsed: Server) -> None:
        crowded = Bookkeeper(browsed)
        await asyncio.to_thread(crowded.crowd, 3)
        key = key_of(browsed, crowded.institution_id, "READ_ONLY")
        await dashboard.open("/positions", key=key)
        page, body = dashboard.page, dashboard.page.locator(".rows-body")
        await page.locator('[data-index="0"]').wait_for()
        # Until all are there: whatever is asked for on the way may have come by now, or not.
        while not await page.locator('[data-index="299"]').count():
            await body.evaluate("body => { body.scrollTop = body.scrollHeight; }")
            await asyncio.sleep(0.05)
        await body.evaluate("body => { body.scrollTop = 200 * 52; }")
        read = page.locator('[data-index="203"] [data-position]')
        position = await read.get_attribute("data-position")
        await read.get_by_role("link").click(force=True)
        await page.wait_for_url(f"**/positions/{position}")
        await expect(dashboard.heading("Where it is")).to_be_visible()

        await page.go_back()

        await expect(page.locator(f'[data-index="203"] [data-position="{position}"]')).to_be_in_viewport()
        assert await body.evaluate("body => body.scrollTop") == 200 * 52
        await expect(page.get_by_text("300 positions")).to_be_visible()
        await page.get_by_role("link", name="Portfolio").click()
        await page.get_by_role("link", name="Positions").click()
        await expect(page.locator('[data-index="0"]')).to_be_in_viewport()

    async def test_a_filter_that_is_refused_shows_no_rows_of_another_question(
        self, dashboard: Visit, bookkeeper: Bookkeeper, admin_key: str
    ) -> None:
        await asyncio.to_thread(bookkeeper.open)
        await dashboard.open("/positions", key=admin_key)
        rows = dashboard.page.locator(".rows-body [data-position]")
        await expect(rows.first).to_be_visible()
        await dashboard.page.get_by_label("Currency").fill("XYZ")
        note = dashboard.page.locator(".heading .note")
        await expect(note).to_contain_text("there is no such currency")
        await expect(note).not_to_contain_text("`")
        await expect(rows).to_have_count(0)
        await dashboard.page.get_by_label("Currency").fill("USD")
        await expect(rows.first).to_be_visible()

    async def test_a_row_shows_what_happens_to_it_and_new_ones_are_told(
        self, dashboard: Visit, bookkeeper: Bookkeeper, admin_key: str
    ) -> None:
        position = await asyncio.to_thread(bookkeeper.open, "321.00")
        await dashboard.open("/positions", key=admin_key)
        row = dashboard.page.locator(f'.row:has([data-position="{position}"])')
        await expect(row.locator(".cell-state")).to_have_text("Created")
        await asyncio.to_thread(bookkeeper.fund, position)
        await expect(row.locator(".cell-state")).to_have_text("Funded")
        await expect(row.locator(".cell-held .amount")).to_have_text("321.00 USD")

        added = await asyncio.to_thread(bookkeeper.open)
        await dashboard.button("1 opened since: show").click()
        # The link covers its row.
        await dashboard.page.locator(f'[data-position="{added}"] .cell-agreed').click(force=True)
        await dashboard.page.wait_for_url(f"**/positions/{added}")


class TestPosition:
    async def test_it_is_funded_and_released_by_buttons(
        self, dashboard: Visit, browsed: Server, bookkeeper: Bookkeeper, admin_key: str
    ) -> None:
        position = await asyncio.to_thread(bookkeeper.open, "1000.00")
        await dashboard.open(f"/positions/{position}", key=admin_key)
        page = dashboard.page
        await dashboard.button("Fund 1,000.00 USD").click()
        await dashboard.button("Fund now").click()
        await expect(page.get_by_text("Done: funded, version 2.")).to_be_visible()

        await dashboard.button("Release a part").click()
        await page.get_by_label("Amount").fill("1000")
        await expect(page.get_by_text("That is all that is held")).to_be_visible()
        await expect(dashboard.button("Release a part now")).to_be_disabled()
        await page.get_by_label("Amount").fill("250.505")
        await expect(page.get_by_text("USD has 2 digits after the point")).to_be_visible()
        await expect(dashboard.button("Release a part now")).to_be_disabled()
        await page.get_by_label("Amount").fill("250.5")
        await page.get_by_label("Reason").fill("Stage one")
        await dashboard.button("Release a part now").click()
        await expect(page.locator(".figure.is-held dd")).to_have_text("749.50 USD")

        truth = history(browsed, position)
        assert (truth["held"], truth["released"], truth["version"]) == ("749.50", "250.50", 3)
        assert truth["events"]["edges"][-1]["node"]["reason"] == "Stage one"
        happened = page.locator(".timeline > li")
        await expect(happened).to_have_count(3)
        await expect(happened.first).to_contain_text("Stage one")
        await happened.first.get_by_text("Postings and hash").click()
        await expect(happened.first.locator(".postings")).to_contain_text("−250.50 USD")
        await expect(page.get_by_role("img", name="The position is at Partially released")).to_be_visible()
        await expect(page.locator(".track.is-walked")).to_have_count(2)
        await dashboard.picture("position")

    async def test_what_somebody_else_does_appears(
        self, dashboard: Visit, bookkeeper: Bookkeeper, admin_key: str
    ) -> None:
        position = await asyncio.to_thread(bookkeeper.open, "77.00")
        await dashboard.open(f"/positions/{position}", key=admin_key)
        await expect(dashboard.button("Fund 77.00 USD")).to_be_visible()
        await asyncio.to_thread(bookkeeper.fund, position)
        await expect(dashboard.button("Release all 77.00 USD")).to_be_visible()
        await expect(dashboard.page.locator(".timeline > li")).to_have_count(2)

    async def test_a_stale_look_is_refused_in_words_and_changes_nothing(
        self, dashboard: Visit, browsed: Server, bookkeeper: Bookkeeper, admin_key: str
    ) -> None:
        position = await funded(bookkeeper)
        await dashboard.open(f"/positions/{position}", key=admin_key)
        await dashboard.button("Release all").click()
        moved = {"id": position, "toState": "PARTIALLY_RELEASED", "amount": "1.00"}
        await asyncio.to_thread(browsed.ask, MOVE, {"input": moved})
        await expect(dashboard.page.get_by_text("has moved since you opened this form")).to_be_visible()

        await dashboard.button("Release all now").click()

        await expect(dashboard.page.get_by_role("alert").first).to_have_text(
            "Refused: somebody moved this position while you were looking. "
            "It is shown anew; look again before you go on."
        )
        await expect(dashboard.page.get_by_text("has moved since you opened this form")).to_have_count(0)
        await expect(dashboard.button("Release all now")).to_be_focused()
        assert history(browsed, position)["version"] == 3
        await dashboard.button("I have looked at it again").click()
        await expect(dashboard.button("Release all now")).to_be_focused()
        await dashboard.button("Release all now").click()
        await expect(dashboard.page.get_by_text("Done: released, version 4.")).to_be_visible()
        await expect(dashboard.page.get_by_text("Done: released, version 4.")).to_be_focused()

    async def test_an_answer_that_is_lost_is_asked_for_again_and_acts_once(
        self, dashboard: Visit, browsed: Server, bookkeeper: Bookkeeper, admin_key: str
    ) -> None:
        position = await funded(bookkeeper)
        await dashboard.open(f"/positions/{position}", key=admin_key)
        lost = 0

        async def lose(route: Route) -> None:
            nonlocal lost
            if lost or "mutation Move" not in (route.request.post_data or ""):
                await route.fallback()
            else:
                lost += 1
                await route.fetch()
                await route.abort()

        await dashboard.page.route("**/graphql", lose)
        await dashboard.button("Release a part").click()
        await dashboard.page.get_by_label("Amount").fill("400.00")
        await dashboard.button("Release a part now").click()
        await expect(dashboard.page.get_by_text("it acts once, whatever happened")).to_be_visible()
        await dashboard.button("Send again").click()
        await expect(dashboard.page.get_by_text("Done: partially released, version 3.")).to_be_visible()
        assert lost == 1
        assert history(browsed, position)["released"] == "400.00"

    async def test_who_may_only_read_sees_closed_ways_with_the_reason(
        self, dashboard: Visit, browsed: Server, bookkeeper: Bookkeeper
    ) -> None:
        position = await funded(bookkeeper)
        key = key_of(browsed, bookkeeper.institution_id, "READ_ONLY")
        await dashboard.open(f"/positions/{position}", key=key)
        await expect(dashboard.button("Release all")).to_be_disabled()
        await expect(dashboard.page.locator(".moves-closed")).to_have_text(
            "This key may look, but not move positions."
        )
        await expect(dashboard.page.get_by_role("link", name="Administration")).to_have_count(0)

    async def test_a_position_of_others_is_not_there(self, dashboard: Visit, browsed: Server) -> None:
        others = Bookkeeper(browsed)
        foreign = await asyncio.to_thread(Bookkeeper(browsed).open)
        await dashboard.open(f"/positions/{foreign}", key=key_of(browsed, others.institution_id, "ADMIN"))
        await expect(dashboard.page.get_by_role("alert")).to_contain_text("There is no such position")


class TestAdministration:
    async def test_a_template_is_made(self, dashboard: Visit, admin_key: str) -> None:
        await dashboard.open("/administration?of=templates", key=admin_key)
        await dashboard.page.get_by_label("Name", exact=True).fill("Retained for roofs")
        await dashboard.page.get_by_label("Code").select_option("CONSTR_RETAINAGE")
        await dashboard.page.get_by_label("Currency").fill("USD")
        await dashboard.page.get_by_label("Retained, in percent").fill("110")
        await dashboard.button("Make template").click()
        await expect(dashboard.page.locator(".wrong")).to_contain_text("100")
        await dashboard.page.get_by_label("Retained, in percent").fill("10")
        await dashboard.button("Make template").click()
        await expect(dashboard.page.get_by_text("Retained for roofs is there.")).to_be_visible()
        row = dashboard.page.get_by_role("row", name="Retained for roofs")
        await expect(row).to_contain_text("retainagePercentage 10")

    async def test_a_policy_is_put_in_force_and_judges_the_next_position(
        self, dashboard: Visit, browsed: Server
    ) -> None:
        strict = Bookkeeper(browsed)
        await dashboard.open(
            "/administration?of=policies", key=key_of(browsed, strict.institution_id, "ADMIN")
        )
        await dashboard.page.get_by_label("Largest amount").fill("500")
        await dashboard.button("Put in force").click()
        await expect(dashboard.page.get_by_role("row", name="US version 1")).to_contain_text("500")
        with pytest.raises(AssertionError, match="POLICY_REFUSED"):
            await asyncio.to_thread(strict.open, "501.00")

    async def test_a_key_is_made_told_once_and_revoked(
        self, dashboard: Visit, browsed: Server, admin_key: str
    ) -> None:
        await dashboard.open("/administration?of=keys", key=admin_key)
        await dashboard.page.get_by_label("Label").fill("The accountant")
        await dashboard.page.get_by_label("Role").select_option("Auditor")
        await dashboard.button("Make key").click()
        secret = await dashboard.page.locator(".secret > code").inner_text()
        asked = Server(browsed.url, secret).ask("{ viewer { role label } }")
        assert asked["viewer"] == {"role": "AUDITOR", "label": "The accountant"}
        await dashboard.button("I have kept it").click()
        assert secret not in await dashboard.page.content()

        await dashboard.button("Revoke The accountant").click()
        await dashboard.button("Revoke it").click()
        await expect(dashboard.page.get_by_role("row", name="The accountant")).to_contain_text("Revoked")
        await asyncio.sleep(1.5)
        refused = Server(browsed.url, secret).post("{ viewer { role } }")
        assert refused["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
