"""On a real node over JSON-RPC: reorganisations, replaced transactions, fees that run away, restarts."""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.main import Parts
from app.positions.model import State
from app.settings import Settings
from tests import factories
from tests.anchoring import nodes
from tests.anchoring.conftest import Anchors, Deployed, Settled, Whole
from tests.anchoring.nodes import AnvilNode
from tests.conftest import eventually

LOUD = "NO REAL CHAIN IS TESTED: npm could not bring anvil (install npm, or name a binary with ANVIL=…)"


@pytest.fixture(scope="module")
def binary(request: pytest.FixtureRequest) -> Path:
    """anvil, kept with what pytest keeps."""
    found = nodes.anvil_binary(Path(request.config.cache.mkdir("anvil")))  # type: ignore[union-attr]
    if found is None:
        pytest.skip(LOUD)
    return found


@pytest.fixture
def node(binary: Path) -> Iterator[AnvilNode]:
    """A node of this test's own; blocks are made when the test asks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with nodes.anvil(binary, port) as found:
        yield found


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"chain_bump_seconds": 0.5})


@pytest.fixture
async def place(parts: Parts) -> factories.Place:
    return await factories.place(parts.services)


@pytest.fixture
def happen(parts: Parts, place: factories.Place) -> Callable[[], Awaitable[Any]]:
    """Three more events."""
    return lambda: factories.position(parts.services, place.asset, state=State.RELEASED)


async def test_a_reorganisation_of_the_node_itself_is_survived(
    happen: Callable[[], Awaitable[Any]], deployed: Deployed, settled: Settled, whole: Whole, anchors: Anchors
) -> None:
    for _ in range(3):
        await happen()
        await settled()
    # The blocks are replaced by empty ones, down to below the newest anchors.
    (oldest,) = await anchors("number = (SELECT min(number) FROM anchors WHERE size > 3)")
    depth = deployed.node.height - oldest["block_number"] + 1
    await asyncio.to_thread(deployed.node.ask, "anvil_reorg", depth, [])
    await asyncio.to_thread(deployed.node.mine, 1)

    async def noticed() -> bool:
        return any(row["reorgs"] for row in await anchors())

    await eventually(noticed)
    await happen()
    await settled()
    assert await whole() >= 3


async def test_what_waits_too_long_is_replaced_by_what_pays_more(
    happen: Callable[[], Awaitable[Any]],
    deployed: Deployed,
    settled: Settled,
    whole: Whole,
    owner: asyncpg.Connection,
) -> None:
    await asyncio.to_thread(deployed.node.automine, False)
    await happen()

    async def replaced() -> bool:
        return bool(await owner.fetchval("SELECT count(*) >= 3 FROM anchor_transactions"))

    await eventually(replaced)
    rows = await owner.fetch("SELECT nonce, fee_max, tip_max FROM anchor_transactions ORDER BY signed_at")
    assert len({row["nonce"] for row in rows}) == 1
    for before, after in itertools.pairwise(rows):
        assert after["fee_max"] * 10 >= before["fee_max"] * 11
        assert after["tip_max"] * 10 >= before["tip_max"] * 11
    await settled()
    await whole()


async def test_a_fee_that_runs_away_is_followed_up_to_the_most(
    happen: Callable[[], Awaitable[Any]],
    deployed: Deployed,
    settled: Settled,
    whole: Whole,
    anchors: Anchors,
    owner: asyncpg.Connection,
) -> None:
    await asyncio.to_thread(deployed.node.automine, False)
    await happen()

    async def there() -> bool:
        return any(row["state"] == "BROADCAST" for row in await anchors())

    await eventually(there)
    await asyncio.to_thread(deployed.node.ask, "anvil_setNextBlockBaseFeePerGas", hex(150 * 10**9))
    await asyncio.to_thread(deployed.node.mine)

    async def followed() -> bool:
        most = await owner.fetchval("SELECT max(fee_max) FROM anchor_transactions")
        return bool(150 * 10**9 <= most <= 200 * 10**9)

    await eventually(followed)
    await settled()
    await whole()
    assert await owner.fetchval("SELECT max(fee_max) <= 200 * 10^9 FROM anchor_transactions")


async def test_a_node_that_forgets_its_pool_gets_it_again(
    happen: Callable[[], Awaitable[Any]], deployed: Deployed, settled: Settled, whole: Whole, anchors: Anchors
) -> None:
    await asyncio.to_thread(deployed.node.automine, False)
    await happen()

    async def there() -> bool:
        return any(row["state"] == "BROADCAST" for row in await anchors())

    await eventually(there)
    await asyncio.to_thread(deployed.node.ask, "anvil_dropAllTransactions")
    await settled()
    await whole()
