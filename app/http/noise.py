"""What strangers can have the libraries log as often as they like: told in a line, and sampled where it is much."""

import logging
import time
from collections import Counter
from collections.abc import Callable

from app.kit.buckets import Buckets

# What each begins with. Whoever sends such things sends them without a key, and as fast as the wire takes them.
TOLD = (
    "Invalid HTTP request received.",
    "Invalid UTF-8 sequence",
    "Rejected WebSocket connection",
    "Unsupported upgrade request.",
)
LOGGERS = ("uvicorn.error", "strawberry.ws")
LINES_AT_ONCE = 10
LINES_PER_SECOND = 0.2


class Sampled(logging.Filter):
    """Lets the first lines of each kind pass, then one every few seconds, which says how many were left out."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._lines = Buckets(LINES_AT_ONCE, LINES_PER_SECOND, len(TOLD))
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is told; whatever else the libraries say always is."""
        kind = next((kind for kind in TOLD if str(record.msg).startswith(kind)), None)
        if kind is None:
            return True
        if not self._lines.take(kind, self._now()):
            self._left_out[kind] += 1
            return False
        # A client's bytes are no fault of ours: no traceback.
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        if left_out := self._left_out.pop(kind, 0):
            record.msg = f"{record.msg} ({left_out} more like it were left out)"
        return True


SAMPLED = Sampled()


def sample() -> None:
    """To be called by whoever serves; once more changes nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(SAMPLED)
