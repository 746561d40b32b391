"""The ledger's heads reach the chain, each once, and nothing else does."""

import asyncpg

from app.main import Parts
from app.positions.model import State
from tests import factories
from tests.anchoring.conftest import Anchors, Settled


async def test_what_happens_is_anchored_and_becomes_final(
    parts: Parts, owner: asyncpg.Connection, anchors: Anchors, settled: Settled, head
) -> None:
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.RELEASED)
    await settled()
    found = await anchors()
    assert [row["mode"] for row in found] == ["ANCHOR"] * len(found)
    last = found[-1]
    assert last["size"] == 3
    there = await head()
    assert (there.size, there.root) == (last["size"], last["root"])
