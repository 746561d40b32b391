"""What an institution allows in one region, and the verdict on a position's amount and currency.

Judged when a position is created and when it is funded. Nothing here is ever asked at a release, a refund or
an expiry: a policy must not trap money that is already held.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from app.errors import ErrorCode, Invalid, Problem, Refused
from app.institutions.model import Institution, Region
from app.kit.money import AMOUNT_MAX, CURRENCIES, EXPONENT_MAX, plain


@dataclass(frozen=True, slots=True)
class Limits:
    """What a policy says; a limit that is None allows everything."""

    min_amount: Decimal | None = None
    max_amount: Decimal | None = None
    allowed_currencies: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One immutable version of a policy; the highest version for an institution and region is current."""

    id: str
    institution_id: str
    region: Region
    version: int
    min_amount: Decimal | None
    max_amount: Decimal | None
    allowed_currencies: tuple[str, ...] | None
    created_at: datetime


def judge(policy: Policy | None, *, amount: Decimal, currency: str) -> tuple[Problem, ...]:
    """Everything the policy has against such a position; empty when it, or there being none, allows it."""
    if policy is None:
        return ()
    named = f"the policy for {policy.region} (version {policy.version})"
    found: list[Problem] = []
    if policy.allowed_currencies is not None and currency not in policy.allowed_currencies:
        listed = ", ".join(policy.allowed_currencies)
        found.append(_against(f"{named} allows {listed}, not {currency}", "currency"))
    if policy.min_amount is not None and amount < policy.min_amount:
        bound = plain(policy.min_amount)
        found.append(_against(f"{named} asks for at least {bound}; the amount is {plain(amount)}", "amount"))
    if policy.max_amount is not None and amount > policy.max_amount:
        bound = plain(policy.max_amount)
        found.append(_against(f"{named} allows at most {bound}; the amount is {plain(amount)}", "amount"))
    return tuple(found)


def check_limits(limits: Limits) -> None:
    """Raise `Invalid` unless the limits make sense by themselves."""
    _check_amount(limits.min_amount, "minAmount")
    _check_amount(limits.max_amount, "maxAmount")
    least, most = limits.min_amount, limits.max_amount
    if least is not None and most is not None and least > most:
        raise Invalid(f"the minimum {plain(least)} is above the maximum {plain(most)}", "minAmount")
    if limits.allowed_currencies is not None:
        _check_currencies(limits.allowed_currencies)


def check_region(region: Region, institution: Institution) -> None:
    """Raise unless the institution works in the region."""
    if region not in institution.regions:
        raise Refused(ErrorCode.POLICY_REFUSED, f"the institution does not work in {region}", "region")


def _check_amount(amount: Decimal | None, field: str) -> None:
    if amount is None:
        return
    if not amount.is_finite() or not 0 < amount <= AMOUNT_MAX:
        raise Invalid(f"the amount must be greater than zero and at most {plain(AMOUNT_MAX)}", field)
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > EXPONENT_MAX:
        raise Invalid(f"an amount has at most {EXPONENT_MAX} fraction digits", field)


def _check_currencies(codes: Sequence[str]) -> None:
    field = "allowedCurrencies"
    if not codes:
        raise Invalid("an empty list would allow nothing; leave it out to allow every currency", field)
    for code in codes:
        if code not in CURRENCIES:
            raise Invalid(
                f"{code!r} is not a currency; `currencies` lists those there are, in capitals", field
            )
    if len(set(codes)) < len(codes):
        raise Invalid("a currency is listed twice", field)


def _against(message: str, field: str) -> Problem:
    return Problem(ErrorCode.POLICY_REFUSED, message, field)
