"""Where the time comes from, so that tests own it."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The current instant in UTC, with microseconds."""
    return datetime.now(UTC)
