"""Keyset pages: a list continues behind the last row seen, whatever was added or removed meanwhile."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Row,
    Select,
    Text,
    cast,
    func,
    literal,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncConnection

from app.kit.canonical import EPOCH, micros
from app.kit.cursor import CURSOR_LENGTH_MAX, BadCursor, seal, unseal
from app.kit.text import BadText, check_text

T = TypeVar("T")
KEY = "_key"
PARENT = "_parent"
# The driver spells infinity as the last instant Python knows, without a zone.
INFINITY = datetime.max  # noqa: DTZ901
FOR_EVER = "infinity"

# Most pages are read for their rows alone: a cursor is spelled when it is asked for.
Spelling = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Order:
    """A total order of a list: `columns` together are unique; all run in one direction.

    The direction of a page is part of the cursor, so a cursor of one order is refused by another.
    """

    name: str
    columns: tuple[ColumnElement[Any], ...]
    descending: bool = False
    # How cursors are written and read, where a list has cursors of its own.
    spell: Callable[[Sequence[Any]], str] | None = None
    parse: Callable[[str], Sequence[Any]] | None = None

    @property
    def label(self) -> str:
        """What its cursors are sealed with."""
        return f"{self.name}:{'desc' if self.descending else 'asc'}"


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which rows of a list: `size` of them, from its start or (backward) its end, between two cursors."""

    size: int
    backward: bool = False
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The rows found, each with what spells its cursor, and whether there are more on either side."""

    rows: tuple[tuple[Spelling, T], ...]
    has_next: bool
    has_previous: bool

    @property
    def end(self) -> str:
        """The cursor of the last row; a page without rows has none."""
        return self.rows[-1][0]()


def paged(statement: Select[Any], order: Order, request: PageRequest) -> Select[Any]:
    """`statement` narrowed to one page of it, one row more than asked to see whether there are more."""
    keyed = statement.add_columns(*(column.label(f"{KEY}{i}") for i, column in enumerate(order.columns)))
    for cursor, forward in ((request.after, True), (request.before, False)):
        if cursor is not None:
            keyed = keyed.where(_beyond(order, cursor, up=forward != order.descending))
    down = order.descending != request.backward
    directions = (column.desc() if down else column.asc() for column in order.columns)
    return keyed.order_by(*directions).limit(request.size + 1)


def page_of(
    rows: Sequence[Row[Any]],
    order: Order,
    request: PageRequest,
    model: Callable[[Row[Any]], T],
) -> Page[T]:
    """The page that the rows of a `paged` statement make."""
    more = len(rows) > request.size
    kept = list(rows[: request.size])
    if request.backward:
        kept.reverse()
    return Page(
        tuple((partial(_cursor, order, row), model(row)) for row in kept),
        has_next=request.before is not None if request.backward else more,
        has_previous=more if request.backward else request.after is not None,
    )


async def fetch_page(
    connection: AsyncConnection,
    statement: Select[Any],
    order: Order,
    request: PageRequest,
    model: Callable[[Row[Any]], T],
) -> Page[T]:
    """One page of `statement`."""
    rows = (await connection.execute(paged(statement, order, request))).all()
    return page_of(rows, order, request, model)


async def fetch_page_each(
    connection: AsyncConnection,
    parents: Sequence[str],
    parent_column: ColumnElement[Any],
    statement: Select[Any],
    order: Order,
    request: PageRequest,
    model: Callable[[Row[Any]], T],
) -> Mapping[str, Page[T]]:
    """One page of `statement` for each parent, in one SQL statement."""
    wanted = func.unnest(cast(list(parents), ARRAY(Text(collation="C")))).table_valued("id").render_derived()
    page = paged(statement.where(parent_column == wanted.c.id), order, request).lateral("page")
    rows = (await connection.execute(select(wanted.c.id.label(PARENT), page).join(page, true()))).all()
    found: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        found[row._mapping[PARENT]].append(row)
    return {parent: page_of(found[parent], order, request, model) for parent in parents}


async def count(connection: AsyncConnection, statement: Select[Any]) -> int:
    """How many rows `statement` has."""
    return (await connection.execute(select(func.count()).select_from(statement.subquery()))).scalar_one()


async def count_each(
    connection: AsyncConnection,
    parents: Sequence[str],
    parent_column: ColumnElement[Any],
    statement: Select[Any],
) -> Mapping[str, int]:
    """How many rows `statement` has for each parent."""
    counted = statement.with_only_columns(parent_column.label(PARENT), func.count().label("n"))
    rows = await connection.execute(counted.where(parent_column.in_(parents)).group_by(parent_column))
    found = {row._mapping[PARENT]: row._mapping["n"] for row in rows}
    return {parent: found.get(parent, 0) for parent in parents}


def _beyond(order: Order, cursor: str, *, up: bool) -> ColumnElement[bool]:
    values = order.parse(cursor) if order.parse else unseal(order.label, cursor)
    if len(values) != len(order.columns):
        raise BadCursor("the cursor belongs to a list with another order")
    place = tuple_(*(_typed(column, value) for column, value in zip(order.columns, values, strict=True)))
    here = tuple_(*order.columns)
    return here > place if up else here < place


def _typed(column: ColumnElement[Any], value: str | int) -> Any:
    """A cursor's part as its column has it: whoever knows how cursors are made may put anything into one."""
    try:
        match column.type, value:
            case TIMESTAMP(), str() if value == FOR_EVER:
                return literal(INFINITY, column.type)
            case TIMESTAMP(), int():
                return literal(EPOCH + timedelta(microseconds=value), column.type)
            case Text(), str():
                return check_text(value, length_max=CURSOR_LENGTH_MAX, length_min=0)
            case BigInteger(), int() if abs(value) < 2**63:
                return value
            case Integer(), int() if abs(value) < 2**31:
                return value
    except (BadText, OverflowError):
        pass
    raise BadCursor("the cursor belongs to a list with another order")


def _cursor(order: Order, row: Row[Any]) -> str:
    values = [row._mapping[f"{KEY}{i}"] for i in range(len(order.columns))]
    if order.spell is not None:
        return order.spell(values)
    return seal(order.label, *map(_sealable, values))


def _sealable(value: Any) -> str | int:
    if value == INFINITY:
        return FOR_EVER
    return micros(value) if isinstance(value, datetime) else value
