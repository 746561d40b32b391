"""What a lost connection to the database looks like, what is told of it, and what may be tried again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from app.errors import Overloaded, Unavailable

log = logging.getLogger("escrowgrid.storage")

CONNECT_ATTEMPTS_MAX = 4
CONNECT_PAUSE_SECONDS = 0.15
UNDONE = "the database went away in the middle; nothing was done, try again shortly"
IN_DOUBT = (
    "the database went away while this was committed: look whether it was done before you send it again"
)
TOO_SLOW = (
    "the database took longer over this than a statement may (statement_timeout_seconds); nothing was done: ask for "
    "less at once, such as a smaller page or no totalCount, or try again later"
)
# A statement that was ended, and whatever comes after it in the same transaction.
ENDED = frozenset({"57014", "25P02"})
# What a broken or refused connection raises: nothing was done, another connection may do.
CONNECTION_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    # What the driver says when a connection ends just as it is told something.
    asyncpg.InternalClientError,
)
DRIVERS = frozenset({"asyncpg", "sqlalchemy"})
# What the database says of the very values it was given: bad data, broken constraints, limits, its own triggers.
CONTENT_TO_BLAME = frozenset({"22", "23", "54", "P0"})


def is_lost(error: DBAPIError) -> bool:
    """Whether it says that the connection is gone, or could not be had."""
    # What the driver itself raised, such as of a server that still recovers, is behind SQLAlchemy's own.
    cause = error.orig.__cause__ if error.orig is not None else None
    known = (InterfaceError, OperationalError)
    return error.connection_invalidated or isinstance(error, known) or isinstance(cause, CONNECTION_LOST)


def database_to_blame(error: BaseException) -> bool:
    """Whether the database is away or in trouble (slow, full, read-only …), rather than what it was given is bad."""
    if isinstance(error, ValueError):
        return False  # the driver could not even spell it
    if isinstance(error, OSError) and not _by_the_driver(error):
        return False  # files, and whoever else is asked over the network, have such errors, too
    if isinstance(error, (*CONNECTION_LOST, Overloaded, Unavailable)):
        return True
    if isinstance(error, DBAPIError) and is_lost(error):
        return True
    state = _state(error)
    return state is not None and state[:2] not in CONTENT_TO_BLAME


def _by_the_driver(error: BaseException | None) -> bool:
    """Whether it came up through the driver; of a timeout it is the cancellation that did."""
    while error is not None:
        for frame, _line in walk_tb(error.__traceback__):
            if str(frame.f_globals.get("__name__")).partition(".")[0] in DRIVERS:
                return True
        before = error.__context__
        # The first ones of Python 3.11 do not name the cancellation as the cause of a timeout.
        error = error.__cause__ or (before if isinstance(before, asyncio.CancelledError) else None)
    return False


@contextmanager
def telling_loss(words: str) -> Iterator[None]:
    """A connection that is lost inside is `Unavailable`, in those words; a statement that is too slow, `Overloaded`."""
    try:
        yield
    except (*CONNECTION_LOST, DBAPIError, asyncpg.QueryCanceledError) as error:
        if words == UNDONE and _state(error) in ENDED:
            log.warning("a statement took too long, or came after one that did: %s", _state(error))
            raise Overloaded(TOO_SLOW) from error
        if isinstance(error, DBAPIError) and not is_lost(error):
            raise
        log.warning("database connection lost in the middle: %s", type(error).__name__)
        raise Unavailable(words) from error


def _state(error: BaseException) -> str | None:
    return getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None)


T = TypeVar("T")


async def retrying(work: Callable[[], Awaitable[T]], *, attempts: int = CONNECT_ATTEMPTS_MAX) -> T:
    """Run work that is safe to repeat, again when its connection was lost."""
    for attempt in range(attempts):
        try:
            return await work()
        except CONNECTION_LOST:
            if attempt + 1 == attempts:
                raise
            await asyncio.sleep(CONNECT_PAUSE_SECONDS * 2**attempt)
    raise AssertionError("the loop returns or raises")
