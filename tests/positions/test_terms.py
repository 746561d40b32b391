"""What templates and policies say of positions: judged at creation and at funding, and never of money already held."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from app.institutions.model import Region
from app.positions.model import State
from tests import factories
from tests.positions.conftest import Desk


async def on(desk: Desk, code: str, config: dict[str, Any]) -> str:
    """An asset of a template with that config."""
    made = await factories.template(desk.services, desk.place.institution.id, code=code, config=config)
    return (await factories.asset(desk.services, made)).id


LIMITED = {"currency": "USD", "region": "US", "minAmount": "10.00", "maxAmount": "20.00"}


@pytest.mark.parametrize(
    ("amount", "code"),
    [("9.99", "TEMPLATE_REFUSED"), ("10.00", None), ("20.00", None), ("20.01", "TEMPLATE_REFUSED")],
)
async def test_a_template_limits_the_amount(shared: Desk, amount: str, code: str | None) -> None:
    terms = shared.terms(assetId=await on(shared, "CONSTR_ESCROW", LIMITED), amount=amount)
    if code is None:
        await shared.accepted("createPosition", **terms)
        return
    error = await shared.refused("createPosition", **terms)
    assert (error["code"], error["field"]) == (code, "amount")


async def test_a_template_names_the_currency(shared: Desk) -> None:
    for currency in ("EUR", "JPY", "ETH"):
        terms = shared.terms(currency=currency, amount="1")
        error = await shared.refused("createPosition", **terms)
        assert (error["code"], error["field"]) == ("TEMPLATE_REFUSED", "currency")
        assert "the template takes USD" in error["message"]


@pytest.mark.parametrize(
    ("days", "code"), [(None, "TEMPLATE_REFUSED"), (29.9, None), (30.1, "TEMPLATE_REFUSED")]
)
async def test_a_template_limits_the_tenor(shared: Desk, days: float | None, code: str | None) -> None:
    asset = await on(shared, "TF_INVOICE", {"currency": "USD", "maxTenorDays": 30, "country": "SG"})
    expires_at = None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat()
    terms = shared.terms(assetId=asset, expiresAt=expires_at)
    if code is None:
        await shared.accepted("createPosition", **terms)
        return
    error = await shared.refused("createPosition", **terms)
    assert (error["code"], error["field"]) == (code, "expiresAt")


async def test_a_position_keeps_the_version_of_the_template_its_asset_was_made_of(
    shared: Desk, owner: asyncpg.Connection
) -> None:
    payload = await shared.accepted("createPosition", **shared.terms())
    template_id = await shared.owner.fetchval(
        "SELECT template_id FROM ledger_events WHERE position_id = $1", payload["position"]["id"]
    )
    assert template_id == shared.place.template.id


async def policy(desk: Desk, region: Region = Region.US, **limits: Any) -> str:
    made = await factories.policy(desk.services, desk.place.institution.id, region=region, **limits)
    return made.id


STRICT: list[tuple[dict[str, Any], str]] = [
    ({"min_amount": Decimal("100.01")}, "amount"),
    ({"max_amount": Decimal("99.99")}, "amount"),
    ({"allowed_currencies": ("EUR", "SGD")}, "currency"),
]


@pytest.mark.parametrize(("limits", "field"), STRICT, ids=["min", "max", "currencies"])
async def test_a_policy_judges_creation_and_funding(desk: Desk, limits: dict[str, Any], field: str) -> None:
    created = await desk.position()
    await policy(desk, **limits)
    for mutation, sent in (
        ("createPosition", desk.terms()),
        ("fundPosition", {"id": created.id}),
        ("transitionPosition", {"id": created.id, "toState": "FUNDED"}),
    ):
        error = await desk.refused(mutation, **sent)
        assert (error["code"], error["field"]) == ("POLICY_REFUSED", field)
        assert "the policy for US (version 1)" in error["message"]
    loose = await policy(desk)
    assert (await desk.accepted("fundPosition", id=created.id))["event"]["policyId"] == loose


@pytest.mark.parametrize(("limits", "field"), STRICT, ids=["min", "max", "currencies"])
async def test_no_policy_ever_blocks_money_that_is_held(
    desk: Desk, limits: dict[str, Any], field: str
) -> None:
    funded = [await desk.position(state=State.FUNDED) for _ in range(5)]
    part = await desk.position(state=State.PARTIALLY_RELEASED)
    created = await desk.position()
    await policy(desk, **limits)
    for position, mutation, sent in (
        (funded[0], "releasePosition", {}),
        (funded[1], "releasePosition", {"amount": "1.00"}),
        (funded[1], "releasePosition", {}),
        (funded[2], "cancelPosition", {}),
        (funded[3], "expirePosition", {}),
        (funded[4], "transitionPosition", {"toState": "CANCELLED"}),
        (part, "cancelPosition", {}),
        (created, "cancelPosition", {}),
    ):
        payload = await desk.accepted(mutation, id=position.id, **sent)
        assert payload["event"]["policyId"] is None


async def test_the_version_of_the_policy_that_judged_is_stamped_on_the_event(desk: Desk) -> None:
    first = await policy(desk, max_amount=Decimal(1000))
    payload = await desk.accepted("createPosition", **desk.terms())
    assert payload["event"]["policyId"] == first
    second = await policy(desk, max_amount=Decimal(500))
    position_id = payload["position"]["id"]
    assert (await desk.accepted("fundPosition", id=position_id))["event"]["policyId"] == second
    assert (await desk.accepted("releasePosition", id=position_id))["event"]["policyId"] is None


async def test_without_a_policy_none_is_stamped(desk: Desk) -> None:
    payload = await desk.accepted("createPosition", **desk.terms())
    assert payload["event"]["policyId"] is None


async def test_the_policy_of_another_region_or_institution_does_not_judge(desk: Desk) -> None:
    both = await factories.institution(desk.services, regions=[Region.US, Region.SG])
    admin = factories.principal(both.id)
    asset = await factories.asset(desk.services, await factories.template(desk.services, both.id))
    await factories.policy(desk.services, both.id, region=Region.SG, max_amount=Decimal(1))
    await policy(desk, max_amount=Decimal(1))
    payload = await desk.accepted("createPosition", admin, **desk.terms(assetId=asset.id))
    assert payload["event"]["policyId"] is None


async def test_a_policy_that_is_set_holds_for_the_next_command_of_every_process(desk: Desk) -> None:
    """Only which one is current is read anew; it is never remembered."""
    for number in range(5):
        limit = Decimal(50 if number % 2 else 150)
        await policy(desk, max_amount=limit)
        payload = await desk.mutate("createPosition", **desk.terms())
        assert bool(payload["userErrors"]) == (limit == 50)
