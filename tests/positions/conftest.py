"""One server for a whole module of tests that each have positions of their own, and what they ask it."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.positions.model import Position, State
from app.principal import Principal
from tests import factories
from tests.conftest import Answered
from tests.factories import Place

POSITION = "id state stage version amount funded released refunded held currency expiresAt closedAt"
EVENT = (
    "kind previousState newState moneyEffect amountMoved currency positionVersion policyId evidence occurredAt "
    "recordedAt postings { account amount currency } balancesAfter { funded released refunded held }"
)
PAYLOAD = (
    f"{{ position {{ {POSITION} }} event {{ {EVENT} }} cursor replayed userErrors {{ code message field }} }}"
)
INPUTS = {
    "createPosition": "CreatePositionInput",
    "fundPosition": "MovePositionInput",
    "releasePosition": "ReleasePositionInput",
    "cancelPosition": "MovePositionInput",
    "expirePosition": "MovePositionInput",
    "transitionPosition": "TransitionPositionInput",
}


@dataclass(frozen=True)
class Desk:
    """A running server, somewhere to open positions, and somebody who may."""

    services: Services
    schema: Schema
    owner: asyncpg.Connection
    place: Place

    async def run(
        self,
        document: str,
        variables: Mapping[str, Any] | None = None,
        *,
        principal: Principal | None = None,
        request: Request | None = None,
    ) -> Answered:
        """Executes a document, as an admin of the place unless somebody else is given."""
        made = request or Request(self.services.ids.new("req"))
        context = Context(self.services, principal or self.place.admin, made)
        try:
            result = await self.schema.execute(document, variable_values=variables, context_value=context)
        finally:
            await context.close()
        return Answered(result.data, result.errors or [])

    async def mutate(self, mutation: str, principal: Principal | None = None, **input: Any) -> dict[str, Any]:
        """The payload of one mutation."""
        document = f"mutation ($input: {INPUTS[mutation]}!) {{ {mutation}(input: $input) {PAYLOAD} }}"
        answered = await self.run(document, {"input": input}, principal=principal)
        assert not answered.errors, answered.errors
        payload: dict[str, Any] = answered.data[mutation]
        return payload

    async def accepted(
        self, mutation: str, principal: Principal | None = None, **input: Any
    ) -> dict[str, Any]:
        """The payload of a mutation that is accepted."""
        payload = await self.mutate(mutation, principal, **input)
        assert payload["userErrors"] == []
        assert payload["position"] is not None
        assert payload["event"] is not None
        assert payload["cursor"] is not None
        return payload

    async def refused(
        self, mutation: str, principal: Principal | None = None, **input: Any
    ) -> dict[str, Any]:
        """The one error of a mutation that is refused; nothing was written."""
        before = await factories.footprint(self.owner)
        payload = await self.mutate(mutation, principal, **input)
        assert await factories.footprint(self.owner) == before
        (error,) = payload["userErrors"]
        assert (payload["position"], payload["event"], payload["cursor"]) == (None, None, None)
        assert payload["replayed"] is False
        found: dict[str, Any] = error
        return found

    async def position(
        self, amount: str = "100.00", *, state: State = State.CREATED, **terms: Any
    ) -> Position:
        """A position of the place."""
        return await factories.position(self.services, self.place.asset, amount, state=state, **terms)

    def terms(self, **others: Any) -> dict[str, Any]:
        """The input of a creation."""
        found = {
            "assetId": self.place.asset.id,
            "holderReference": "H",
            "currency": "USD",
            "amount": "100.00",
            **others,
        }
        return {name: value for name, value in found.items() if value is not ...}


class Now:
    """A clock that tests own; it starts at the present, which the database's own clock reads."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    def ahead(self, seconds: float) -> datetime:
        return self.moment + timedelta(seconds=seconds)


async def made_desk(services: Services, schema: Schema, owner: asyncpg.Connection) -> Desk:
    """A desk at a running server."""
    return Desk(services, schema, owner, await factories.place(services))


@pytest.fixture
async def desk(services: Services, built_schema: Schema, owner: asyncpg.Connection) -> Desk:
    """A desk of this test alone."""
    return await made_desk(services, built_schema, owner)


@pytest.fixture(scope="module")
async def shared(admin_url: str, template: str, built_schema: Schema) -> AsyncIterator[Desk]:
    """A desk for all tests of a module: each opens positions of its own and none counts those of others."""
    async with factories.served(admin_url, template) as (parts, owner):
        yield await made_desk(parts.services, built_schema, owner)


def check_money(position: Mapping[str, Any]) -> None:
    """The invariant, on a position as GraphQL tells it."""
    funded, released, refunded, held = (
        Decimal(position[name]) for name in ("funded", "released", "refunded", "held")
    )
    assert funded == released + refunded + held
    assert min(funded, released, refunded, held) >= 0
