"""One subscriber's way through the tail: past and live, filtered, each message with its cursor."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from app.context import Context
from app.errors import BadRequest
from app.ledger.cursors import Epochs
from app.ledger.model import Event
from app.ledger.ring import place
from app.storage.conditions import Condition

Message = tuple[str, Event | None]


async def events(
    context: Context, after: str | None, conditions: Sequence[Condition], heartbeat_seconds: int | None
) -> AsyncGenerator[Message, None]:
    """(cursor, event) for every event after the cursor that passes, (cursor, None) as heartbeat, for ever.

    Without `after` it resumes from the transport's last event id, else begins at the end of the ledger. Before each
    message the context is renewed, so that nested fields are read as of now. Raises `CursorInvalid`.
    """
    minimum = context.services.settings.heartbeat_seconds_min
    if heartbeat_seconds is not None and heartbeat_seconds < minimum:
        raise BadRequest(f"a heartbeat comes at most every {minimum:g} seconds")
    scope, tail = context.scope, context.services.tail
    position = await tail.place(scope, resumed(context, after))
    known = tail.epochs
    while True:
        known = await tail.judge(scope, position, known)
        context.position = position
        page = await tail.page(scope, position)
        if tail.epochs is not known:
            continue
        for event in page:
            position = place(scope, event)
            if passes(event, conditions):
                yield await _message(context, known, position, event)
            context.position = position
        if not page:
            # Where a live group takes over: spelled now, for an epoch that begins later may not have it.
            context.resume_at = known.cursor(scope, position)
            context.level.set()
            news = await tail.wait(scope, position, idle_seconds=heartbeat_seconds)
            context.level.clear()
            if not news:
                yield await _message(context, known, position, None)


def resumed(context: Context, after: str | None) -> str | None:
    """Where to go on: where this server left the stream, else its transport's last id, else what the client asks.

    A browser's EventSource asks for the same `after` at every reconnect: what it says it has seen is newer.
    """
    if context.resume_at is not None:
        return context.resume_at
    return context.request.last_event_id or after


async def _message(context: Context, known: Epochs, position: int, event: Event | None) -> Message:
    # In the epoch it was read in: one that began meanwhile may not have it.
    await context.renew()
    cursor = known.cursor(context.scope, position)
    context.last_cursor, context.telling = cursor, position
    return cursor, event


TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, wanted: bool(value == wanted),
    "in": lambda value, wanted: value in wanted,
    "gte": lambda value, wanted: value is not None and bool(value >= wanted),
    "lte": lambda value, wanted: value is not None and bool(value <= wanted),
    "contains": lambda value, wanted: value is not None and wanted in value,
}


def passes(event: Event, conditions: Sequence[Condition]) -> bool:
    """Whether an event passes every test, as the query's SQL would judge it."""
    return all(TESTS[test.operator](_value(event, test.field), test.value) for test in conditions)


def _value(event: Event, field: str) -> Any:
    return event.actor.id if field == "actor_id" else getattr(event, field)
