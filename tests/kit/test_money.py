"""Money: parsed strictly, kept exactly, spelled in one way."""

from decimal import Decimal, Inexact, InvalidOperation

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit import money
from app.kit.money import AMOUNT_MAX, CURRENCIES, BadAmount, check_amount, key, parse_decimal, spell

USD, JPY, ETH, BTC, KWD = (CURRENCIES[code] for code in ("USD", "JPY", "ETH", "BTC", "KWD"))
UNITS = st.integers(1, 10**33)


@pytest.mark.parametrize(
    "text", ["0", "1", "-1", "0.1", "12.50", "1250.00", "999999999999999.999999999999999999", "9" * 30]
)
def test_plain_decimals_are_taken(text: str) -> None:
    assert parse_decimal(text) == Decimal(text)
    assert format(parse_decimal(text), "f") == text


@pytest.mark.parametrize(
    "text",
    ["", " ", "1 ", " 1", "1\n", "+1", "--1", "1e3", "1E3", "1e-3", "NaN", "nan", "sNaN", "Infinity", "-inf", "∞",
     "01", "00", ".5", "5.", "1.2.3", "1,000", "1_000", "0x10", "١٢", "½", "1.", "-", "$1", "1.0f", "true", "\x001",
     "1" * 31, "0." + "1" * 31],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(BadAmount, match="plain digits"):
        parse_decimal(text)


@pytest.mark.parametrize(
    ("code", "exponent"),
    [("USD", 2), ("EUR", 2), ("GBP", 2), ("SGD", 2), ("AED", 2), ("JPY", 0), ("KWD", 3), ("BHD", 3), ("CLF", 4),
     ("BTC", 8), ("ETH", 18), ("USDC", 6)],
)  # fmt: skip
def test_each_currency_has_its_exponent(code: str, exponent: int) -> None:
    assert CURRENCIES[code].exponent == exponent
    assert CURRENCIES[code].code == code
    assert CURRENCIES[code].kind == ("TOKEN" if code in {"BTC", "ETH", "USDC"} else "FIAT")


def test_codes_are_capital_letters() -> None:
    assert all(code.isascii() and code.isupper() for code in CURRENCIES)
    assert all(0 <= currency.exponent <= money.EXPONENT_MAX for currency in CURRENCIES.values())


@pytest.mark.parametrize("currency", CURRENCIES.values(), ids=lambda currency: currency.code)
def test_the_smallest_unit_is_taken_and_a_tenth_of_it_is_not(currency: money.Currency) -> None:
    unit = Decimal(1).scaleb(-currency.exponent)
    assert check_amount(unit, currency) == unit
    with pytest.raises(BadAmount, match=f"{currency.exponent} fraction digits; the amount has"):
        check_amount(unit.scaleb(-1), currency)


def test_more_fraction_digits_are_refused_even_when_they_are_zeros() -> None:
    with pytest.raises(BadAmount, match="USD has 2 fraction digits; the amount has 3"):
        check_amount(Decimal("1.000"), USD)


@pytest.mark.parametrize("text", ["0", "0.00", "-0", "-0.01", "-1"])
def test_an_amount_is_greater_than_zero(text: str) -> None:
    with pytest.raises(BadAmount, match="greater than zero"):
        check_amount(Decimal(text), USD)


def test_an_amount_is_at_most_ten_to_the_fifteen() -> None:
    assert check_amount(AMOUNT_MAX, USD) == Decimal(10) ** 15
    assert check_amount(AMOUNT_MAX, ETH) == Decimal(10) ** 15
    with pytest.raises(BadAmount, match=r"at most 1000000000000000$"):
        check_amount(AMOUNT_MAX + Decimal("0.01"), USD)
    with pytest.raises(BadAmount, match="at most"):
        check_amount(Decimal("1000000000000000.000000000000000001"), ETH)


@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_an_amount_is_finite(text: str) -> None:
    with pytest.raises(BadAmount, match="finite"):
        check_amount(Decimal(text), USD)


def test_an_amount_leaves_with_the_digits_of_its_currency() -> None:
    assert str(check_amount(Decimal(5), USD)) == "5.00"
    assert str(check_amount(Decimal("1E+3"), USD)) == "1000.00"
    assert str(check_amount(Decimal(5), JPY)) == "5"
    assert spell(Decimal(7), 18) == "7.000000000000000000"
    assert spell(Decimal("1E+15"), 2) == "1000000000000000.00"
    assert money.plain(Decimal("1E+3")) == "1000"


def test_a_digit_is_never_rounded_away() -> None:
    with pytest.raises(Inexact):
        spell(Decimal("0.005"), 2)
    with pytest.raises(Inexact):
        money.add(Decimal(10) ** 70, Decimal(1).scaleb(-18))


def test_sums_keep_more_digits_than_the_default_context() -> None:
    large = Decimal("999999999999999.999999999999999999")
    assert money.add(large, Decimal("0.000000000000000001")) == Decimal(10) ** 15
    assert money.add(*[large] * 1000) == Decimal("999999999999999999.999999999999999000")
    assert money.add() == 0


@pytest.mark.parametrize("text", ["sNaN", "Infinity", "1E+100"])
def test_what_is_no_amount_is_never_spelled(text: str) -> None:
    with pytest.raises(InvalidOperation):
        money.quantise(Decimal(text), 2)


@given(st.lists(UNITS, min_size=1, max_size=20), st.integers(0, 18))
def test_a_sum_of_amounts_is_the_sum_of_their_smallest_units(units: list[int], exponent: int) -> None:
    total = money.add(*(Decimal(unit).scaleb(-exponent, money.EXACT) for unit in units))
    assert int(total.scaleb(exponent, money.EXACT)) == sum(units)
    assert Decimal(spell(total, exponent)) == total


@given(UNITS, UNITS)
def test_the_order_of_keys_is_the_order_of_amounts(left: int, right: int) -> None:
    one, two = (Decimal(units).scaleb(-18, money.EXACT) for units in (left, right))
    assert (key(one) < key(two)) == (one < two)
    assert (key(one) == key(two)) == (one == two)
    assert len(key(one)) == len(key(two)) == 36


def test_the_key_of_an_amount_does_not_depend_on_its_spelling() -> None:
    assert key(Decimal(5)) == key(Decimal("5.00")) == key(Decimal("5E0"))


def test_the_key_of_more_digits_than_any_currency_has_equals_no_amount_and_keeps_the_order() -> None:
    """A filter may be given such a number; no amount is."""
    between = Decimal("1.0000000000000000005")
    assert key(Decimal("1.000000000000000000")) < key(between) < key(Decimal("1.000000000000000001"))


@given(UNITS)
def test_the_other_side_of_an_amount_is_exactly_as_large(units: int) -> None:
    amount = Decimal(units).scaleb(-18, money.EXACT)
    assert money.add(amount, money.negate(amount)) == 0
    assert money.negate(money.negate(amount)) == amount


def test_the_other_side_of_nothing_is_nothing() -> None:
    assert str(money.negate(Decimal("0.00"))) == "0.00"
