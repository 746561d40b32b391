"""Whether what clients saw of one position can have happened one after the other: checked in O(n log n)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Op:
    """One act of one client: when it began and ended, and the version it made (or read) of a position.

    `seen` is what it was told of the position at that version.
    """

    began: float
    ended: float
    version: int
    writes: bool
    seen: tuple[object, ...]


def violations(ops: Iterable[Op], folded: Mapping[int, tuple[object, ...]]) -> Iterator[str]:
    """What cannot be: `folded` is what the ledger says the position was at each of its versions."""
    ops = list(ops)
    made = sorted(op.version for op in ops if op.writes)
    if made != sorted(folded):
        yield f"versions {_differing(made, sorted(folded))} were not made exactly once by those who were told so"
    for op in ops:
        if folded.get(op.version) != op.seen:
            yield f"version {op.version} was told as {op.seen} and is {folded.get(op.version)}"
    yield from _out_of_order(ops)


def _out_of_order(ops: list[Op]) -> Iterator[str]:
    """Whoever begins after something has ended sees it: a version never falls behind one that was known before."""
    ended = sorted(ops, key=attrgetter("ended"))
    known, place = 0, 0
    for op in sorted(ops, key=attrgetter("began")):
        while ended[place].ended < op.began:
            known = max(known, ended[place].version)
            place += 1
        if op.version < known or (op.writes and op.version == known):
            verb = "made" if op.writes else "read"
            yield f"version {op.version} was {verb} by one who began after version {known} was known"


def _differing(made: list[int], there: list[int]) -> list[int]:
    return sorted({version for version in {*made, *there} if made.count(version) != there.count(version)})[:5]
