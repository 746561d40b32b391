"""The tree over the whole ledger in the database: grown event by event, asked for roots and proofs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.kit.merkle import (
    EMPTY_ROOT,
    CompactRange,
    Span,
    Subtree,
    consistency_spans,
    fold,
    inclusion_spans,
    leaf_hash,
    node_hash,
    perfect,
)
from app.storage.database import Driver

# Roots are kept of every so-manieth level; what lies between is computed from at most 128 of them.
STRIDE = 8
HASHES_AT_ONCE = 10_000

READ = "SELECT size, frontier FROM anchor_tree"
GROW = "UPDATE anchor_tree SET size = $1, frontier = $2::bytea[] WHERE size = $3"
KEEP = """
INSERT INTO anchor_nodes (level, place, hash)
SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[]) ON CONFLICT DO NOTHING
"""
HASHES = """
SELECT hash FROM ledger_events WHERE global_sequence > $1 AND global_sequence <= $2 ORDER BY global_sequence
"""
LEAVES = """
SELECT global_sequence - 1 AS place, e.hash
FROM unnest($1::bigint[], $2::bigint[]) AS s (start, until)
JOIN ledger_events e ON e.global_sequence > s.start AND e.global_sequence <= s.until
"""
NODES = """
SELECT n.level, n.place, n.hash FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS s (level, start, until)
JOIN anchor_nodes n ON n.level = s.level AND n.place >= s.start AND n.place < s.until
"""


@dataclass(frozen=True, slots=True)
class Growth:
    """A tree that took leaves, and the nodes to keep of it."""

    before: int
    tree: CompactRange
    nodes: Sequence[tuple[int, int, bytes]]


def grown(tree: CompactRange, leaves: Iterable[bytes]) -> Growth:
    """`tree` after it took `leaves`."""
    before, nodes = tree.size, list[tuple[int, int, bytes]]()
    for leaf in leaves:
        completed = tree.append(leaf)
        for level in range(STRIDE, len(completed), STRIDE):
            nodes.append((level, (tree.size >> level) - 1, completed[level]))
    return Growth(before, tree, nodes)


async def read(driver: Driver) -> CompactRange:
    """The tree as far as it has been grown, as the feed or writer role."""
    row = await driver.fetchrow(READ)
    assert row is not None, "the migration made the row"
    return CompactRange(row["size"], row["frontier"])


async def hashes(driver: Driver, after: int, until: int) -> list[bytes]:
    """The hashes of events by global sequence, as the feed role; at most so many at once."""
    until = min(until, after + HASHES_AT_ONCE)
    return [row["hash"] for row in await driver.fetch(HASHES, after, until)]


async def keep(driver: Driver, growth: Growth) -> bool:
    """Keep what has grown, as the writer role; False when somebody else did."""
    tree = growth.tree
    status = await driver.execute(GROW, tree.size, list(tree.frontier), growth.before)
    if status != "UPDATE 1":
        return False
    if growth.nodes:
        await driver.execute(KEEP, *(list(column) for column in zip(*growth.nodes, strict=True)))
    return True


async def root_at(driver: Driver, size: int) -> bytes:
    """The root over the first `size` events, as the feed role; they are in the tree."""
    if size == 0:
        return EMPTY_ROOT
    return (await roots(driver, [(0, size)]))[0]


async def inclusion(driver: Driver, index: int, size: int) -> list[bytes]:
    """The path from event `index` (from 0) to the root at `size`, as the feed role."""
    return await roots(driver, inclusion_spans(index, size))


async def consistency(driver: Driver, first: int, size: int) -> list[bytes]:
    """The proof that the tree at `first` is where that at `size` began, as the feed role."""
    return await roots(driver, consistency_spans(first, size))


async def roots(driver: Driver, spans: Sequence[Span]) -> list[bytes]:
    """The roots of nodes of the tree: two statements, some hundred rows at most for each eight levels."""
    wanted = sorted({subtree for span in spans for subtree in perfect(span)})
    leaves = [(place << level, (place + 1) << level) for level, place in wanted if level < STRIDE]
    nodes = [(_kept(level), *_within(level, place)) for level, place in wanted if level >= STRIDE]
    found: dict[Subtree, bytes] = {}
    if leaves:
        rows = await driver.fetch(LEAVES, *(list(column) for column in zip(*leaves, strict=True)))
        found |= {(0, row["place"]): leaf_hash(row["hash"]) for row in rows}
    if nodes:
        rows = await driver.fetch(NODES, *(list(column) for column in zip(*nodes, strict=True)))
        found |= {(row["level"], row["place"]): row["hash"] for row in rows}
    return [fold([_root(found, subtree) for subtree in perfect(span)]) for span in spans]


def _kept(level: int) -> int:
    return level // STRIDE * STRIDE


def _within(level: int, place: int) -> Span:
    """The kept subtrees that one of `level` is made of."""
    shift = level - _kept(level)
    return place << shift, (place + 1) << shift


def _root(found: Mapping[Subtree, bytes], subtree: Subtree) -> bytes:
    level, place = subtree
    start, end = _within(level, place)
    row = [found[_kept(level), one] for one in range(start, end)]
    while len(row) > 1:
        row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=True)]
    return row[0]
