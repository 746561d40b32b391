"""A server that anchors on a chain of its own."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from app.anchoring.chain import Chain
from app.anchoring.deploying import deploy
from app.anchoring.keys import LocalSigner, from_key
from app.anchoring.model import Head, log_id
from app.kit.merkle import CompactRange
from app.main import Parts, assemble
from app.settings import Settings
from app.storage.database import Address
from tests.anchoring import nodes
from tests.anchoring.nodes import Node
from tests.anchoring.proxy import Proxy, running
from tests.conftest import ROOT_KEY, eventually
from verify_proof import ANCHORED

# What hosted nodes have in their address.
PROJECT = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="session")
def py_evm() -> Iterator[Node]:
    with nodes.devchain() as node:
        yield node


@pytest.fixture
def node(py_evm: Node) -> Iterator[Node]:
    """The chain of this test; afterwards as it was before."""
    before = py_evm.snapshot()
    yield py_evm
    py_evm.automine(True)
    py_evm.revert(before)


@dataclass(frozen=True)
class Deployed:
    """A contract on a node, and the key of the account that owns it and submits."""

    node: Node
    contract: str
    key: SecretStr
    signer: LocalSigner
    gas: int

    @property
    def account(self) -> str:
        return self.signer.address


@pytest.fixture
async def deployed(node: Node) -> Deployed:
    """A new contract by a new account."""
    key = SecretStr(secrets.token_hex(32))
    signer = from_key(key)
    await asyncio.to_thread(node.fund, signer.address)
    contract, gas = await deploy(node.url, signer, chain_id=node.chain_id)
    return Deployed(node, contract.lower(), key, signer, gas)


@pytest.fixture
async def chain(deployed: Deployed) -> AsyncIterator[Chain]:
    """Our client, for looking."""
    found = Chain(deployed.node.url, deployed.contract, 10.0)
    yield found
    await found.close()


@pytest.fixture
def proxy(node: Node) -> Iterator[Proxy]:
    """Between the server and the node."""
    with running(node.url) as found:
        yield found


@pytest.fixture
def settings(deployed: Deployed, proxy: Proxy, tmp_path: Path) -> Settings:
    """Anchors at once, and looks often."""
    return Settings(
        root_api_key=SecretStr(ROOT_KEY),
        tick_seconds=0.1,
        expiry_tick_seconds=0.1,
        lease_seconds=2.0,
        pool_size_max=5,
        data_dir=tmp_path,
        chain_url=SecretStr(f"{proxy.url}/v3/{PROJECT}"),
        chain_id=deployed.node.chain_id,
        chain_contract=deployed.contract,
        chain_key=deployed.key,
        chain_confirmations=3,
        chain_batch_events=1000,
        chain_batch_seconds=0.05,
        chain_poll_seconds=0.05,
        chain_resend_seconds=0.3,
        chain_bump_seconds=60,
        chain_request_seconds=3,
        chain_balance_min=Decimal("0.01"),
    )


Anchors = Callable[..., Awaitable[list[asyncpg.Record]]]


@pytest.fixture
def anchors(owner: asyncpg.Connection) -> Anchors:
    """What the database says of them."""

    async def read(where: str = "true") -> list[asyncpg.Record]:
        return await owner.fetch(f"SELECT * FROM anchors WHERE {where} ORDER BY number")

    return read


Settled = Callable[..., Awaitable[None]]


@pytest.fixture
def settled(owner: asyncpg.Connection, node: Node) -> Settled:
    """Makes blocks until every event is covered by an anchor in that state."""

    async def wait(state: str = "FINAL", *, seconds: float = 20, mine: bool = True) -> None:
        async def there() -> bool:
            if mine:
                await asyncio.to_thread(node.mine)
            size = await owner.fetchval("SELECT global_sequence FROM ledger_head")
            covered = await owner.fetchval(
                "SELECT max(size) FROM anchors WHERE mode = 'ANCHOR' AND state = $1", state
            )
            waiting = await owner.fetchval(
                "SELECT count(*) FROM anchors WHERE state <> $1 AND state <> 'SUPERSEDED'", state
            )
            return covered == size and not waiting

        await eventually(there, seconds=seconds)

    return wait


async def log_of(owner: asyncpg.Connection, epoch: int = 1) -> bytes:
    """What the ledger's log of an epoch is called on the chain."""
    row: Any = await owner.fetchrow(
        "SELECT log_id, epoch, nonce FROM ledger_head, epochs WHERE scope = '*' AND epoch = $1", epoch
    )
    return log_id(*row)


@pytest.fixture
def head(owner: asyncpg.Connection, chain: Chain) -> Callable[..., Awaitable[Head]]:
    """What the contract holds of the ledger's log."""

    async def read(epoch: int = 1) -> Head:
        return await chain.head(await log_of(owner, epoch))

    return read


Whole = Callable[..., Awaitable[int]]


def anchored(deployed: Deployed, log: bytes) -> list[Any]:
    """What the chain was told of the heads of one log."""
    asked = {
        "fromBlock": "0x0",
        "toBlock": "latest",
        "address": deployed.contract,
        "topics": [ANCHORED, "0x" + log.hex()],
    }
    told: list[Any] = deployed.node.ask("eth_getLogs", asked)
    return told


@pytest.fixture
def whole(owner: asyncpg.Connection, deployed: Deployed) -> Whole:
    """Asserts that the chain holds the ledger's heads, each once and without a gap; returns how many."""

    async def check(epoch: int = 1) -> int:
        told = anchored(deployed, await log_of(owner, epoch))
        rows = await owner.fetch("SELECT hash FROM ledger_events ORDER BY global_sequence")
        tree, here = CompactRange(), 0
        hashes = []
        for log in told:
            data = bytes.fromhex(log["data"][2:])
            previous, size = int.from_bytes(data[:32], "big"), int.from_bytes(data[32:64], "big")
            assert previous == here, "no gap, and nothing twice"
            tree.extend(row["hash"] for row in rows[here:size])
            assert tree.root() == data[64:96], "the root is the ledger's"
            here = size
            hashes.append(bytes.fromhex(log["transactionHash"][2:]))
        assert here == len(rows), "nothing is lost"
        final = await owner.fetch(
            "SELECT tx_hash, size FROM anchors WHERE mode = 'ANCHOR' AND state = 'FINAL'"
        )
        assert sorted(row["tx_hash"] for row in final) == sorted(hashes), (
            "the database knows what the chain has"
        )
        return len(hashes)

    return check


@pytest.fixture
async def again(settings: Settings, address: Address) -> AsyncIterator[Parts]:
    """Another server process on the same database."""
    made = assemble(settings, address)
    async with made.running():
        yield made
