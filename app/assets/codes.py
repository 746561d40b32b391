"""The kinds of asset template as data: each code with its vertical and the fields of its config."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.institutions.model import Vertical

# In the config of every code these four names mean the same, and what they say is enforced on positions.
CURRENCY = "currency"
MIN_AMOUNT = "minAmount"
MAX_AMOUNT = "maxAmount"
MAX_TENOR_DAYS = "maxTenorDays"


class Kind(StrEnum):
    """What a config field holds, in the words of an error message."""

    CURRENCY = "a currency code, such as USD"
    AMOUNT = "an amount as text, such as 1250.00"
    DAYS = "a whole number of days"
    PERCENTAGE = "a number from 0 to 100"
    REGION = "the region of the template"
    COUNTRY = "a country as two capital letters of ISO 3166, such as SG"


KINDS = {CURRENCY: Kind.CURRENCY, MIN_AMOUNT: Kind.AMOUNT, MAX_AMOUNT: Kind.AMOUNT, MAX_TENOR_DAYS: Kind.DAYS}


@dataclass(frozen=True, slots=True)
class ConfigField:
    """One field of a code's config."""

    kind: Kind
    required: bool = True


@dataclass(frozen=True, slots=True)
class TemplateCode:
    """A kind of template; it belongs to one vertical."""

    code: str
    vertical: Vertical
    fields: Mapping[str, ConfigField]

    @property
    def summary(self) -> str:
        """Its fields in a line, for people."""
        return ", ".join(
            name if field.required else f"{name} (optional)" for name, field in self.fields.items()
        )


BUILT_IN = (
    TemplateCode(
        "CONSTR_ESCROW",
        Vertical.CONSTRUCTION,
        {
            CURRENCY: ConfigField(Kind.CURRENCY),
            "region": ConfigField(Kind.REGION),
            MIN_AMOUNT: ConfigField(Kind.AMOUNT, required=False),
            MAX_AMOUNT: ConfigField(Kind.AMOUNT, required=False),
        },
    ),
    TemplateCode(
        "CONSTR_RETAINAGE",
        Vertical.CONSTRUCTION,
        {CURRENCY: ConfigField(Kind.CURRENCY), "retainagePercentage": ConfigField(Kind.PERCENTAGE)},
    ),
    TemplateCode(
        "TF_INVOICE",
        Vertical.TRADE_FINANCE,
        {
            CURRENCY: ConfigField(Kind.CURRENCY),
            MAX_TENOR_DAYS: ConfigField(Kind.DAYS),
            "country": ConfigField(Kind.COUNTRY),
        },
    ),
    TemplateCode(
        "TF_LC",
        Vertical.TRADE_FINANCE,
        {
            CURRENCY: ConfigField(Kind.CURRENCY),
            "issuingBankCountry": ConfigField(Kind.COUNTRY),
            MAX_TENOR_DAYS: ConfigField(Kind.DAYS),
        },
    ),
)


def registry(added: Iterable[TemplateCode] = ()) -> Mapping[str, TemplateCode]:
    """Every code by its name: the built-in ones and those that verticals add."""
    found: dict[str, TemplateCode] = {}
    for code in (*BUILT_IN, *added):
        assert code.code not in found, "a code has one definition"
        assert CURRENCY in code.fields, "every template says its currency"
        assert code.fields[CURRENCY].required, "every template says its currency"
        assert all(code.fields[name].kind is kind for name, kind in KINDS.items() if name in code.fields), (
            "an enforced name means the same in every code"
        )
        found[code.code] = code
    return found


CODES = registry()
