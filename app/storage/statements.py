"""Statements of one operation: how many rows they read or wrote, and how long each took, for whoever traces it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncpg.connection import LoggedQuery
from sqlalchemy import Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.kit.spans import Span

if TYPE_CHECKING:
    from app.storage.database import Driver

METER = "escrowgrid.meter"
NAME = "sql"
TEXT_LENGTH_MAX = 2_000


@dataclass(slots=True)
class Meter:
    """One operation's; a connection has it while it serves that operation."""

    rows: int = 0
    # What its statements are parts of, where somebody traces it, and the one that runs.
    span: Span | None = None
    running: Span | None = None

    def begin(self, sql: str) -> None:
        """A statement begins; values are never told, only its text."""
        if self.span is not None:
            self.running = self.span.child(NAME)
            self.running.note("db.system.name", "postgresql")
            self.running.note("db.query.text", sql[:TEXT_LENGTH_MAX])

    def end(self, rows: int, failure: str | None = None) -> None:
        """It is over."""
        self.rows += max(rows, 0)
        if self.running is not None:
            self.running.note("db.response.returned_rows", max(rows, 0))
            self.running.end(failure)
            self.running = None


def watch(engine: AsyncEngine) -> None:
    """Have every statement of the engine's connections noted on their meter."""
    event.listen(engine.sync_engine, "before_cursor_execute", _began)
    event.listen(engine.sync_engine, "after_cursor_execute", _ended)
    event.listen(engine.sync_engine, "handle_error", _failed)


async def fetched(
    connection: AsyncConnection, driver: "Driver", sql: str, values: Sequence[object]
) -> list[Any]:
    """What a statement brings that passes SQLAlchemy by, noted all the same."""
    meter: Meter | None = connection.info.get(METER)
    if meter is None:
        return list(await driver.fetch(sql, *values))
    meter.begin(sql)
    try:
        rows = await driver.fetch(sql, *values)
    except BaseException as error:
        meter.end(0, type(error).__name__)
        raise
    meter.end(len(rows))
    return list(rows)


@contextmanager
def following(driver: "Driver", span: Span | None) -> "Iterator[None]":
    """Have the statements of a driver's connection be parts of `span`, for the length of the block."""
    if span is None:
        yield
        return

    def note(query: LoggedQuery) -> None:
        part = span.child(NAME, began_ns=time.time_ns() - int(query.elapsed * 1e9))
        part.note("db.system.name", "postgresql")
        part.note("db.query.text", query.query[:TEXT_LENGTH_MAX])
        part.end(None if query.exception is None else type(query.exception).__name__)

    with driver.query_logger(note):
        yield


def _began(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
    meter: Meter | None = connection.info.get(METER)
    if meter is not None and meter.span is not None:
        meter.begin(statement)


def _ended(connection: Connection, cursor: Any, *_: Any) -> None:
    meter: Meter | None = connection.info.get(METER)
    if meter is not None:
        meter.end(cursor.rowcount)


def _failed(context: ExceptionContext) -> None:
    info = None if context.connection is None or context.connection.invalidated else context.connection.info
    meter: Meter | None = None if info is None else info.get(METER)
    if meter is not None:
        meter.end(0, type(context.original_exception).__name__)
