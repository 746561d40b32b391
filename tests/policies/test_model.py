"""What a policy allows, and which policies there can be."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ErrorCode, Invalid, Refused
from app.institutions.model import Institution, Region, Vertical
from app.kit.money import CURRENCIES
from app.policies.model import Limits, Policy, check_limits, check_region, judge

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def policy(least=None, most=None, currencies=None):
    return Policy("pol_1", "inst_1", Region.US, 3, least, most, currencies, NOW)


def against(subject, amount, currency="USD"):
    found = judge(subject, amount=Decimal(amount), currency=currency)
    assert all(problem.code is ErrorCode.POLICY_REFUSED and problem.message for problem in found)
    return [problem.field for problem in found]


@pytest.mark.parametrize(
    ("subject", "amount", "currency", "fields"),
    [
        (None, "1", "USD", []),
        (policy(), "1", "USD", []),
        (policy(least=Decimal(10)), "9.99", "USD", ["amount"]),
        (policy(least=Decimal(10)), "10.00", "USD", []),
        (policy(most=Decimal(10)), "10.01", "USD", ["amount"]),
        (policy(most=Decimal(10)), "10", "USD", []),
        (policy(currencies=("USD", "EUR")), "1", "EUR", []),
        (policy(currencies=("EUR",)), "1", "USD", ["currency"]),
        (policy(Decimal(10), Decimal(20), ("EUR",)), "5", "USD", ["currency", "amount"]),
    ],
)
def test_every_reason_is_told(subject, amount, currency, fields):
    assert against(subject, amount, currency) == fields


amounts = st.decimals("0.01", "1e15", places=2)
codes = st.lists(st.sampled_from(sorted(CURRENCIES)), min_size=1, max_size=4, unique=True).map(tuple)


@given(
    st.none() | amounts, st.none() | amounts, st.none() | codes, amounts, st.sampled_from(sorted(CURRENCIES))
)
def test_a_position_is_allowed_exactly_within_all_limits(least, most, currencies, amount, currency):
    allowed = (
        (least is None or amount >= least)
        and (most is None or amount <= most)
        and (currencies is None or currency in currencies)
    )
    assert (against(policy(least, most, currencies), amount, currency) == []) is allowed


def test_the_reason_names_the_region_the_version_and_the_bound():
    (problem,) = judge(policy(least=Decimal("1E+3")), amount=Decimal(10), currency="USD")
    assert problem.message == "the policy for US (version 3) asks for at least 1000; the amount is 10"


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(Decimal("0.000000000000000001"), Decimal(10) ** 15),
        Limits(Decimal(5), Decimal("5.00")),
        Limits(allowed_currencies=("USD", "BTC")),
    ],
)
def test_limits_that_make_sense_are_taken(limits):
    check_limits(limits)


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (Limits(Decimal(0)), "minAmount"),
        (Limits(Decimal(-1)), "minAmount"),
        (Limits(Decimal("NaN")), "minAmount"),
        (Limits(Decimal("1E-19")), "minAmount"),
        (Limits(max_amount=Decimal(10) ** 15 + 1), "maxAmount"),
        (Limits(max_amount=Decimal("Infinity")), "maxAmount"),
        (Limits(Decimal("5.01"), Decimal(5)), "minAmount"),
        (Limits(allowed_currencies=()), "allowedCurrencies"),
        (Limits(allowed_currencies=("USD", "XXX")), "allowedCurrencies"),
        (Limits(allowed_currencies=("usd",)), "allowedCurrencies"),
        (Limits(allowed_currencies=("USD", "USD")), "allowedCurrencies"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits, field):
    with pytest.raises(Invalid) as refusal:
        check_limits(limits)
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.VALIDATION_FAILED, field)


@pytest.mark.parametrize("region", Region)
def test_the_region_is_among_the_institutions_own(region):
    here = Institution("inst_1", "Acme", (Region.US, Region.SG), tuple(Vertical), NOW, NOW)
    if region in here.regions:
        check_region(region, here)
        return
    with pytest.raises(Refused) as refusal:
        check_region(region, here)
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.POLICY_REFUSED, "region")
