"""Scripted runs of a chain that misbehaves, told by a number, so that each can be run again."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from web3.exceptions import Web3Exception

from tests.anchoring.nodes import Node
from tests.anchoring.proxy import Proxy, drop, swallow

STEPS = 6


@dataclass
class Run:
    """One run: what happens is drawn from its number."""

    number: int
    node: Node
    proxy: Proxy
    happen: Callable[[], Awaitable[object]]
    steal: Callable[[], Awaitable[object]]
    did: Counter[str] = field(default_factory=Counter)

    async def play(self) -> None:
        """Faults and events by turns; at the end all is well, and somebody has to look whether it really is."""
        chance = random.Random(self.number)
        snapshot = await asyncio.to_thread(self.node.snapshot)
        faults: list[Callable[[], Awaitable[object]]] = [
            self._nothing, self._down, self._lost_before, self._lost_after, self._dropped, self._stolen, self._dear,
            self._elsewhere, self._codeless, self._refused, self._mined, self._mined,
        ]  # fmt: skip
        for _ in range(STEPS):
            self.proxy.well()
            if chance.random() < 0.15:
                self.did["reorganised"] += 1
                await asyncio.to_thread(self.node.revert, snapshot)
                await asyncio.to_thread(self.node.mine, chance.randint(1, 4))
                snapshot = await asyncio.to_thread(self.node.snapshot)
            fault = chance.choice(faults)
            self.did[fault.__name__.strip("_")] += 1
            await fault()
            await self.happen()
            await asyncio.sleep(chance.uniform(0.02, 0.25))
        self.proxy.well()

    async def _nothing(self) -> None: ...

    async def _down(self) -> None:
        self.proxy.down()

    async def _lost_before(self) -> None:
        self.proxy.on("eth_sendRawTransaction", drop())

    async def _lost_after(self) -> None:
        self.proxy.on("eth_sendRawTransaction", drop(after=True))

    async def _dropped(self) -> None:
        self.proxy.on("eth_sendRawTransaction", swallow)

    async def _stolen(self) -> None:
        self.proxy.on("eth_sendRawTransaction", swallow)
        await self.happen()
        await asyncio.sleep(0.15)
        # Who is late steals nothing.
        with suppress(Web3Exception, RuntimeError):
            await self.steal()

    async def _dear(self) -> None:
        self.proxy.twist = lambda method, result: (
            result | {"baseFeePerGas": hex(10**15)} if method == "eth_getBlockByNumber" else result
        )

    async def _elsewhere(self) -> None:
        self.proxy.on("eth_chainId", lambda: {"result": "0x1"})

    async def _codeless(self) -> None:
        self.proxy.on("eth_getCode", lambda: {"result": "0x"})

    async def _refused(self) -> None:
        self.proxy.on("eth_estimateGas", lambda: {"error": {"code": -32000, "message": "insufficient funds"}})

    async def _mined(self) -> None:
        await asyncio.to_thread(self.node.mine, 2)
