"""Filters as plain values, and the SQL they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select

from app.principal import ALL_INSTITUTIONS

Operator = Literal["eq", "in", "gte", "lte", "contains"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One test on one named field of a list."""

    field: str
    operator: Operator
    value: Any


def narrow(
    statement: Select[Any], columns: Mapping[str, ColumnElement[Any]], conditions: Sequence[Condition]
) -> Select[Any]:
    """`statement` with every condition in its WHERE; `columns` maps field names to what they test."""
    return statement.where(*(_clause(columns[condition.field], condition) for condition in conditions))


def within(statement: Select[Any], column: ColumnElement[Any], scope: str) -> Select[Any]:
    """`statement` narrowed to one institution, or as it is for root."""
    return statement if scope == ALL_INSTITUTIONS else statement.where(column == scope)


def _clause(column: ColumnElement[Any], condition: Condition) -> ColumnElement[bool]:
    clause: ColumnElement[bool]
    match condition.operator:
        case "eq":
            clause = column == condition.value
        case "in":
            clause = column.in_(condition.value)
        case "gte":
            clause = column >= condition.value
        case "lte":
            clause = column <= condition.value
        case "contains":
            clause = column.contains(condition.value, autoescape=True)
    return clause
