"""What a template enforces on positions, and who may have which template."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.assets.codes import CODES
from app.assets.config import check_config
from app.assets.model import (
    AssetTemplate,
    TemplateDraft,
    Terms,
    check_lifecycle,
    check_onchain,
    check_place,
    check_successor,
    check_word,
    judge_position,
)
from app.errors import ErrorCode, Invalid, Refused
from app.institutions.model import Institution, Region, Vertical

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def template(code="CONSTR_ESCROW", **config):
    return AssetTemplate(
        id="tmpl_1",
        institution_id="inst_1",
        name="t",
        version=1,
        code=code,
        vertical=CODES[code].vertical,
        region=Region.US,
        lifecycle_name="escrow",
        lifecycle_version=1,
        config={"currency": "USD"} | config,
        metadata_schema=None,
        onchain_enabled=False,
        onchain_chain_id=None,
        created_at=NOW,
    )


def judged(subject, amount="1000", currency="USD", expires_at=None):
    found = judge_position(subject, amount=Decimal(amount), currency=currency, expires_at=expires_at, now=NOW)
    assert all(problem.code is ErrorCode.TEMPLATE_REFUSED for problem in found)
    return [problem.field for problem in found]


@pytest.mark.parametrize(
    ("config", "amount", "currency", "expires", "against"),
    [
        ({}, "0.01", "USD", None, []),
        ({}, "1000", "EUR", None, ["currency"]),
        ({"minAmount": "1000"}, "10", "USD", None, ["amount"]),
        ({"minAmount": "1000"}, "1000.00", "USD", None, []),
        ({"maxAmount": "1000"}, "1000.01", "USD", None, ["amount"]),
        ({"maxAmount": "1000"}, "1000", "USD", None, []),
        ({"maxTenorDays": 30}, "5", "USD", None, ["expiresAt"]),
        ({"maxTenorDays": 30}, "5", "USD", timedelta(days=30), []),
        ({"maxTenorDays": 30}, "5", "USD", timedelta(days=30, microseconds=1), ["expiresAt"]),
        ({"minAmount": "10", "maxTenorDays": 1}, "5", "EUR", None, ["currency", "amount", "expiresAt"]),
        ({}, "5", "USD", timedelta(days=9999), []),
    ],
)
def test_a_position_meets_everything_the_template_says(config, amount, currency, expires, against):
    expires_at = None if expires is None else NOW + expires
    assert judged(template(**config), amount, currency, expires_at) == against


amounts = st.decimals("0.01", "1e15", places=2)


@given(st.none() | amounts, st.none() | amounts, amounts)
def test_amounts_are_allowed_exactly_between_the_bounds(least, most, amount):
    config = {
        name: str(value) for name, value in (("minAmount", least), ("maxAmount", most)) if value is not None
    }
    allowed = (least is None or amount >= least) and (most is None or amount <= most)
    assert (judged(template(**config), amount) == []) is allowed


@given(st.integers(1, 36_500), st.timedeltas(timedelta(days=-10), timedelta(days=40_000)))
def test_the_tenor_bounds_the_expiry(days, ahead):
    assert (judged(template(maxTenorDays=days), expires_at=NOW + ahead) == []) is (
        ahead <= timedelta(days=days)
    )


def test_the_terms_are_what_the_config_says():
    assert template().terms == Terms("USD")
    full = template(minAmount="1.50", maxAmount="7", maxTenorDays=9)
    assert full.terms == Terms("USD", Decimal("1.50"), Decimal(7), 9)


def test_a_template_is_the_key_of_a_cache_by_its_id():
    assert hash(template()) == hash(template(minAmount="5"))
    assert template() != template(minAmount="5")


def institution(regions=(Region.US,), verticals=tuple(Vertical)):
    return Institution("inst_1", "Acme", regions, verticals, NOW, NOW)


def draft(code="CONSTR_ESCROW", region=Region.US, vertical=None):
    return TemplateDraft(name="t", code=code, region=region, config={}, vertical=vertical)


@pytest.mark.parametrize("code", sorted(CODES))
@pytest.mark.parametrize("vertical", [None, *Vertical])
def test_a_code_belongs_to_one_vertical(code, vertical):
    if vertical in (None, CODES[code].vertical):
        check_place(draft(code, vertical=vertical), CODES[code], institution())
        return
    with pytest.raises(Refused) as refusal:
        check_place(draft(code, vertical=vertical), CODES[code], institution())
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.TEMPLATE_REFUSED, "vertical")


@pytest.mark.parametrize("region", Region)
def test_the_region_is_among_the_institutions_own(region):
    here = institution(regions=(Region.US, Region.EU_UK))
    if region in here.regions:
        check_place(draft(region=region), CODES["CONSTR_ESCROW"], here)
        return
    with pytest.raises(Refused) as refusal:
        check_place(draft(region=region), CODES["CONSTR_ESCROW"], here)
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.TEMPLATE_REFUSED, "region")


def test_the_vertical_is_among_the_institutions_own():
    with pytest.raises(Refused) as refusal:
        check_place(draft("TF_LC"), CODES["TF_LC"], institution(verticals=(Vertical.CONSTRUCTION,)))
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.TEMPLATE_REFUSED, "code")


@pytest.mark.parametrize(
    ("change", "field"), [({"code": "TF_LC"}, "code"), ({"region": Region.SG}, "region"), ({}, None)]
)
def test_a_successor_keeps_code_and_region(change, field):
    if field is None:
        check_successor(draft(), template())
        return
    with pytest.raises(Refused) as refusal:
        check_successor(draft(**change), template())
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.DUPLICATE_NAME, field)


def test_only_known_lifecycles_are_taken():
    known = frozenset({("escrow", 1)})
    check_lifecycle(("escrow", 1), known)
    for unknown in (("escrow", 2), ("rental", 1), ("", 0)):
        with pytest.raises(Invalid, match="escrow@1"):
            check_lifecycle(unknown, known)


@pytest.mark.parametrize(
    ("enabled", "chain_id", "taken"),
    [
        (False, None, True),
        (False, 1, True),
        (True, 1, True),
        (True, 2**53 - 1, True),
        (True, None, False),
        (True, 0, False),
        (False, -1, False),
        (True, 2**53, False),
    ],
)
def test_a_template_on_a_chain_names_it(enabled, chain_id, taken):
    if taken:
        check_onchain(enabled=enabled, chain_id=chain_id)
        return
    with pytest.raises(Invalid) as refusal:
        check_onchain(enabled=enabled, chain_id=chain_id)
    assert refusal.value.field == "onchain.chainId"


@pytest.mark.parametrize("value", ["", "x" * 256, "a\0b", "\ud800"])
def test_a_name_that_cannot_be_stored_is_refused(value):
    with pytest.raises(Invalid):
        check_word(value, "name", length_max=255)


def test_messages_leave_the_name_of_the_field_to_the_field() -> None:
    for attempt, field in (
        (lambda: check_word("", "label", length_max=5), "label"),
        (lambda: check_config(CODES["CONSTR_ESCROW"], {}, Region.US), "config.currency"),
        (lambda: check_lifecycle(("escrow", 9), frozenset({("escrow", 1)})), "lifecycleVersion"),
    ):
        with pytest.raises(Invalid) as refused:
            attempt()
        assert refused.value.field == field
        assert not refused.value.message.startswith(field)
    assert refused.value.message == "there is no lifecycle escrow@9; known: escrow@1"
