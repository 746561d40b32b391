"""Sixty-four clients on ten positions across two servers: every position still has one history."""

import asyncio
import random
import time
import uuid
from decimal import Decimal
from typing import Any

import asyncpg

from tests.reliability.client import Client, Tenant, connected, found_tenant, refusal_of
from tests.reliability.history import Op, violations
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Tally

CLIENTS = 64
POSITIONS = 10
AMOUNT = "1000000.00"
JUDGED_AT_ONCE = 20_000
READ = "query ($id: ID!) { position(id: $id) { id version state funded released refunded held } }"
FOLD = """
SELECT position_id, position_version, new_state, funded, released, refunded, held FROM ledger_events
WHERE position_id = ANY($1::text[])
"""
KEYS = "SELECT idempotency_key FROM ledger_events WHERE key_institution_id = $1"
SEEN = ("state", "funded", "released", "refunded", "held")
CLOSING = ("releasePosition", "cancelPosition", "expirePosition")


class Crowd:
    """What all clients together did to the positions."""

    def __init__(self, client: Client, tenant: Tenant, tally: Tally) -> None:
        self._client = client
        self._tenant = tenant
        self._tally = tally
        self.ops: dict[str, list[Op]] = {}
        self.accepted: dict[str, str] = {}
        self.refused: set[str] = set()

    async def open(self) -> None:
        """The positions, not funded yet."""
        terms = {
            "assetId": self._tenant.asset_id,
            "holderReference": "H",
            "currency": "USD",
            "amount": AMOUNT,
        }
        for _ in range(POSITIONS):
            await self._do("createPosition", **terms)

    async def go_on(self, number: int, limit: Limit) -> None:
        """One client: whatever comes to mind, to whichever position."""
        chance = random.Random(number)
        versions: dict[str, int] = {}
        while limit.more(self._tally.reached):
            position_id = chance.choice(list(self.ops))
            kind = chance.choices(("release", "read", "expected", "fund", "too much"), (50, 20, 15, 5, 10))[0]
            cents = f"0.{chance.randint(1, 99):02}"
            if kind == "read":
                versions[position_id] = await self._read(position_id)
            elif kind == "fund":
                await self._do("fundPosition", id=position_id)
            elif kind == "too much":
                await self._do("releasePosition", id=position_id, amount="2000000.00")
            elif kind == "expected" and position_id in versions:
                expected = {"expectedVersion": versions[position_id]}
                await self._do("releasePosition", id=position_id, amount=cents, **expected)
            else:
                await self._do("releasePosition", id=position_id, amount=cents)
            self._tally.reached += 1

    async def close(self) -> None:
        """Everybody wants to be the last one; of each position only one is."""
        wanted = [(name, position_id) for position_id in self.ops for name in CLOSING]
        random.shuffle(wanted)
        await asyncio.gather(*(self._do(name, id=position_id) for name, position_id in wanted))

    async def _do(self, mutation: str, **input: Any) -> None:
        key = str(uuid.uuid4())
        began = time.monotonic()
        (result,) = await self._client.command(self._tenant, mutation, [key], idempotencyKey=key, **input)
        ended = time.monotonic()
        if refusal_of(result) is not None:
            self.refused.add(key)
            self._tally.counts["refused"] += 1
            return
        self.accepted[key] = result["event"]["id"]
        self._note(result["position"], began, ended, writes=True)

    async def _read(self, position_id: str) -> int:
        began = time.monotonic()
        found = (await self._client.ask(self._tenant.key, READ, {"id": position_id}))["position"]
        self._note(found, began, time.monotonic(), writes=False)
        version: int = found["version"]
        return version

    def _note(self, told: dict[str, Any], began: float, ended: float, *, writes: bool) -> None:
        self._tally.counts["versions" if writes else "reads"] += 1
        seen = _seen(told["state"], *(told[name] for name in SEEN[1:]))
        self.ops.setdefault(told["id"], []).append(Op(began, ended, told["version"], writes, seen))

    async def judge(self, owner: asyncpg.Connection) -> None:
        """Every position's history against its events, every key against the ledger."""
        folds: dict[str, dict[int, tuple[object, ...]]] = {position_id: {} for position_id in self.ops}
        for row in await owner.fetch(FOLD, list(self.ops)):
            seen = _seen(row["new_state"], *(row[name] for name in SEEN[1:]))
            folds[row["position_id"]][row["position_version"]] = seen
        for position_id, ops in self.ops.items():
            for told in violations(ops, folds[position_id]):
                self._tally.violate(f"{position_id}: {told}")
        there = {row[0] for row in await owner.fetch(KEYS, self._tenant.id)}
        for key in self.refused & there:
            self._tally.violate(f"{key} was refused and is in the ledger")
        for key in self.accepted.keys() - there:
            self._tally.lose(f"{key}, acknowledged as {self.accepted[key]}")


async def hot_positions(tally: Tally, limit: Limit, site: Site) -> None:
    """Many on few, across processes; then the histories are judged."""
    async with site.serving(2) as servers, connected(*servers) as client:
        while limit.more(tally.reached):
            tenant = await found_tenant(client, site.root_key, "Hot Trust")
            crowd = Crowd(client, tenant, tally)
            await crowd.open()
            some = Limit(min(limit.count, tally.reached + JUDGED_AT_ONCE), limit.until)
            await asyncio.gather(*(crowd.go_on(number, some) for number in range(CLIENTS)))
            await crowd.close()
            async with site.connected() as owner:
                await crowd.judge(owner)


def _seen(state: str, *amounts: str | Decimal) -> tuple[object, ...]:
    return (state, *(Decimal(amount) for amount in amounts))
