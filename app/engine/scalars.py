"""The scalars of the schema: exact decimals, exact times, JSON objects, long integers."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NewType

import strawberry
from graphql import GraphQLError, ValueNode
from graphql.language import (
    BooleanValueNode,
    FloatValueNode,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    ObjectValueNode,
    StringValueNode,
    VariableNode,
)
from strawberry.types.scalar import ScalarDefinition

from app.kit.canonical import Json
from app.kit.money import BadAmount, parse_decimal, plain

TIME_PATTERN = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)
LONG_MAX = 2**53 - 1
INFINITIES = frozenset({datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)})

JsonObject = NewType("JsonObject", object)
Long = NewType("Long", int)


def _decimal_out(value: object) -> str:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise GraphQLError("a decimal that is not finite reached the answer")
    return plain(value)


def _decimal_in(value: object) -> Decimal:
    if not isinstance(value, str):
        raise GraphQLError('Decimal is written as a string, such as "1250.00"; numbers would lose digits')
    try:
        return parse_decimal(value)
    except BadAmount as error:
        raise GraphQLError(f"not a Decimal: {error}") from None


def _decimal_literal(node: ValueNode, _variables: Mapping[str, Any] | None = None) -> Decimal:
    if not isinstance(node, StringValueNode):
        raise GraphQLError(
            'Decimal is written as a string, such as "1250.00"; numbers would lose digits', node
        )
    return _decimal_in(node.value)


def _time_out(value: object) -> str:
    assert isinstance(value, datetime) and value.tzinfo is not None, "times in answers carry their zone"
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_time(value: object) -> datetime:
    """RFC 3339 with at most six fraction digits; more are refused, as they would be lost.

    The first and the last instant there are would become infinities in the database, and are refused.
    """
    if not isinstance(value, str) or (match := TIME_PATTERN.fullmatch(value)) is None:
        raise GraphQLError('DateTime is written as RFC 3339 text with a zone, such as "2026-03-01T09:30:00Z"')
    day, time, fraction, zone = match.groups()
    if fraction is not None and len(fraction) > 6:
        raise GraphQLError("DateTime has at most six fraction digits")
    try:
        moment = datetime.fromisoformat(f"{day}T{time}.{(fraction or '0').ljust(6, '0')}{zone.upper()}")
        found = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise GraphQLError("DateTime names a day or an hour that does not exist") from None
    if found in INFINITIES:
        raise GraphQLError("DateTime is an instant of the calendar, not its very first or last one")
    return found


def _time_literal(node: ValueNode, _variables: Mapping[str, Any] | None = None) -> datetime:
    return parse_time(node.value if isinstance(node, StringValueNode) else None)


def _long_in(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -LONG_MAX <= value <= LONG_MAX:
        raise GraphQLError("Long is a whole number of at most 53 bits")
    return value


def _long_literal(node: ValueNode, _variables: Mapping[str, Any] | None = None) -> int:
    if not isinstance(node, IntValueNode):
        raise GraphQLError("Long is a whole number of at most 53 bits", node)
    return _long_in(int(node.value))


def _json_in(value: object) -> object:
    if not isinstance(value, dict):
        raise GraphQLError("JSONObject is a JSON object")
    return value


def _json_literal(node: ValueNode, variables: Mapping[str, Any] | None = None) -> object:
    return _json_in(_json_node(node, variables or {}))


def _json_node(node: ValueNode, variables: Mapping[str, Any]) -> Json:
    match node:
        case ObjectValueNode():
            return {field.name.value: _json_node(field.value, variables) for field in node.fields}
        case ListValueNode():
            return [_json_node(item, variables) for item in node.values]
        case StringValueNode() | BooleanValueNode():
            return node.value
        case IntValueNode():
            return int(node.value)
        case FloatValueNode():
            return Decimal(node.value)
        case NullValueNode():
            return None
        case VariableNode():
            found: Json = variables.get(node.name.value)
            return found
    raise GraphQLError("JSONObject holds objects, lists, strings, numbers, booleans and null", node)


SCALARS: dict[object, ScalarDefinition] = {
    Decimal: strawberry.scalar(
        name="Decimal",
        description='An exact decimal number as a string, such as "1250.00". Floats, exponents and NaN are refused.',
        serialize=_decimal_out,
        parse_value=_decimal_in,
        parse_literal=_decimal_literal,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description="An instant as RFC 3339 text in UTC with up to microseconds, such as 2026-03-01T09:30:00Z.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=_time_out,
        parse_value=parse_time,
        parse_literal=_time_literal,
    ),
    JsonObject: strawberry.scalar(
        name="JSONObject",
        description="A JSON object. Numbers keep their exact value.",
        serialize=lambda value: value,
        parse_value=_json_in,
        parse_literal=_json_literal,
    ),
    Long: strawberry.scalar(
        name="Long",
        description="A whole number of up to 53 bits.",
        serialize=lambda value: value,
        parse_value=_long_in,
        parse_literal=_long_literal,
    ),
}
