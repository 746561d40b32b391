"""Gathers the schema from the slices."""

from typing import Annotated

import strawberry
from strawberry.schema.config import StrawberryConfig

from app.assets import graphql as assets
from app.audit import graphql as audit
from app.audit import live as audit_live
from app.context import Info, may
from app.engine.compiled import Compiled, Plans
from app.engine.connection import Node
from app.engine.limits import extensions
from app.engine.masking import Schema
from app.engine.names import Names
from app.engine.scalars import SCALARS
from app.institutions import graphql as institutions
from app.kit.ids import is_id
from app.ledger import graphql as ledger
from app.ledger.types import LedgerEvent
from app.policies import graphql as policies
from app.positions import graphql as positions
from app.positions import live, mutations
from app.positions.aggregates import Aggregates
from app.positions.types import Position
from app.principal import Scope
from app.settings import Settings
from app.webhooks import graphql as webhooks
from app.webhooks import mutations as webhook_mutations

# Which slice finds the node whose id begins so.
FINDERS = {
    "inst": institutions.node,
    "key": institutions.node,
    "tmpl": assets.node,
    "ast": assets.node,
    "pol": policies.node,
    "pos": positions.node,
    "evt": ledger.node,
    "whe": webhooks.node,
    "whd": webhooks.node,
}


@strawberry.type(description="Everything that can be read, as of one instant for each operation.")
class Query(
    positions.Query,
    Aggregates,
    ledger.Query,
    assets.Query,
    policies.Query,
    institutions.Query,
    webhooks.Query,
    audit.Query,
):
    """The slices' queries."""

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="Anything by its id; null when it is not there. Audit rows (aud_…) alone are not found so: "
        "`auditEvents` lists them.",
    )
    async def node(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The id.")]
    ) -> Node | None:
        """The prefix of an id names its type."""
        text = str(id)
        find = FINDERS.get(text.partition("_")[0])
        return await find(info.context, text) if find is not None and is_id(text) else None


@strawberry.type(description="Everything that can be changed. Each mutation is one transaction.")
class Mutation(
    mutations.Mutation, assets.Mutation, policies.Mutation, institutions.Mutation, webhook_mutations.Mutation
):
    """The slices' mutations."""


@strawberry.type(description="Everything that can be followed live, and resumed by cursor.")
class Subscription(ledger.Subscription, live.Subscription, audit_live.Subscription):
    """The slices' subscriptions."""


def build(settings: Settings, plans: Plans | None = None) -> Schema:
    """The schema with the limits of the settings; what is compiled is kept in `plans`."""
    plans = Plans() if plans is None else plans
    return Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[Position, LedgerEvent],
        extensions=[*extensions(settings), lambda: Compiled(plans)],
        config=StrawberryConfig(scalar_map=SCALARS, name_converter=Names()),
    )
