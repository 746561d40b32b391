"""Asset templates, what they enforce on positions, and the assets made from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from app.assets.codes import CURRENCY, MAX_AMOUNT, MAX_TENOR_DAYS, MIN_AMOUNT, TemplateCode
from app.assets.config import amount as config_amount
from app.errors import ErrorCode, Invalid, Problem, Refused
from app.institutions.model import Institution, Region, Vertical
from app.kit.canonical import Json
from app.kit.money import plain
from app.kit.text import BadText, check_name

NAME_LENGTH_MAX = 255
LABEL_LENGTH_MAX = 255
CHAIN_ID_MAX = 2**53 - 1
LIFECYCLE_DEFAULT = ("escrow", 1)

Lifecycle = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a template enforces on its positions."""

    currency: str
    min_amount: Decimal | None = None
    max_amount: Decimal | None = None
    tenor_days_max: int | None = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class AssetTemplate:
    """One immutable version of a template; an edit makes the next version under the same name."""

    id: str
    institution_id: str
    name: str
    version: int
    code: str
    vertical: Vertical
    region: Region
    lifecycle_name: str
    lifecycle_version: int
    # Not hashed, so that a template can be the key of a cache; the id alone tells versions apart.
    config: Mapping[str, Json] = field(hash=False)
    metadata_schema: Mapping[str, Json] | None = field(hash=False)
    onchain_enabled: bool
    onchain_chain_id: int | None
    created_at: datetime

    @property
    def terms(self) -> Terms:
        """What its config says about the positions on its assets."""
        currency, tenor = self.config[CURRENCY], self.config.get(MAX_TENOR_DAYS)
        assert isinstance(currency, str), "a stored config names its currency"
        return Terms(
            currency=currency,
            min_amount=config_amount(self.config, MIN_AMOUNT),
            max_amount=config_amount(self.config, MAX_AMOUNT),
            tenor_days_max=tenor if isinstance(tenor, int) else None,
        )


@dataclass(frozen=True, slots=True)
class Asset:
    """What positions are opened on."""

    id: str
    institution_id: str
    template_id: str
    label: str
    metadata: Mapping[str, Json] = field(hash=False)
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TemplateDraft:
    """A template as somebody asks for it; what is None is taken from the code or is absent."""

    name: str
    code: str
    region: Region
    config: Mapping[str, Json]
    vertical: Vertical | None = None
    lifecycle: Lifecycle = LIFECYCLE_DEFAULT
    metadata_schema: Mapping[str, Json] | None = None
    onchain_enabled: bool = False
    onchain_chain_id: int | None = None


def judge_position(
    template: AssetTemplate, *, amount: Decimal, currency: str, expires_at: datetime | None, now: datetime
) -> tuple[Problem, ...]:
    """Everything the template has against such a position; empty when it allows it."""
    terms = template.terms
    found: list[Problem] = []
    if currency != terms.currency:
        found.append(_against(f"the template takes {terms.currency}, not {currency}", "currency"))
    if terms.min_amount is not None and amount < terms.min_amount:
        bound = f"{plain(terms.min_amount)} {terms.currency}"
        found.append(_against(f"{plain(amount)} is below the template's minimum of {bound}", "amount"))
    if terms.max_amount is not None and amount > terms.max_amount:
        bound = f"{plain(terms.max_amount)} {terms.currency}"
        found.append(_against(f"{plain(amount)} is above the template's maximum of {bound}", "amount"))
    if terms.tenor_days_max is not None:
        found.extend(_judge_tenor(terms.tenor_days_max, expires_at, now))
    return tuple(found)


def _judge_tenor(days_max: int, expires_at: datetime | None, now: datetime) -> tuple[Problem, ...]:
    if expires_at is None:
        return (_against(f"the template needs an expiry, at most {days_max} days ahead", "expiresAt"),)
    if expires_at > now + timedelta(days=days_max):
        return (_against(f"the template allows an expiry at most {days_max} days ahead", "expiresAt"),)
    return ()


def _against(message: str, field: str) -> Problem:
    return Problem(ErrorCode.TEMPLATE_REFUSED, message, field)


def check_place(draft: TemplateDraft, code: TemplateCode, institution: Institution) -> None:
    """Raise unless the code belongs to the vertical, and the institution works in it and in the region."""
    if draft.vertical is not None and draft.vertical != code.vertical:
        raise _refused(f"{code.code} belongs to {code.vertical}, not to {draft.vertical}", "vertical")
    if code.vertical not in institution.verticals:
        raise _refused(f"the institution does not work in {code.vertical}, as {code.code} does", "code")
    if draft.region not in institution.regions:
        raise _refused(f"the institution does not work in {draft.region}", "region")


def check_successor(draft: TemplateDraft, previous: AssetTemplate) -> None:
    """Raise unless the draft can be the next version of `previous`: what positions rely on stays the same."""
    for what, now, before in (("code", draft.code, previous.code), ("region", draft.region, previous.region)):
        if now != before:
            raise Refused(
                ErrorCode.DUPLICATE_NAME,
                f"the name is taken: {previous.name!r} has the {what} {before}, which later versions keep; "
                f"choose another name for {now}",
                what,
            )


def check_lifecycle(lifecycle: Lifecycle, known: frozenset[Lifecycle]) -> None:
    """Raise unless the server knows that version of that lifecycle."""
    if lifecycle not in known:
        listed = ", ".join(f"{name}@{version}" for name, version in sorted(known))
        asked = f"{lifecycle[0]}@{lifecycle[1]}"
        named = any(name == lifecycle[0] for name, _version in known)
        field = "lifecycleVersion" if named else "lifecycleName"
        raise Invalid(f"there is no lifecycle {asked}; known: {listed}", field)


def check_onchain(*, enabled: bool, chain_id: int | None) -> None:
    """Raise unless a template that goes on a chain says on which."""
    if enabled and chain_id is None:
        raise Invalid("a template that goes on a chain names the chain", "onchain.chainId")
    if chain_id is not None and not 1 <= chain_id <= CHAIN_ID_MAX:
        raise Invalid(f"a chain id is a whole number from 1 to {CHAIN_ID_MAX}", "onchain.chainId")


def check_word(value: str, field: str, *, length_max: int) -> str:
    """`value` as it came; raises `Invalid` unless it can be a name or a label."""
    try:
        return check_name(value, length_max=length_max)
    except BadText as error:
        raise Invalid(str(error), field) from None


def _refused(message: str, field: str) -> Refused:
    return Refused(ErrorCode.TEMPLATE_REFUSED, message, field)
