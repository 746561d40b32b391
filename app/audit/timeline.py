"""The one order in which audit rows and ledger events are listed.

It goes by time; at one instant the audit rows, by id, stand before the ledger events, by sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from app.audit.model import LEDGER_ACTIONS, Action, AuditEvent, Outcome, of_ledger
from app.kit.canonical import EPOCH, micros
from app.kit.cursor import BadCursor, seal, unseal
from app.kit.ids import is_id
from app.ledger.model import Event
from app.ledger.trail import BEFORE_ALL, BEHIND_ALL, Between, number
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition
from app.storage.paging import Page, PageRequest

# In the order of the database ("C") these stand before and behind every id.
BEFORE_IDS = ""
BEHIND_IDS = "~"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands; `part` is an audit row's id or a ledger event's sequence."""

    moment: datetime
    part: str | int

    @property
    def key(self) -> tuple[Any, ...]:
        """What places are compared by."""
        return (self.moment, isinstance(self.part, int), self.part)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the joint list, without its ends; an absent end is open."""

    newer_than: Place | None = None
    older_than: Place | None = None

    def within(self, other: "Part") -> "Part":
        """What both have."""
        newer = [place for place in (self.newer_than, other.newer_than) if place is not None]
        older = [place for place in (self.older_than, other.older_than) if place is not None]
        return Part(
            max(newer, key=lambda place: place.key, default=None),
            min(older, key=lambda place: place.key, default=None),
        )

    @property
    def of_rows(self) -> Between[str]:
        """The same part of the audit table."""
        return Between(_among_rows(self.newer_than), _among_rows(self.older_than))

    @property
    def of_events(self) -> Between[int]:
        """The same part of the ledger."""
        return Between(_among_events(self.newer_than), _among_events(self.older_than))


def _among_rows(place: Place | None) -> tuple[datetime, str] | None:
    if place is None:
        return None
    return (place.moment, place.part if isinstance(place.part, str) else BEHIND_IDS)


def _among_events(place: Place | None) -> tuple[datetime, int] | None:
    if place is None:
        return None
    return (place.moment, place.part if isinstance(place.part, int) else BEFORE_ALL)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list asks for: of which institution, by which tests, and which part."""

    scope: str
    row_tests: tuple[Condition, ...]
    # None: no ledger event can pass.
    event_tests: tuple[Condition, ...] | None
    part: Part


def wanted(scope: str, conditions: Sequence[Condition]) -> Wanted:
    """What `conditions` ask for of what `scope` may see."""
    times = [test for test in conditions if test.field == "occurred_at"]
    tests = [test for test in conditions if test.field != "occurred_at"]
    for test in tests:
        # Root naming one institution reads as that institution does: by the same indexes.
        if scope == ALL_INSTITUTIONS and test.field == "institution_id" and test.operator == "eq":
            scope = str(test.value)
    return Wanted(scope, tuple(tests), _event_tests(tests), _part(times))


def _part(times: Sequence[Condition]) -> Part:
    part = Part()
    for test in times:
        if test.operator in ("eq", "gte"):
            part = part.within(Part(newer_than=Place(test.value, BEFORE_IDS)))
        if test.operator in ("eq", "lte"):
            part = part.within(Part(older_than=Place(test.value, BEHIND_ALL)))
    return part


def _event_tests(tests: Sequence[Condition]) -> tuple[Condition, ...] | None:
    outcomes = _allowed(tests, "outcome", frozenset(Outcome))
    actions = _allowed(tests, "action", frozenset(Action)) & LEDGER_ACTIONS
    if Outcome.SUCCESS not in outcomes or not actions:
        return None
    found = [
        Condition("position_id" if test.field == "resource_id" else test.field, test.operator, test.value)
        for test in tests
        if test.field not in ("outcome", "action")
    ]
    if actions != LEDGER_ACTIONS:
        found.append(Condition("created", "eq", Action.POSITION_CREATED in actions))
    return tuple(found)


def _allowed(tests: Sequence[Condition], field: str, every: frozenset[Any]) -> frozenset[Any]:
    for test in tests:
        if test.field == field:
            every &= {test.value} if test.operator == "eq" else frozenset(test.value)
    return every


def label(scope: str, *, newest_first: bool) -> str:
    """What the cursors of a list are sealed with: sequences mean nothing in another scope's list."""
    return f"audit:{scope}:{'desc' if newest_first else 'asc'}"


def part_of(scope: str, request: PageRequest, *, newest_first: bool) -> Part:
    """The part of a list that a page's cursors leave; refuses cursors of another list."""
    order = label(scope, newest_first=newest_first)
    after, before = _place(order, request.after), _place(order, request.before)
    return Part(before, after) if newest_first else Part(after, before)


def _place(order: str, cursor: str | None) -> Place | None:
    if cursor is None:
        return None
    match unseal(order, cursor):
        case [int(stamp), str(part)] if is_id(part):
            return Place(_moment(stamp), part)
        case [int(stamp), int(part)] if BEFORE_ALL < part < BEHIND_ALL:
            return Place(_moment(stamp), part)
    raise BadCursor("the cursor belongs to a list with another order")


def _moment(stamp: int) -> datetime:
    try:
        return EPOCH + timedelta(microseconds=stamp)
    except OverflowError:
        raise BadCursor("the cursor names a time that does not exist") from None


def joined(
    scope: str,
    request: PageRequest,
    rows: Sequence[AuditEvent],
    events: Sequence[Event],
    *,
    newest_first: bool,
) -> Page[AuditEvent]:
    """The page that the first rows and the first events behind the same place make."""
    found = [(Place(row.occurred_at, row.id), row) for row in rows]
    found += [(Place(event.recorded_at, number(scope, event)), of_ledger(event)) for event in events]
    found.sort(key=lambda pair: pair[0].key, reverse=newest_first != request.backward)
    more = len(found) > request.size
    kept = found[: request.size]
    if request.backward:
        kept.reverse()
    order = label(scope, newest_first=newest_first)
    return Page(
        tuple((partial(seal, order, micros(place.moment), place.part), event) for place, event in kept),
        has_next=request.before is not None if request.backward else more,
        has_previous=more if request.backward else request.after is not None,
    )
