"""The tree in the database is the tree over the ledger, and proves what any tree of RFC 6962 proves."""

import asyncpg
import pytest

from app.anchoring import tree
from app.kit.merkle import CompactRange, is_consistent, root_by_inclusion
from app.storage.database import DatabaseRole, take_role


@pytest.fixture
async def leaves(owner: asyncpg.Connection) -> list[bytes]:
    """A ledger of so many hashes, with all that is not read left out."""
    found = [number.to_bytes(32, "big") for number in range(1, 1501)]
    await owner.execute("CREATE TEMP TABLE ledger_events (global_sequence bigint PRIMARY KEY, hash bytea)")
    await owner.executemany("INSERT INTO ledger_events VALUES ($1, $2)", enumerate(found, 1))
    return found


@pytest.mark.parametrize("steps", [(1500,), (1, 255, 1, 300, 943), (256, 256, 512, 476)])
async def test_it_grows_in_any_steps_and_proves_every_leaf(
    owner: asyncpg.Connection, leaves: list[bytes], steps: tuple[int, ...]
) -> None:
    done = 0
    for step in steps:
        growing = await tree.read(owner)
        assert growing.size == done
        assert await tree.keep(owner, tree.grown(growing, leaves[done : done + step]))
        done += step
    for size in (1, 2, 255, 256, 257, 700, 1024, 1499, 1500):
        whole = CompactRange()
        whole.extend(leaves[:size])
        assert await tree.root_at(owner, size) == whole.root()
        for index in {0, size // 2, size // 3, size - 1}:
            path = await tree.inclusion(owner, index, size)
            assert root_by_inclusion(leaves[index], index, size, path) == whole.root()
        for first in {1, size // 2 or 1, size - 1 or 1, size}:
            part = CompactRange()
            part.extend(leaves[:first])
            proof = await tree.consistency(owner, first, size)
            assert is_consistent(first, part.root(), size, whole.root(), proof)


async def test_it_does_not_grow_from_where_it_no_longer_is(
    owner: asyncpg.Connection, leaves: list[bytes]
) -> None:
    stale = await tree.read(owner)
    assert await tree.keep(owner, tree.grown(await tree.read(owner), leaves[:300]))
    assert not await tree.keep(owner, tree.grown(stale, leaves[:10]))
    assert (await tree.read(owner)).size == 300
    assert await owner.fetchval("SELECT count(*) FROM anchor_nodes") == 1


async def test_the_roles_that_use_it_may(owner: asyncpg.Connection) -> None:
    for role in (DatabaseRole.FEED, DatabaseRole.WRITER):
        async with owner.transaction():
            await take_role(owner, role, ())
            assert (await tree.read(owner)).size == 0
