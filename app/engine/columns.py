"""Turns whole columns of leaf values into what the answer holds: at once where all are as they should be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from graphql import GraphQLEnumType, GraphQLLeafType, GraphQLScalarType

Values = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One leaf type: `swift` takes a column it can vouch for, else None; `exact` one value, as graphql-core does."""

    name: str
    swift: Callable[[Values], list[Any] | None]
    exact: Callable[[Any], Any]


def column_of(type_: GraphQLLeafType) -> Column:
    """The column of a scalar or enum type."""
    if isinstance(type_, GraphQLEnumType):
        return Column(type_.name, _Names(type_).swift, type_.coerce_output_value)
    return Column(type_.name, SWIFT.get(_kind(type_), _never), type_.coerce_output_value)


def _kind(type_: GraphQLScalarType) -> str:
    return type_.name


def _same(kind: type) -> Callable[[Values], list[Any] | None]:
    def swift(values: Values) -> list[Any] | None:
        return list(values) if set(map(type, values)) == {kind} else None

    return swift


def _int(values: Values) -> list[Any] | None:
    fits = set(map(type, values)) == {int} and min(values) >= -0x80000000 and max(values) <= 0x7FFFFFFF
    return list(values) if fits else None


def _decimal(values: Values) -> list[Any] | None:
    if set(map(type, values)) != {Decimal} or not all(map(Decimal.is_finite, values)):
        return None
    return [format(value, "f") for value in values]


def _time(values: Values) -> list[Any] | None:
    if set(map(type, values)) != {datetime} or any(value.tzinfo is not UTC for value in values):
        return None
    return [f"{value.isoformat()[:-6]}Z" for value in values]


def _never(_values: Values) -> list[Any] | None:
    return None


# By the names of the schema's scalars (app/engine/scalars.py); an ID is text in this schema.
SWIFT: dict[str, Callable[[Values], list[Any] | None]] = {
    "String": _same(str),
    "ID": _same(str),
    "Boolean": _same(bool),
    "Int": _int,
    "Long": _same(int),
    "Decimal": _decimal,
    "DateTime": _time,
}


class _Names:
    """An enum's members and what they are called."""

    def __init__(self, type_: GraphQLEnumType) -> None:
        self._names: dict[Any, str] = {}
        for name, definition in type_.values.items():
            self._names[definition.value] = name

    def swift(self, values: Values) -> list[Any] | None:
        """By the table; a member that is not in it is for graphql-core to judge."""
        try:
            return [self._names[value] for value in values]
        except (KeyError, TypeError):
            return None
