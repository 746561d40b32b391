"""Reads the ledger in the order of its recording times, for lists that mix its events with other things.

Within one institution the order is (recorded_at, sequence). Across all of them it is the global sequence
alone: recorded_at never runs backwards along it and it has no gap, so that an instant is found by halving.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.ledger.model import Event, Kind
from app.ledger.store import event_of, ledger_events
from app.principal import ALL_INSTITUTIONS
from app.storage import paging
from app.storage.conditions import Condition, narrow, within

# Beside an instant these sequences stand before and behind all of its events.
BEFORE_ALL = 0
BEHIND_ALL = 2**63 - 1

COLUMNS: dict[str, ColumnElement[Any]] = {
    "institution_id": ledger_events.c.institution_id,
    "actor_id": ledger_events.c.actor_id,
    "position_id": ledger_events.c.position_id,
    "created": ledger_events.c.kind == Kind.POSITION_CREATED,
}
# The middle is a column: under row-level security only a bare comparison with it may use the index.
LAST_UP_TO = text("""
WITH RECURSIVE halves (low, high, middle) AS (
  SELECT 0::bigint, max(global_sequence), (max(global_sequence) + 1) / 2 FROM ledger_events
  UNION ALL
  SELECT low, high, (low + high + 1) / 2 FROM (
    SELECT CASE WHEN early THEN middle ELSE low END AS low,
           CASE WHEN early THEN high ELSE middle - 1 END AS high
    FROM (
      SELECT low, high, middle,
             event.recorded_at < :moment OR (:including AND event.recorded_at = :moment) AS early
      FROM halves JOIN ledger_events AS event ON event.global_sequence = halves.middle
      WHERE low < high
    ) AS seen
  ) AS half
)
SELECT low FROM halves WHERE low = high
""")

K = TypeVar("K", int, str)


@dataclass(frozen=True, slots=True)
class Between(Generic[K]):
    """A part of a list ordered by an instant and a key, without its ends; an absent end is open."""

    newer_than: tuple[datetime, K] | None = None
    older_than: tuple[datetime, K] | None = None


async def page(
    connection: AsyncConnection,
    scope: str,
    conditions: Sequence[Condition],
    between: Between[int],
    *,
    newest_first: bool,
    limit: int,
) -> tuple[Event, ...]:
    """The first `limit` events of that part, from its newest or its oldest end."""
    statement = _matching(scope, conditions).where(*await _tests(connection, scope, between))
    directed = (column.desc() if newest_first else column.asc() for column in _order(scope))
    rows = await connection.execute(statement.order_by(*directed).limit(limit))
    return tuple(event_of(row._mapping) for row in rows)


async def count(
    connection: AsyncConnection, scope: str, conditions: Sequence[Condition], between: Between[int]
) -> int:
    """How many events that part has."""
    statement = _matching(scope, conditions).where(*await _tests(connection, scope, between))
    return await paging.count(connection, statement)


def number(scope: str, event: Event) -> int:
    """The sequence by which the readers of `scope` count."""
    return event.global_sequence if scope == ALL_INSTITUTIONS else event.sequence


def _matching(scope: str, conditions: Sequence[Condition]) -> Select[Any]:
    return narrow(within(select(ledger_events), ledger_events.c.institution_id, scope), COLUMNS, conditions)


def _order(scope: str) -> tuple[ColumnElement[Any], ...]:
    if scope == ALL_INSTITUTIONS:
        return (ledger_events.c.global_sequence,)
    return (ledger_events.c.recorded_at, ledger_events.c.sequence)


async def _tests(connection: AsyncConnection, scope: str, between: Between[int]) -> list[ColumnElement[bool]]:
    tests: list[ColumnElement[bool]] = []
    here = tuple_(*_order(scope))
    column = ledger_events.c.global_sequence
    everywhere = scope == ALL_INSTITUTIONS
    if (place := between.newer_than) is not None:
        tests.append(column > await _last(connection, *place) if everywhere else here > tuple_(*place))
    if (place := between.older_than) is not None:
        tests.append(
            column <= await _last(connection, *place, before=1) if everywhere else here < tuple_(*place)
        )
    return tests


async def _last(connection: AsyncConnection, moment: datetime, sequence: int, *, before: int = 0) -> int:
    """The global sequence of the last event up to a place, or of one `before` the event that stands there."""
    if sequence not in (BEFORE_ALL, BEHIND_ALL):
        return sequence - before
    values = {"moment": moment, "including": sequence == BEHIND_ALL}
    last: int | None = (await connection.execute(LAST_UP_TO, values)).scalar_one_or_none()
    return last or 0  # none: the ledger is empty
