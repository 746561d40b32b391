"""What one promise of DESIGN §14 was put to: how far it went, and every time it was broken."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

VIOLATIONS_KEPT = 20


@dataclass(slots=True)
class Tally:
    """One row of the table. Counts rise while it runs, so that they can be watched."""

    row: str
    unit: str
    reached: int = 0
    lost: int = 0
    doubled: int = 0
    violations: int = 0
    first: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.doubled or self.violations)

    def violate(self, text: str) -> None:
        """Note that something is not as promised."""
        self.violations += 1
        if len(self.first) < VIOLATIONS_KEPT:
            self.first.append(text)

    def lose(self, text: str) -> None:
        """Note that something acknowledged is not there."""
        self.lost += 1
        if len(self.first) < VIOLATIONS_KEPT:
            self.first.append(f"lost: {text}")

    def double(self, text: str) -> None:
        """Note that something happened twice."""
        self.doubled += 1
        if len(self.first) < VIOLATIONS_KEPT:
            self.first.append(f"doubled: {text}")

    def require(self, true: object, text: str) -> None:
        """A violation unless it is true."""
        if not true:
            self.violate(text)

    @property
    def remarks(self) -> str:
        """The counts and measures beside the figure."""
        counted = [f"{count:,} {name}" for name, count in self.counts.items()]
        return ", ".join([*counted, *(f"{name} {value}" for name, value in self.notes.items())])

    def __str__(self) -> str:
        told = f"{self.row}: {self.reached:,} {self.unit}, {self.lost} lost, {self.doubled} doubled, "
        return "\n  ".join([told + f"{self.violations} violations; {self.remarks}", *self.first])


# Makes the tally of a promise: its name, and what is counted.
Row = Callable[[str, str], Tally]


@dataclass(frozen=True, slots=True)
class Limit:
    """How far to go: so many, or until a moment of the monotonic clock, whichever comes first."""

    count: float = math.inf
    until: float = math.inf

    @classmethod
    def seconds(cls, seconds: float) -> "Limit":
        """As far as it gets in that time."""
        return cls(until=time.monotonic() + seconds)

    def more(self, reached: int) -> bool:
        """Whether to go on; once at least, however little time there is."""
        return reached < self.count and (reached == 0 or time.monotonic() < self.until)


def rounds(limit: Limit, tally: Tally) -> Iterator[None]:
    """Rounds of about one length: another one as long as there is time for it."""
    took = 0.0
    while limit.more(tally.reached) and (tally.reached == 0 or time.monotonic() + took < limit.until):
        began = time.monotonic()
        yield
        took = time.monotonic() - began


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them do not pass."""
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else 0.0


def milliseconds(seconds: float) -> str:
    """For a note."""
    return f"{seconds * 1000:.0f} ms"


def table(tallies: Sequence[Tally]) -> str:
    """The final table: how far each promise was put to, and every time it was broken; below each what was measured."""
    heads = ("row", "reached", "lost", "doubled", "violations")
    lines = [
        (
            tally.row,
            f"{tally.reached:,} {tally.unit}",
            *(f"{count:,}" for count in (tally.lost, tally.doubled, tally.violations)),
        )
        for tally in tallies
    ]
    widths = [max(len(line[place]) for line in (heads, *lines)) for place in range(len(heads))]

    def spelled(line: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()

    told = [spelled(heads)]
    for line, tally in zip(lines, tallies, strict=True):
        told += [spelled(line), f"    {tally.remarks}", *(f"    ! {text}" for text in tally.first)]
    return "\n".join(told)
