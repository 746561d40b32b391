"""What JSON objects are taken: bounded in size and depth, with text and numbers that can be stored."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import cast

from app.errors import Invalid
from app.kit.canonical import Json, canonical_json
from app.kit.text import BadText, check_text

OBJECT_BYTES_MAX = 64 * 1024
OBJECT_DEPTH_MAX = 10
KEY_LENGTH_MAX = 255
NUMBER_DIGITS_MAX = 60
# Every number below this many bits has at most NUMBER_DIGITS_MAX digits.
NUMBER_BITS_MAX = 199


def check_object(value: object, field: str) -> Mapping[str, Json]:
    """`value` as it came; raises `Invalid` unless it is an object of JSON values within the limits."""
    if not isinstance(value, Mapping):
        raise Invalid(f"{field}: a JSON object is needed", field)
    _check_value(value, field, field, depth=0)
    found = cast("Mapping[str, Json]", value)
    size = len(canonical_json(found).encode())
    if size > OBJECT_BYTES_MAX:
        raise Invalid(f"{field}: at most {OBJECT_BYTES_MAX} bytes; it has {size}", field)
    return found


def _check_value(value: object, path: str, field: str, *, depth: int) -> None:
    match value:
        case None | bool():
            return
        case str():
            _check_text(value, path, field, length_max=OBJECT_BYTES_MAX)
        case int():
            if value.bit_length() > NUMBER_BITS_MAX:
                raise Invalid(f"{path}: a number has at most {NUMBER_DIGITS_MAX} digits", field)
        case Decimal():
            _check_decimal(value, path, field)
        case Mapping() | list() | tuple():
            if depth == OBJECT_DEPTH_MAX:
                raise Invalid(f"{path}: nested more than {OBJECT_DEPTH_MAX} deep", field)
            _check_parts(value, path, field, depth=depth + 1)
        case _:
            # Above all floats: they have lost digits before they came here.
            raise Invalid(f"{path}: a value of type {type(value).__name__} is not exact JSON", field)


def _check_parts(
    value: Mapping[object, object] | Sequence[object], path: str, field: str, *, depth: int
) -> None:
    if not isinstance(value, Mapping):
        for place, item in enumerate(value):
            _check_value(item, f"{path}[{place}]", field, depth=depth)
        return
    for name, item in value.items():
        if not isinstance(name, str):
            raise Invalid(f"{path}: the keys of an object are text", field)
        _check_text(name, f"{path}: a key", field, length_max=KEY_LENGTH_MAX)
        _check_value(item, f"{path}.{name}", field, depth=depth)


def _check_text(value: str, path: str, field: str, *, length_max: int) -> None:
    try:
        check_text(value, length_max=length_max, length_min=0)
    except BadText as error:
        raise Invalid(f"{path}: {error}", field) from None


def _check_decimal(value: Decimal, path: str, field: str) -> None:
    if not value.is_finite():
        raise Invalid(f"{path}: a number is finite", field)
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "a finite decimal has a numeric exponent"
    # Written out, 1e-999999999 would fill a gigabyte.
    if max(len(digits) + exponent, -exponent, len(digits)) > NUMBER_DIGITS_MAX:
        raise Invalid(f"{path}: a number has at most {NUMBER_DIGITS_MAX} digits", field)
