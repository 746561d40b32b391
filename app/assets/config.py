"""The config of a template: what its code demands, key by key."""

from collections.abc import Mapping
from decimal import Decimal
from typing import assert_never

from app.assets.codes import CURRENCY, MAX_AMOUNT, MIN_AMOUNT, Kind, TemplateCode
from app.errors import Invalid
from app.kit.canonical import Json
from app.kit.money import CURRENCIES, BadAmount, Currency, check_amount, parse_decimal, plain

TENOR_DAYS_MAX = 36_500
PERCENTAGE_MAX = 100
COUNTRY_CODES = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT "
    "BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH "
    "ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT "
    "HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS "
    "LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI "
    "NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG "
    "SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG "
    "UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
)
COUNTRIES = frozenset(COUNTRY_CODES.split())


def check_config(code: TemplateCode, config: Mapping[str, Json], region: str) -> None:
    """Raise `Invalid` unless `config` is what `code` demands of a template in `region`."""
    unknown = sorted(config.keys() - code.fields.keys())
    if unknown:
        known = ", ".join(code.fields)
        raise _invalid(unknown[0], f"{code.code} has no such key; it has {known}")
    for name, field in code.fields.items():
        if field.required and name not in config:
            raise _invalid(name, f"{code.code} needs it: {field.kind}")
    currency = _currency(config[CURRENCY])
    for name, value in config.items():
        _check_value(name, code.fields[name].kind, value, currency, region)
    _check_span(config)


def _check_value(name: str, kind: Kind, value: Json, currency: Currency, region: str) -> None:
    match kind:
        case Kind.CURRENCY:
            _currency(value, name)
        case Kind.AMOUNT:
            _check_amount(name, value, currency)
        case Kind.DAYS:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= TENOR_DAYS_MAX:
                raise _invalid(name, f"{kind} from 1 to {TENOR_DAYS_MAX} is needed")
        case Kind.PERCENTAGE:
            _check_percentage(name, value)
        case Kind.REGION:
            if value != region:
                raise _invalid(name, f"it must be the region of the template, {region}")
        case Kind.COUNTRY:
            if not isinstance(value, str) or value not in COUNTRIES:
                raise _invalid(name, f"{kind} is needed")
        case _:
            assert_never(kind)


def _currency(value: Json, name: str = CURRENCY) -> Currency:
    if not isinstance(value, str) or value not in CURRENCIES:
        raise _invalid(name, f"{Kind.CURRENCY} is needed, in capitals; `currencies` lists those there are")
    return CURRENCIES[value]


def _check_amount(name: str, value: Json, currency: Currency) -> None:
    if not isinstance(value, str):
        raise _invalid(name, f"{Kind.AMOUNT} is needed; numbers would lose digits")
    try:
        check_amount(parse_decimal(value), currency)
    except BadAmount as error:
        raise _invalid(name, str(error)) from None


def _check_percentage(name: str, value: Json) -> None:
    try:
        number = parse_decimal(value) if isinstance(value, str) else value
    except BadAmount:
        number = None
    if isinstance(number, bool) or not isinstance(number, int | Decimal) or not 0 <= number <= PERCENTAGE_MAX:
        raise _invalid(name, f"{Kind.PERCENTAGE} is needed")


def _check_span(config: Mapping[str, Json]) -> None:
    least, most = amount(config, MIN_AMOUNT), amount(config, MAX_AMOUNT)
    if least is not None and most is not None and least > most:
        raise _invalid(MIN_AMOUNT, f"the minimum {plain(least)} is above the maximum {plain(most)}")


def amount(config: Mapping[str, Json], name: str) -> Decimal | None:
    """The amount a checked config names, None when it does not."""
    value = config.get(name)
    return parse_decimal(value) if isinstance(value, str) else None


def _invalid(name: str, message: str) -> Invalid:
    return Invalid(message, f"config.{name}")
