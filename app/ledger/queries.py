"""The SQL behind the ledger's reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.kit.chain import GENESIS
from app.kit.money import ZERO
from app.ledger import sealed
from app.ledger.model import Effect, Event, Personal
from app.ledger.store import event_of, institution_heads, ledger_events, ledger_head
from app.personal.service import Holders
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition, narrow, within
from app.storage.database import driver_of
from app.storage.paging import Order, Page, PageRequest, count, count_each, fetch_page, fetch_page_each

t = ledger_events.c
FIELDS = {
    "id": t.id,
    "institution_id": t.institution_id,
    "position_id": t.position_id,
    "position_version": t.position_version,
    "kind": t.kind,
    "new_state": t.new_state,
    "effect": t.effect,
    "currency": t.currency,
    "actor_id": t.actor_id,
    "recorded_at": t.recorded_at,
    "occurred_at": t.occurred_at,
}
Conditions = tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Codec:
    """How the ledger's cursors are written and, where one came in, read."""

    spell: Callable[[Sequence[Any]], str]
    parse: Callable[[str], Sequence[Any]] | None


async def insert_chain(connection: AsyncConnection, institution_id: str) -> None:
    """The beginning of a chain."""
    await connection.execute(
        insert(institution_heads).values(institution_id=institution_id, sequence=0, hash=GENESIS)
    )


async def fetch_head(connection: AsyncConnection, scope: str) -> tuple[int, bytes | None]:
    """The last sequence of `scope` in this snapshot, and the hash there (the global order has none)."""
    if scope == ALL_INSTITUTIONS:
        return (await connection.execute(select(ledger_head.c.global_sequence))).scalar_one(), None
    heads = institution_heads.c
    found = await connection.execute(select(heads.sequence, heads.hash).where(heads.institution_id == scope))
    row = found.one_or_none()
    return (0, None) if row is None else (row.sequence, row.hash)


async def fetch_events(
    connection: AsyncConnection,
    scope: str,
    conditions: Conditions,
    request: PageRequest,
    codec: Codec,
    *,
    descending: bool,
) -> Page[Event]:
    """One page of events in the order of `scope`."""
    column = t.global_sequence if scope == ALL_INSTITUTIONS else t.sequence
    order = Order("ledger", (column,), descending, codec.spell, codec.parse)
    return await fetch_page(connection, _select(scope, conditions), order, request, _model)


async def fetch_events_each(
    connection: AsyncConnection,
    scope: str,
    position_ids: Sequence[str],
    conditions: Conditions,
    request: PageRequest,
    codec: Codec,
    *,
    descending: bool,
) -> Mapping[str, Page[Event]]:
    """One page of events of each position; within a position, version order is ledger order."""
    number = t.global_sequence if scope == ALL_INSTITUTIONS else t.sequence
    order = Order(
        "ledger",
        (t.position_version, number),
        descending,
        lambda values: codec.spell(values[1:]),
        None,
    )
    statement = _select(scope, conditions)
    for cursor, forward in ((request.after, True), (request.before, False)):
        if cursor is not None and codec.parse is not None:
            place = codec.parse(cursor)[0]
            statement = statement.where(number > place if forward != descending else number < place)
    bare = PageRequest(request.size, request.backward)
    found = await fetch_page_each(connection, position_ids, t.position_id, statement, order, bare, _model)
    # The cursors are in the statement already, so that a page does not know by itself what lies beyond them.
    if request.backward and request.before is not None:
        return {key: replace(page, has_next=True) for key, page in found.items()}
    if not request.backward and request.after is not None:
        return {key: replace(page, has_previous=True) for key, page in found.items()}
    return found


async def count_events(connection: AsyncConnection, scope: str, conditions: Conditions) -> int:
    """How many events pass."""
    return await count(connection, _select(scope, conditions))


async def count_events_each(
    connection: AsyncConnection, scope: str, position_ids: Sequence[str], conditions: Conditions
) -> Mapping[str, int]:
    """How many events each position has."""
    return await count_each(connection, position_ids, t.position_id, _select(scope, conditions))


async def fetch_by_id(connection: AsyncConnection, scope: str, ids: Sequence[str]) -> Mapping[str, Event]:
    """Events by id; those of others are not there."""
    rows = await connection.execute(_select(scope, ()).where(t.id.in_(ids)))
    return {row.id: _model(row) for row in rows}


async def fetch_personal(
    connection: AsyncConnection, scope: str, event_ids: Sequence[str], holders: Holders
) -> Mapping[str, Personal]:
    """Personal values by event."""
    institution_ids = None if scope == ALL_INSTITUTIONS else [scope]
    found = await sealed.fetch(await driver_of(connection), holders, event_ids, institution_ids)
    return {event_id: personal for event_id, (personal, _salts) in found.items()}


async def sum_before(
    connection: AsyncConnection, institution_id: str, effect: Effect, currency: str, sequence: int
) -> Decimal:
    """What had been moved with that effect before `sequence`."""
    statement = select(func.sum(t.amount_moved)).where(
        t.institution_id == institution_id, t.effect == effect, t.currency == currency, t.sequence < sequence
    )
    return (await connection.execute(statement)).scalar_one() or ZERO


def _select(scope: str, conditions: Conditions) -> Select[Any]:
    statement = within(select(ledger_events), t.institution_id, scope)
    owner = _owner(scope, conditions)
    if owner is not None:
        # Recording times never run backwards: a span of them is a span of sequences, and that is the list's order.
        number = "global_sequence" if scope == ALL_INSTITUTIONS else "sequence"
        spans = [test for test in conditions if test.field == "recorded_at"]
        statement = statement.where(*(bound for test in spans for bound in _bounds(owner, number, test)))
    return narrow(statement, FIELDS, conditions)


def _owner(scope: str, conditions: Conditions) -> str | None:
    """The one institution whose events are asked for, if it is one."""
    if scope != ALL_INSTITUTIONS:
        return scope
    named = [test.value for test in conditions if test.field == "institution_id" and test.operator == "eq"]
    return str(named[0]) if named else None


def _bounds(owner: str, number: str, test: Condition) -> Iterator[ColumnElement[bool]]:
    e = ledger_events.alias("edge").c
    edge = select(e[number]).where(e.institution_id == owner).limit(1)
    if test.operator in ("eq", "gte"):
        first = edge.where(e.recorded_at >= test.value).order_by(e.recorded_at, e.sequence)
        yield t[number] >= first.scalar_subquery()
    if test.operator in ("eq", "lte"):
        last = edge.where(e.recorded_at <= test.value).order_by(e.recorded_at.desc(), e.sequence.desc())
        yield t[number] <= last.scalar_subquery()


def _model(row: Row[Any]) -> Event:
    return event_of(row._mapping)
