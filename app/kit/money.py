"""Exact money: currencies with their exponents, strict parsing, fixed-point spelling."""

import re
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow, Rounded
from enum import StrEnum

AMOUNT_MAX = Decimal(10) ** 15
EXPONENT_MAX = 18
AMOUNT_PATTERN = re.compile(r"-?(0|[1-9][0-9]{0,29})(\.[0-9]{1,30})?", re.ASCII)
KEY_DIGITS = 36
# Python's default context keeps 28 digits and rounds in silence; this one never rounds without raising.
EXACT = Context(prec=80, traps=[Inexact, InvalidOperation, Overflow, Rounded])
ZERO = Decimal(0)
# One at the last digit of each number of fraction digits.
UNITS = tuple(Decimal(1).scaleb(-digits) for digits in range(EXPONENT_MAX + 1))

# ISO 4217 (active codes whose minor unit differs from 2), and three tokens.
EXPONENTS = {
    **dict.fromkeys(
        [
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "UYI",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ],
        0,
    ),
    **dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3),
    **dict.fromkeys(["CLF", "UYW"], 4),
    "BTC": 8,
    "ETH": 18,
    "USDC": 6,
}
TWO_DIGITS = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP "
    "CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR "
    "IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN "
    "NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP "
    "STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW ZWG"
)
TOKENS = frozenset({"BTC", "ETH", "USDC"})


class CurrencyKind(StrEnum):
    """Who issues it."""

    FIAT = "FIAT"
    TOKEN = "TOKEN"  # noqa: S105 - no secret


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency; its exponent never changes (a new scale is a new code)."""

    code: str
    exponent: int
    kind: CurrencyKind


def _registry() -> dict[str, Currency]:
    exponents = dict.fromkeys(TWO_DIGITS.split(), 2) | EXPONENTS
    return {
        code: Currency(code, exponent, CurrencyKind.TOKEN if code in TOKENS else CurrencyKind.FIAT)
        for code, exponent in sorted(exponents.items())
    }


CURRENCIES = _registry()


class BadAmount(ValueError):
    """An amount that cannot be taken as it stands; the message says why."""


def parse_decimal(text: str) -> Decimal:
    """A plain decimal (`-12.50`): no exponent, no NaN, no sign but minus, no blanks, ASCII digits only."""
    if AMOUNT_PATTERN.fullmatch(text) is None:
        raise BadAmount("write the amount as plain digits with an optional fraction, such as 1250.00")
    return Decimal(text)


def check_amount(amount: Decimal, currency: Currency) -> Decimal:
    """`amount` as money of `currency`: positive, at most 10^15, no more fraction digits than its exponent."""
    check_scale(amount, currency)
    if amount <= 0:
        raise BadAmount("the amount must be greater than zero")
    if amount > AMOUNT_MAX:
        raise BadAmount(f"the amount must be at most {spell(AMOUNT_MAX, 0)}")
    return quantise(amount, currency.exponent)


def check_scale(amount: Decimal, currency: Currency) -> None:
    """Refuse what is not finite or has more fraction digits than the currency; nothing is ever rounded."""
    if not amount.is_finite():
        raise BadAmount("the amount must be a finite number")
    exponent = amount.as_tuple().exponent
    assert isinstance(exponent, int), "a finite decimal has a numeric exponent"
    if -exponent > currency.exponent:
        raise BadAmount(
            f"{currency.code} has {currency.exponent} fraction digits; the amount has {-exponent}"
        )


def quantise(amount: Decimal, exponent: int) -> Decimal:
    """The same number with exactly `exponent` fraction digits; raises where digits would be lost."""
    return amount.quantize(UNITS[exponent], context=EXACT)


def spell(amount: Decimal, exponent: int) -> str:
    """The one spelling of an amount: fixed point at the currency's exponent, such as `1000.00`."""
    return format(quantise(amount, exponent), "f")


def plain(amount: Decimal) -> str:
    """An amount in fixed point with the digits it has, never `1E+3`."""
    return format(amount, "f")


def add(*amounts: Decimal) -> Decimal:
    """An exact sum: raises rather than lose a digit."""
    total = ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def negate(amount: Decimal) -> Decimal:
    """The same amount on the other side. Never write `-amount`: that rounds to 28 digits in silence."""
    return EXACT.minus(amount)


def key(amount: Decimal) -> str:
    """A fixed-width text whose order is the number's order, for indexes under row-level security.

    Digits beyond those of any currency (a filter may have them) follow at the end: it equals no amount's key.
    """
    whole, _, rest = format(EXACT.scaleb(amount, EXPONENT_MAX), "f").partition(".")
    return whole.rjust(KEY_DIGITS, "0") + rest.rstrip("0")
