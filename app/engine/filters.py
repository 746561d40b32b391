"""The filters that every list's `where` is made of."""

from datetime import datetime
from decimal import Decimal
from typing import cast

import strawberry
from strawberry.types.unset import UnsetType

from app.engine.names import camel_case
from app.errors import BadRequest
from app.kit.text import BadText, check_text
from app.storage.conditions import Condition, Operator

VALUES_MAX = 100
TEXT_LENGTH_MAX = 1000
OPERATORS: dict[str, Operator] = {"eq": "eq", "in_": "in", "gte": "gte", "lte": "lte", "contains": "contains"}

_EQ = "Equal to this."
_IN = "Equal to one of these; at most 100."


@strawberry.input(description="A test on an id.")
class IDFilter:
    """Exact ids."""

    eq: strawberry.ID | None = strawberry.field(default=None, description=_EQ)
    in_: list[strawberry.ID] | None = strawberry.field(default=None, name="in", description=_IN)


@strawberry.input(description="A test on text; upper and lower case differ.")
class TextFilter:
    """Exact text, or a part of it."""

    eq: str | None = strawberry.field(default=None, description=_EQ)
    in_: list[str] | None = strawberry.field(default=None, name="in", description=_IN)
    contains: str | None = strawberry.field(
        default=None,
        description="Contains this text. No index serves it: every row that passes the other tests is looked at.",
    )


@strawberry.input(description="A test on text that is sealed where it is kept; upper and lower case differ.")
class SealedFilter:
    """Exact text: of what is sealed no part can be searched."""

    eq: str | None = strawberry.field(default=None, description=_EQ)
    in_: list[str] | None = strawberry.field(default=None, name="in", description=_IN)


@strawberry.input(description="A test on a word of a fixed list, such as a currency code.")
class WordFilter:
    """Exact words."""

    eq: str | None = strawberry.field(default=None, description=_EQ)
    in_: list[str] | None = strawberry.field(default=None, name="in", description=_IN)


@strawberry.input(description="A test on an instant.")
class TimeFilter:
    """A span of time."""

    eq: datetime | None = strawberry.field(default=None, description=_EQ)
    gte: datetime | None = strawberry.field(default=None, description="At this instant or later.")
    lte: datetime | None = strawberry.field(default=None, description="At this instant or earlier.")


@strawberry.input(description="A test on an amount.")
class DecimalFilter:
    """A span of amounts."""

    eq: Decimal | None = strawberry.field(default=None, description=_EQ)
    gte: Decimal | None = strawberry.field(default=None, description="At least this.")
    lte: Decimal | None = strawberry.field(default=None, description="At most this.")


def conditions(where: object | None) -> tuple[Condition, ...]:
    """The tests a `where` input names; a field that is absent or null tests nothing.

    Raises `BadRequest` for a field whose test has no value: answering for everything would be a wrong answer.
    """
    found: list[Condition] = []
    for field, test in vars(where).items() if where is not None else ():
        if not _given(test):
            continue
        told = camel_case(field)
        given = [(name, value) for name, value in vars(test).items() if _given(value)]
        if not given:
            raise BadRequest(f"{told}: its test has no value; leave the field out to test nothing")
        found += [Condition(field, OPERATORS[name], _checked(told, value)) for name, value in given]
    return tuple(found)


def _given(value: object) -> bool:
    return value is not None and not isinstance(value, UnsetType)


def _checked(told: str, value: object) -> object:
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    if len(values) > VALUES_MAX:
        raise BadRequest(f"`in` of {told} takes at most {VALUES_MAX} values")
    for item in values:
        if isinstance(item, str):
            try:
                check_text(item, length_max=TEXT_LENGTH_MAX, length_min=0)
            except BadText as error:
                raise BadRequest(f"{told}: {error}") from None
    # Nested lists are asked for together with others of equal tests: they have to be hashable.
    return tuple(values) if isinstance(value, list) else value
