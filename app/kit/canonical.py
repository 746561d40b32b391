"""One spelling for values that are hashed: RFC 8785 JSON with exact decimal numbers."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, TypeAlias

import orjson

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Written out in full, 1e999999999 would fill a gigabyte.
MAGNITUDE_MAX = 400

# Levels of lists and objects in one JSON text.
DEPTH_MAX = 500
# Brackets, and whole strings, in which they mean nothing.
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_STORED = json.JSONDecoder(parse_float=Decimal)

# What JSON text can hold, with numbers as int or Decimal: never a float.
Json: TypeAlias = "None | bool | int | Decimal | str | Sequence[Json] | Mapping[str, Json]"


class NotCanonical(ValueError):
    """A value that has no canonical spelling; the message says which and why."""


def parse_json(text: str | bytes) -> Json:
    """JSON text with every fraction as `Decimal`; NaN, Infinity and duplicate keys are refused.

    Raises `RecursionError` for what is nested too deeply, whatever the interpreter's own limit: libraries raise
    that, and the decoder, which is written in C, then runs out of its stack.
    """
    _check_depth(text)
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse, object_pairs_hook=_unique)  # type: ignore[no-any-return]


def _check_depth(text: str | bytes) -> None:
    whole = text if isinstance(text, str) else text.decode(errors="replace")
    if whole.count("[") + whole.count("{") <= DEPTH_MAX:
        return
    depth = 0
    for found in _BRACKETS.finditer(whole):
        match found.group():
            case "[" | "{":
                depth += 1
                if depth > DEPTH_MAX:
                    raise RecursionError(f"JSON is nested more than {DEPTH_MAX} levels deep")
            case "]" | "}":
                depth -= 1


def stored_json(text: str) -> Json:
    """JSON text that PostgreSQL spelled: exact like `parse_json`, without looking for what it has refused already."""
    return {} if text == "{}" else _STORED.decode(text)


def canonical_json(value: Json) -> str:
    """RFC 8785 text: sorted keys (UTF-16 order), no blanks, numbers exact and in fixed point."""
    # By exact type first: this is on the way of every event, and asking abstract classes is slow.
    spell = _SPELL.get(type(value))
    if spell is not None:
        return spell(value)
    match value:
        case str():
            return _text(value)
        case Mapping():
            return _object(value)
    raise NotCanonical(f"a value of type {type(value).__name__} has no canonical spelling")


def plain_json(value: Json) -> str:
    """The same text, many times as fast, of text, whole numbers of 64 bits, null, lists and objects with ASCII names.

    For what we make ourselves, on the way of every event: floats, times and the like are not refused.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError as error:
        raise NotCanonical(str(error)) from None


def micros(moment: datetime) -> int:
    """Microseconds since 1970 in UTC; a time without a zone is refused."""
    if moment.tzinfo is None:
        raise NotCanonical("a time needs a zone")
    return (moment - EPOCH) // MICROSECOND


def _number(value: Decimal) -> str:
    if not value.is_finite():
        raise NotCanonical("only finite numbers have a canonical spelling")
    if abs(value.adjusted()) > MAGNITUDE_MAX:
        raise NotCanonical(f"a number has at most {MAGNITUDE_MAX} digits before or behind the point")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotCanonical("text with a lone surrogate has no canonical spelling") from None
    return encode_basestring(value)


def _object(value: Mapping[str, Json]) -> str:
    if not value:
        return "{}"
    # Of plain ASCII keys the order of code points is that of UTF-16.
    names = sorted(value, key=None if all(map(str.isascii, value)) else _utf16)
    return "{" + ",".join([f"{_text(name)}:{canonical_json(value[name])}" for name in names]) + "}"


def _array(value: Sequence[Json]) -> str:
    return "[" + ",".join([canonical_json(item) for item in value]) + "]"


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be", "surrogatepass")


def _refuse(name: str) -> Json:
    raise NotCanonical(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise NotCanonical("an object names the same key twice")
    return result


_SPELL: dict[type, Callable[[Any], str]] = {
    type(None): lambda _value: "null",
    bool: lambda value: "true" if value else "false",
    int: str,
    Decimal: _number,
    str: _text,
    dict: _object,
    list: _array,
    tuple: _array,
}
