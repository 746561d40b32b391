"""What clients do all day: open positions, move them by every road, ask now and then for what must be refused."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

from tests.reliability.client import Client, Tenant, refusal_of
from tests.reliability.tally import Tally

ONE = Decimal(1)


class Surprised(Exception):
    """Something was answered otherwise than it had to be; it has been noted."""


class Life:
    """One client, one position after the other; what is answered has to be what it expects."""

    def __init__(self, client: Client, tenant: Tenant, tally: Tally, seed: int) -> None:
        self._client = client
        self._tenant = tenant
        self._tally = tally
        self._random = random.Random(seed)
        self.assets: list[str] = []

    async def go_on(self, stopping: asyncio.Event) -> None:
        """Until told to stop; the command under way is finished."""
        while not stopping.is_set():
            choice = self._random.random()
            with suppress(Surprised):
                if choice < 0.08:
                    await self._pair()
                elif choice < 0.11:
                    await self._asset()
                else:
                    await self._position(stopping)

    async def _position(self, stopping: asyncio.Event) -> None:
        amount = Decimal(self._random.randint(200, 10**8)) / 100
        made = await self._do("createPosition", None, **self._terms(amount))
        position_id = made["position"]["id"]
        self._expect(made, 1, "CREATED", 0, 0)
        if self._random.random() < 0.1:
            self._expect(await self._do("cancelPosition", None, id=position_id), 2, "CANCELLED", 0, 0)
            return
        self._expect(await self._do("fundPosition", None, id=position_id), 2, "FUNDED", amount, amount)
        held, version = amount, 2
        while not stopping.is_set() and held > ONE and self._random.random() < 0.6:
            part = (held * self._random.randint(1, 60) / 100).quantize(Decimal("0.01")) or Decimal("0.01")
            answer = await self._do("releasePosition", None, id=position_id, amount=str(part))
            held, version = held - part, version + 1
            self._expect(answer, version, "PARTIALLY_RELEASED", amount, held)
        if self._random.random() < 0.2:
            await self._do("releasePosition", "INSUFFICIENT_HELD", id=position_id, amount=str(held + ONE))
            await self._do("fundPosition", "TRANSITION_NOT_ALLOWED", id=position_id)
            stale = {"id": position_id, "expectedVersion": version + 7}
            await self._do("cancelPosition", "VERSION_CONFLICT", **stale)
        mutation, state = self._random.choice(
            (("releasePosition", "RELEASED"), ("cancelPosition", "CANCELLED"), ("expirePosition", "EXPIRED"))
        )
        self._expect(await self._do(mutation, None, id=position_id), version + 1, state, amount, 0)

    async def _pair(self) -> None:
        """Two positions made by one list, funded by one list that is done whole or not at all."""
        keys = [_key(), _key()]
        items = [{**self._terms(Decimal(5)), "idempotencyKey": key} for key in keys]
        made = await self._client.command(self._tenant, "createPositions", keys, items=items)
        self._as_expected(made, None, "createPositions")
        ids = [result["position"]["id"] for result in made]
        keys = [_key(), _key()]
        items = [
            {"id": id_, "toState": "FUNDED", "idempotencyKey": key}
            for id_, key in zip(ids, keys, strict=True)
        ]
        moved = await self._client.command(
            self._tenant, "transitionPositions", keys, items=items, atomic=True
        )
        self._as_expected(moved, None, "transitionPositions")
        for result in moved:
            self._expect(result, 2, "FUNDED", 5, 5)

    async def _asset(self) -> None:
        """Not a command of the ledger: its row and its audit are one transaction, and nobody may ask twice."""
        label = f"asset {uuid.uuid4()}"
        text = "mutation ($input: CreateAssetInput!) { made: createAsset(input: $input) { asset { id } } }"
        wanted = {"institutionId": self._tenant.id, "templateId": self._tenant.template_id, "label": label}
        url = await self._client.doors.pick()
        answered = await self._client.post(url, self._tenant.key, text, {"input": wanted})
        if answered.known:
            self.assets.append(answered.data["made"]["asset"]["id"])

    def _terms(self, amount: Decimal) -> dict[str, Any]:
        return {
            "assetId": self._tenant.asset_id,
            "holderReference": f"H-{self._random.randint(1, 99)}",
            "currency": "USD",
            "amount": str(amount),
            "reason": "because",
        }

    async def _do(self, mutation: str, refused: str | None, **input: Any) -> dict[str, Any]:
        key = _key()
        (result,) = await self._client.command(self._tenant, mutation, [key], idempotencyKey=key, **input)
        self._as_expected([result], refused, f"{mutation} {input}")
        return result

    def _as_expected(self, results: Sequence[dict[str, Any]], refused: str | None, what: str) -> None:
        said = {refusal_of(result) for result in results}
        if said != {refused}:
            self._tally.violate(f"{what}: expected {refused}, was told {said}")
            raise Surprised

    def _expect(
        self, result: dict[str, Any], version: int, state: str, funded: Decimal | int, held: Decimal | int
    ) -> None:
        found = result["position"]
        is_so = (found["version"], found["state"]) == (version, state)
        is_so = is_so and (Decimal(found["funded"]), Decimal(found["held"])) == (funded, held)
        self._tally.require(is_so, f"expected version {version}, {state}, {held} held; was told {found}")


def _key() -> str:
    return str(uuid.uuid4())


@asynccontextmanager
async def lived(
    client: Client, tenants: Sequence[Tenant], tally: Tally, count: int
) -> AsyncIterator[list[Life]]:
    """So many clients busy for the length of the block; at its end every outcome is known."""
    stopping = asyncio.Event()
    lives = [Life(client, tenants[n % len(tenants)], tally, random.randrange(2**32)) for n in range(count)]
    async with asyncio.TaskGroup() as group:
        for life in lives:
            group.create_task(life.go_on(stopping))
        yield lives
        stopping.set()
