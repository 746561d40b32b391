"""The forms of the administration: what is asked for, what was wrong with it and where, and nothing typed is lost."""

import pytest
from playwright.async_api import Locator, expect

from tests.serving import Bookkeeper, Server

from .visiting import Visit, key_of

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def admin_key(browsed: Server, bookkeeper: Bookkeeper) -> str:
    return key_of(browsed, bookkeeper.institution_id, "ADMIN")


async def is_told(field: Locator, words: str) -> None:
    """What is wrong with a field stands at it, belongs to it, and the focus is there."""
    await expect(field).to_be_focused()
    await expect(field).to_have_attribute("aria-invalid", "true")
    told = field.page.locator(f"[id='{((await field.get_attribute('aria-describedby')) or '').split()[0]}']")
    await expect(told).to_contain_text(words)
    await expect(told).to_be_visible()


@pytest.mark.parametrize("part", ["templates", "policies", "keys"])
async def test_each_field_has_a_label_and_says_what_it_takes(
    dashboard: Visit, root_key: str, part: str
) -> None:
    await dashboard.open(f"/administration?of={part}", key=root_key)
    fields = dashboard.page.locator(".form :is(input, select)")
    await expect(fields.first).to_be_visible()
    for field in await fields.all():
        assert await field.evaluate("field => field.labels[0]?.textContent")
        note = await field.get_attribute("aria-describedby")
        assert note
        assert await dashboard.page.locator(f"[id='{note}']").inner_text()
        star = await field.evaluate("field => getComputedStyle(field.labels[0], '::after').content")
        assert ("*" in star) == await field.evaluate("field => field.required")


async def test_a_refusal_stands_at_the_field_and_nothing_typed_is_lost(
    dashboard: Visit, admin_key: str
) -> None:
    await dashboard.open("/administration?of=policies", key=admin_key)
    smallest = dashboard.page.get_by_label("Smallest amount")
    currencies = dashboard.page.get_by_label("Currencies")
    region = dashboard.page.get_by_label("Region")
    await smallest.fill("much")
    await currencies.fill("USD, XX")
    await region.select_option("SG")
    await dashboard.button("Put in force").click()
    await is_told(smallest, "plain digits")

    await smallest.fill("10")
    await expect(dashboard.page.locator(".wrong")).to_have_count(0)
    await dashboard.button("Put in force").click()
    await is_told(currencies, "'XX' is not a currency")
    await currencies.fill("USD, EUR")
    await dashboard.button("Put in force").click()
    await is_told(region, "does not work in SG")
    assert await smallest.input_value() == "10"
    assert await currencies.input_value() == "USD, EUR"
    assert await region.input_value() == "SG"
    assert await dashboard.serious("refused-policy") == []
    await dashboard.picture("refused-policy")


async def test_a_part_of_the_config_is_told_at_its_field(dashboard: Visit, admin_key: str) -> None:
    await dashboard.open("/administration?of=templates", key=admin_key)
    await dashboard.page.get_by_label("Name", exact=True).fill("Roofs")
    await dashboard.page.get_by_label("Currency").fill("USD")
    await dashboard.page.get_by_label("Code").select_option("CONSTR_RETAINAGE")
    assert await dashboard.page.get_by_label("Currency").input_value() == "USD", "another code keeps it"
    percent = dashboard.page.get_by_label("Retained, in percent")
    await percent.fill("a tenth")
    await dashboard.button("Make template").click()
    await is_told(percent, "100")
    assert await percent.input_value() == "a tenth"


async def test_what_is_needed_is_asked_for_before_anything_is_sent(dashboard: Visit, admin_key: str) -> None:
    await dashboard.open("/administration?of=keys", key=admin_key)
    await dashboard.page.get_by_label("Days until it expires").fill("soon")
    await dashboard.button("Make key").click()
    await is_told(dashboard.page.get_by_label("Label"), "needed")
    await dashboard.page.get_by_label("Label").fill("The accountant")
    await dashboard.button("Make key").click()
    days = dashboard.page.get_by_label("Days until it expires")
    await is_told(days, "whole number of days")
    assert await dashboard.page.get_by_label("Label").input_value() == "The accountant"


async def test_root_is_told_whose_keys_there_are(
    dashboard: Visit, browsed: Server, bookkeeper: Bookkeeper, root_key: str
) -> None:
    key_of(browsed, bookkeeper.institution_id, "OPERATOR")
    nobody = browsed.ask(
        "mutation ($input: CreateInstitutionInput!) "
        "{ createInstitution(input: $input) { institution { id } userErrors { code } } }",
        {"input": {"name": "Keyless Bank", "regions": ["US"]}},
    )["createInstitution"]["institution"]["id"]
    await dashboard.open("/administration?of=keys", key=root_key)
    await expect(dashboard.page.get_by_role("row", name="OPERATOR of the tests").first).to_be_visible()
    await expect(dashboard.page.get_by_text("The root key, which you use")).to_be_visible()
    await dashboard.page.get_by_label("Institution").first.select_option(nobody)
    await expect(dashboard.page.get_by_text("Keyless Bank has no keys yet.")).to_be_visible()


@pytest.mark.parametrize("part", ["templates", "policies", "keys"])
async def test_on_a_phone_nothing_scrolls_sideways_and_rows_remain_rows(
    dashboard: Visit, browsed: Server, root_key: str, bookkeeper: Bookkeeper, part: str
) -> None:
    key_of(browsed, bookkeeper.institution_id, "OPERATOR")
    policy = {"institutionId": bookkeeper.institution_id, "region": "US", "maxAmount": "250000.00"}
    browsed.ask(
        "mutation ($input: SetPolicyInput!) { setPolicy(input: $input) { userErrors { code } } }",
        {"input": policy},
    )
    await dashboard.page.set_viewport_size({"width": 390, "height": 850})
    await dashboard.open(f"/administration?of={part}", key=root_key)
    row = dashboard.page.get_by_role("row").filter(has_text="Test Trust").first
    await expect(row.get_by_role("rowheader")).to_be_visible()
    assert await row.get_by_role("cell").count() >= 4
    cut = (
        "[...document.querySelectorAll('main, main *')].filter(one => one.scrollWidth > one.clientWidth + 1 \
        && ['auto', 'scroll'].includes(getComputedStyle(one).overflowX)).map(one => one.className)"
    )
    assert await dashboard.page.evaluate(cut) == []
    assert await dashboard.page.evaluate("document.documentElement.scrollWidth") <= 390
    right = await row.get_by_role("cell").evaluate_all(
        "cells => Math.max(...cells.map(cell => cell.getBoundingClientRect().right))"
    )
    assert right <= 390
    await dashboard.picture(f"{part}-stacked")
