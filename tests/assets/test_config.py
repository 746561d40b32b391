"""The config of each code: what it demands, and every way to get it wrong."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.assets.codes import BUILT_IN, CODES, ConfigField, Kind, TemplateCode, registry
from app.assets.config import COUNTRIES, check_config
from app.errors import ErrorCode, Invalid
from app.institutions.model import Vertical
from app.kit.money import CURRENCIES, BadAmount, check_amount, parse_decimal

ESCROW = {"currency": "USD", "region": "US"}
RETAINAGE = {"currency": "USD", "retainagePercentage": 10}
INVOICE = {"currency": "USD", "maxTenorDays": 90, "country": "SG"}
LC = {"currency": "USD", "issuingBankCountry": "AE", "maxTenorDays": 180}
GOOD = {"CONSTR_ESCROW": ESCROW, "CONSTR_RETAINAGE": RETAINAGE, "TF_INVOICE": INVOICE, "TF_LC": LC}


@pytest.mark.parametrize(
    ("code", "config"),
    [
        *GOOD.items(),
        ("CONSTR_ESCROW", ESCROW | {"minAmount": "1000.00", "maxAmount": "1000"}),
        ("CONSTR_ESCROW", ESCROW | {"currency": "JPY", "maxAmount": "5000"}),
        ("CONSTR_ESCROW", ESCROW | {"currency": "ETH", "minAmount": "0.000000000000000001"}),
        ("CONSTR_RETAINAGE", RETAINAGE | {"retainagePercentage": 0}),
        ("CONSTR_RETAINAGE", RETAINAGE | {"retainagePercentage": Decimal("99.5")}),
        ("CONSTR_RETAINAGE", RETAINAGE | {"retainagePercentage": "100"}),
        ("TF_INVOICE", INVOICE | {"maxTenorDays": 1}),
    ],
)
def test_a_complete_config_is_taken(code, config):
    check_config(CODES[code], config, "US")


@pytest.mark.parametrize(
    ("code", "change", "field"),
    [
        ("CONSTR_ESCROW", {"currency": "XXX"}, "config.currency"),
        ("CONSTR_ESCROW", {"currency": "usd"}, "config.currency"),
        ("CONSTR_ESCROW", {"currency": ["USD"]}, "config.currency"),
        ("CONSTR_ESCROW", {"region": "SG"}, "config.region"),
        ("CONSTR_ESCROW", {"minAmount": 1000}, "config.minAmount"),
        ("CONSTR_ESCROW", {"minAmount": "1e3"}, "config.minAmount"),
        ("CONSTR_ESCROW", {"minAmount": "0"}, "config.minAmount"),
        ("CONSTR_ESCROW", {"minAmount": "-5"}, "config.minAmount"),
        ("CONSTR_ESCROW", {"minAmount": "1.005"}, "config.minAmount"),
        ("CONSTR_ESCROW", {"minAmount": None}, "config.minAmount"),
        ("CONSTR_ESCROW", {"maxAmount": "1000000000000000.01"}, "config.maxAmount"),
        ("CONSTR_ESCROW", {"minAmount": "10.01", "maxAmount": "10"}, "config.minAmount"),
        ("CONSTR_ESCROW", {"currency": "JPY", "maxAmount": "1.5"}, "config.maxAmount"),
        ("CONSTR_ESCROW", {"maxTenorDays": 5}, "config.maxTenorDays"),
        ("CONSTR_RETAINAGE", {"retainagePercentage": 101}, "config.retainagePercentage"),
        ("CONSTR_RETAINAGE", {"retainagePercentage": -1}, "config.retainagePercentage"),
        ("CONSTR_RETAINAGE", {"retainagePercentage": True}, "config.retainagePercentage"),
        ("CONSTR_RETAINAGE", {"retainagePercentage": "ten"}, "config.retainagePercentage"),
        ("TF_INVOICE", {"maxTenorDays": 0}, "config.maxTenorDays"),
        ("TF_INVOICE", {"maxTenorDays": 36_501}, "config.maxTenorDays"),
        ("TF_INVOICE", {"maxTenorDays": "90"}, "config.maxTenorDays"),
        ("TF_INVOICE", {"maxTenorDays": Decimal("90.5")}, "config.maxTenorDays"),
        ("TF_INVOICE", {"maxTenorDays": True}, "config.maxTenorDays"),
        ("TF_INVOICE", {"country": "XX"}, "config.country"),
        ("TF_INVOICE", {"country": "sg"}, "config.country"),
        ("TF_LC", {"issuingBankCountry": 7}, "config.issuingBankCountry"),
        ("TF_LC", {"country": "SG"}, "config.country"),
    ],
)
def test_a_wrong_value_or_an_unknown_key_is_named(code, change, field):
    with pytest.raises(Invalid) as refusal:
        check_config(CODES[code], GOOD[code] | change, "US")
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.VALIDATION_FAILED, field)
    assert refusal.value.message
    assert field not in refusal.value.message


@pytest.mark.parametrize(
    ("code", "name"),
    [(code.code, name) for code in BUILT_IN for name, field in code.fields.items() if field.required],
)
def test_no_required_key_may_be_left_out(code, name):
    config = {key: value for key, value in GOOD[code].items() if key != name}
    with pytest.raises(Invalid) as refusal:
        check_config(CODES[code], config, "US")
    assert refusal.value.field == f"config.{name}"


@given(
    st.sampled_from(sorted(CURRENCIES)),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-10, max_value=10**16),
)
def test_an_amount_is_taken_exactly_when_money_of_the_currency_takes_it(currency, amount):
    text = format(amount.normalize(), "f")
    try:
        check_amount(parse_decimal(text), CURRENCIES[currency])
        taken = True
    except BadAmount:
        taken = False
    config = {"currency": currency, "region": "US", "maxAmount": text}
    if taken:
        check_config(CODES["CONSTR_ESCROW"], config, "US")
    else:
        with pytest.raises(Invalid):
            check_config(CODES["CONSTR_ESCROW"], config, "US")


def test_the_countries_are_those_of_iso_3166():
    assert len(COUNTRIES) == 249


def test_a_vertical_can_add_a_code_but_not_redefine_one():
    added = TemplateCode("GAS_CYLINDER", Vertical.CONSTRUCTION, {"currency": ConfigField(Kind.CURRENCY)})
    assert registry([added]).keys() == CODES.keys() | {"GAS_CYLINDER"}
    with pytest.raises(AssertionError, match="one definition"):
        registry([BUILT_IN[0]])
    with pytest.raises(AssertionError, match="currency"):
        registry([TemplateCode("FREE", Vertical.CONSTRUCTION, {})])
