"""Mine and theirs: who asks belongs to one institution, and must learn nothing of the other."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from graphql import OverlappingFieldsCanBeMergedRule
from strawberry.extensions import SchemaExtension

from app import schema
from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.main import Parts
from app.principal import Principal
from app.settings import Settings

from . import worlds
from .worlds import World

WIDE = {
    "depth_max": 100,
    "tokens_max": 1_000_000,
    "aliases_max": 10_000,
    "nodes_max": 10**9,
    "cost_max": 10**9,
    "directives_max": 10_000,
    "rate_capacity": 0,
    "root_rate_capacity": 0,
    "sensitive_capacity": 0,
}


class Brief(SchemaExtension):
    """Leaves out the one rule that takes most of a sweep: its documents never name a field twice."""

    def on_operation(self) -> Iterator[None]:
        context = self.execution_context
        context.validation_rules = tuple(
            rule for rule in context.validation_rules if rule is not OverlappingFieldsCanBeMergedRule
        )
        yield


@pytest.fixture(scope="session")
def wide_schema() -> Schema:
    """The real schema, with limits that let documents of any size pass."""
    known = {name: value for name, value in WIDE.items() if name in Settings.model_fields}
    built = schema.build(Settings(**known))
    built.extensions = [Brief, *built.extensions]
    return built


@dataclass
class Pair:
    """The two institutions, and a server that serves both."""

    services: Services
    schema: Schema
    mine: World
    theirs: World
    # Ids that nobody has, one of each kind.
    nobody: dict[str, str]
    checked: set[str] = field(default_factory=set)

    async def ask(
        self, document: str, by: Principal, variables: Mapping[str, Any] | None = None
    ) -> tuple[Any, list[Any]]:
        """The data and the errors, as a client sees them."""
        context = Context(self.services, by, Request("req_of_the_sweep"))
        try:
            result = await self.schema.execute(document, variable_values=variables, context_value=context)
        finally:
            await context.close()
        return result.data, [error.formatted for error in result.errors or ()]

    def leaks(self, text: str) -> list[str]:
        """What of theirs is in a text; each text is looked at once."""
        if text in self.checked:
            return []
        self.checked.add(text)
        return [word for word in self.theirs.texts if word in text]


@pytest.fixture
async def pair(parts: Parts, owner: asyncpg.Connection, wide_schema: Schema) -> Pair:
    """Both filled; what runs beside requests stands still, so that answers can be compared."""
    mine = await worlds.build(parts.services, wide_schema, "Mine", "1234.56")
    theirs = await worlds.build(parts.services, wide_schema, "Their", "7654.32")

    async def delivered() -> bool:
        count = "SELECT count(DISTINCT institution_id) FROM webhook_deliveries WHERE event_id IS NOT NULL"
        return bool(await owner.fetchval(count) == 2)

    from tests.conftest import eventually

    await eventually(delivered, seconds=20)
    for follower in parts.followers:
        await follower.close()
    await parts.clerk.close()
    await worlds.anchor(owner, parts.services.ids.new("anc"))
    await worlds.learn(owner, mine, [theirs])
    await worlds.learn(owner, theirs, [mine])
    nobody = {prefix: parts.services.ids.new(prefix) for prefix in theirs.ids}
    return Pair(parts.services, wide_schema, mine, theirs, nobody)
