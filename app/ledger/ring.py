"""The newest events in memory, bounded in bytes, found by their gapless sequences."""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from app.ledger.model import Event
from app.principal import ALL_INSTITUTIONS

# What an event object weighs with all it holds, measured with tracemalloc, beside its free text.
EVENT_BYTES = 3_000


class Ring:
    """Events of all institutions in global order, and of each in its own. Both orders are gapless."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._lines: dict[str, deque[Event]] = {ALL_INSTITUTIONS: deque()}

    def __len__(self) -> int:
        return len(self._lines[ALL_INSTITUTIONS])

    @property
    def bytes(self) -> int:
        """What the ring weighs by its own reckoning."""
        return self._bytes

    def add(self, event: Event) -> None:
        """Append the next event; the oldest leave when the ring is too heavy."""
        self._lines[ALL_INSTITUTIONS].append(event)
        self._lines.setdefault(event.institution_id, deque()).append(event)
        self._bytes += weight(event)
        while self._bytes > self._bytes_max and len(self) > 1:
            self._drop_oldest()

    def clear(self) -> None:
        """Forget everything."""
        self._lines = {ALL_INSTITUTIONS: deque()}
        self._bytes = 0

    def after(self, scope: str, sequence: int, size_max: int) -> Sequence[Event] | None:
        """Up to `size_max` events of `scope` above `sequence`; None when the ring does not reach back that far."""
        line = self._lines.get(scope)
        if not line:
            return None
        start = sequence + 1 - place(scope, line[0])
        if start < 0:
            return None
        return list(islice(line, start, start + size_max))

    def _drop_oldest(self) -> None:
        event = self._lines[ALL_INSTITUTIONS].popleft()
        line = self._lines[event.institution_id]
        line.popleft()
        if not line:
            del self._lines[event.institution_id]
        self._bytes -= weight(event)


def place(scope: str, event: Event) -> int:
    """The event's number in the order of `scope`."""
    return event.global_sequence if scope == ALL_INSTITUTIONS else event.sequence


def weight(event: Event) -> int:
    """About what an event costs in memory."""
    return EVENT_BYTES + 2 * len(repr(event.data)) + 2 * len(repr(event.evidence))
