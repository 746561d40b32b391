"""The ledger's heads reach the chain, each once, and nothing else does."""

import asyncio
import subprocess
import sys
from pathlib import Path

import asyncpg

from app.kit.tasks import end
from app.main import Parts
from app.positions.model import State
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.anchoring.conftest import Anchors, Settled, Whole
from tests.anchoring.proxy import Proxy
from tests.conftest import Live, Run, eventually
from tests.serving import ROOT, plain_environment


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


CHANGED = "subscription { anchorChanged(where: {mode: {eq: ANCHOR}}) { heartbeat anchor { id state size } } }"
LIST = """
query ($after: String, $where: AnchorWhere) {
  anchors(first: 2, after: $after, where: $where, direction: ASC) {
    totalCount pageInfo { hasNextPage endCursor }
    edges { node { id number state size previousSize root contract chainId logId } }
  }
}
"""


async def test_whoever_follows_anchors_is_told_until_they_are_final(
    parts: Parts, live: Live, settled: Settled
) -> None:
    place = await factories.place(parts.services)
    states: dict[str, list[str]] = {}
    async with live(CHANGED, principal=place.admin) as messages:
        following = asyncio.ensure_future(anext(messages))
        await factories.position(parts.services, place.asset)
        await settled()
        async with asyncio.timeout(10):
            while not states or list(states.values())[-1][-1] != "FINAL":
                told = (await following).data["anchorChanged"]["anchor"]
                states.setdefault(told["id"], []).append(told["state"])
                following = asyncio.ensure_future(anext(messages))
        await end(following)
    order = ["PENDING", "SIGNED", "BROADCAST", "MINED", "FINAL"]
    for told in states.values():
        assert [order.index(state) for state in told] == sorted({order.index(state) for state in told})


async def test_anchors_are_listed_page_by_page_and_found_by_id(
    parts: Parts, run: Run, settled: Settled, anchors: Anchors
) -> None:
    place = await factories.place(parts.services)
    for _ in range(3):
        await factories.position(parts.services, place.asset)
        await settled()
    rows = await anchors()
    listed, after = [], None
    while True:
        answered = await run(LIST, {"after": after}, principal=place.admin)
        assert not answered.errors
        found = answered.data["anchors"]
        assert found["totalCount"] == len(rows)
        listed += [edge["node"]["id"] for edge in found["edges"]]
        if not found["pageInfo"]["hasNextPage"]:
            break
        after = found["pageInfo"]["endCursor"]
    assert listed == [row["id"] for row in rows]
    answered = await run(
        "query ($id: ID!) { node(id: $id) { id ... on Anchor { state } } }", {"id": listed[0]}
    )
    assert answered.data["node"] == {"id": listed[0], "state": "FINAL"}
    none = await run(LIST, {"where": {"state": {"in": ["FAILED", "REORGED"]}}})
    assert none.data["anchors"]["totalCount"] == 0


async def test_of_two_servers_one_submits_and_the_other_takes_over(
    parts: Parts, again: Parts, settled: Settled, whole: Whole
) -> None:
    place = await factories.place(parts.services)
    for _ in range(3):
        await factories.position(parts.services, place.asset, state=State.RELEASED)
    await settled()
    for follower in parts.followers:
        await follower.close()
    await factories.position(again.services, place.asset, state=State.RELEASED)
    await settled()
    assert await whole() >= 2


async def test_the_operator_sees_how_it_stands(
    parts: Parts, settled: Settled, settings: Settings, address: Address, proxy: Proxy, tmp_path: Path
) -> None:
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.RELEASED)
    await settled()
    environment = plain_environment() | {"STORE_BACKEND": "postgres", "DATABASE_URL": address.url}

    def status() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.cli", "anchor", "status"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    told = await asyncio.to_thread(status)
    assert told.returncode == 0, told.stderr
    assert "ledger: 3 events, 3 anchored, 3 of them final" in told.stdout
    proxy.on("eth_blockNumber", lambda: {"error": {"code": -32000, "message": "out of order"}})

    async def failing() -> bool:
        return (await asyncio.to_thread(status)).returncode == 1

    await eventually(failing)
    assert "ALARM: the node says: out of order" in (await asyncio.to_thread(status)).stdout
