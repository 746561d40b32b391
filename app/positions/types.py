"""The GraphQL types of positions and lifecycles."""

from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Annotated

import strawberry

from app.context import Info
from app.engine.connection import Connection, Node, OrderDirection, connection
from app.engine.direct import METADATA as DIRECT
from app.engine.enums import describe
from app.engine.loaded import METADATA as LOADED
from app.engine.loaded import Loaded
from app.engine.roles import Role
from app.errors import Problem
from app.kit.money import CURRENCIES, quantise
from app.ledger.graphql import (
    After,
    Before,
    Direction,
    First,
    Last,
    events_count_of_position,
    events_of_position,
)
from app.ledger.graphql import Where as EventWhere
from app.ledger.inputs import tests_of as event_tests
from app.ledger.model import Effect
from app.ledger.types import LedgerEvent
from app.ledger.wire import PositionEvents
from app.positions import lifecycle as engine
from app.positions.lifecycle import Circumstances, Intent, Portion
from app.positions.model import Position as PositionModel
from app.positions.model import State
from app.principal import Scope, lack_of
from app.storage.conditions import Condition

if TYPE_CHECKING:
    from app.assets.graphql import Asset
    from app.institutions.graphql import Institution

describe(
    Portion,
    "How much money a transition moves.",
    {
        Portion.NONE: "None.",
        Portion.WHOLE: "The whole amount of the position.",
        Portion.PART: "A given amount, less than what is held.",
        Portion.ALL: "All that is held.",
    },
    name="MoneyPortion",
)


@strawberry.type(description="A word of a lifecycle for where a position can be.")
class LifecycleStage:
    """A stage."""

    name: str = strawberry.field(description="The lifecycle's own word.")
    state: State = strawberry.field(description="What it means for the money.")
    final: bool = strawberry.field(description="Whether nothing can follow.")


@strawberry.type(description="An arrow of a lifecycle.")
class LifecycleTransition:
    """A transition."""

    from_stages: list[str] = strawberry.field(description="The stages it starts from.")
    to_stage: str = strawberry.field(description="The stage it leads to.")
    to_state: State = strawberry.field(description="The state it leads to.")
    money_effect: Effect = strawberry.field(description="What it does to money.")
    portion: Portion = strawberry.field(description="How much money it moves.")
    guards: list[str] = strawberry.field(description="The rules that are asked before it is taken.")
    roles: list[Role] = strawberry.field(
        description="The roles that may take it; empty when any that moves may."
    )


@strawberry.type(
    description="A versioned definition of how positions move. A position keeps the version it has."
)
class Lifecycle:
    """A lifecycle."""

    name: str = strawberry.field(description="Its name, such as escrow.")
    version: int = strawberry.field(description="Its version.")
    description: str = strawberry.field(description="What it is for.")
    initial_stage: str = strawberry.field(description="Where positions begin.")
    stages: list[LifecycleStage] = strawberry.field(description="Where a position can be.")
    transitions: list[LifecycleTransition] = strawberry.field(description="How it gets from one to another.")

    @classmethod
    def of(cls, model: engine.Lifecycle) -> "Lifecycle":
        """As GraphQL tells it."""
        return cls(
            name=model.name,
            version=model.version,
            description=model.description,
            initial_stage=model.initial,
            stages=[
                LifecycleStage(name=name, state=state, final=model.is_terminal(name))
                for name, state in model.stages.items()
            ],
            transitions=[
                LifecycleTransition(
                    from_stages=list(arrow.sources),
                    to_stage=arrow.target,
                    to_state=model.stages[arrow.target],
                    money_effect=arrow.effect,
                    portion=arrow.portion,
                    guards=list(arrow.guards),
                    roles=sorted(arrow.roles),
                )
                for arrow in model.transitions
            ],
        )


@strawberry.type(
    description="A transition that leads on from where the position is, and whether it may be taken now."
)
class AvailableTransition:
    """An offer."""

    to_state: State = strawberry.field(description="The state it leads to: give it to transitionPosition.")
    to_stage: str = strawberry.field(description="The lifecycle's own word for it.")
    money_effect: Effect = strawberry.field(description="What it does to money.")
    portion: Portion = strawberry.field(description="How much money it moves.")
    amount: Decimal | None = strawberry.field(
        description="The amount it would move; null where the asker says how much (less than what is held)."
    )
    allowed: bool = strawberry.field(description="Whether this key could take it now.")
    reason: str | None = strawberry.field(description="Why not; null when it is allowed.")


@strawberry.type(description="Money of one currency held for a holder on an asset, and what became of it.")
class Position(Node):
    """A position."""

    institution_id: strawberry.ID = strawberry.field(description="The institution's id.")
    asset_id: strawberry.ID = strawberry.field(description="The asset's id.")
    holder_reference: str | None = strawberry.field(
        description="The institution's own name for the holder; null once it has been erased."
    )
    external_reference: str | None = strawberry.field(
        description="The institution's own name for the position, unique within it; null when none was given."
    )
    currency: str = strawberry.field(description="The currency's code.")
    amount: Decimal = strawberry.field(description="What was agreed on.")
    funded: Decimal = strawberry.field(description="All that ever came in.")
    released: Decimal = strawberry.field(description="What went out to the beneficiary.")
    refunded: Decimal = strawberry.field(description="What went back to the funder.")
    held: Decimal = strawberry.field(description="What is held: funded - released - refunded.")
    state: State = strawberry.field(description="What became of the money.")
    stage: str = strawberry.field(description="The lifecycle's own word for where it is.")
    version: int = strawberry.field(description="Grows by one with every event; give it as expectedVersion.")
    lifecycle_name: str = strawberry.field(description="The lifecycle's name.")
    lifecycle_version: int = strawberry.field(description="The lifecycle's version it was born with.")
    expires_at: datetime | None = strawberry.field(
        description="The deadline after which it expires and what is held is refunded; null for none."
    )
    created_at: datetime = strawberry.field(description="When it was opened.")
    updated_at: datetime = strawberry.field(description="When it last moved.")
    closed_at: datetime | None = strawberry.field(description="When it became final; null while it is open.")
    model: strawberry.Private[PositionModel]
    # Of a position as it was: its history ends there, too.
    events_upto: strawberry.Private[int | None] = None

    @strawberry.field(
        description="The institution.",
        metadata={LOADED: Loaded("app.institutions.graphql:institution_by_id", "institution_id")},
    )
    async def institution(
        self, info: Info
    ) -> Annotated["Institution", strawberry.lazy("app.institutions.graphql")] | None:
        """Whose position."""
        from app.institutions.graphql import institution_by_id

        found: Institution | None = await info.context.load(institution_by_id, self.model.institution_id)
        return found

    @strawberry.field(
        description="The asset it is held on.",
        metadata={LOADED: Loaded("app.assets.graphql:asset_of", "asset_id")},
    )
    async def asset(self, info: Info) -> Annotated["Asset", strawberry.lazy("app.assets.graphql")] | None:
        """What it is held on."""
        from app.assets.graphql import asset_of

        found: Asset | None = await info.context.load(asset_of, self.model.asset_id)
        return found

    @strawberry.field(description="The lifecycle it moves through.")
    def lifecycle(self, info: Info) -> Lifecycle:
        """The pinned version."""
        return Lifecycle.of(info.context.services.lifecycles[self.lifecycle_name, self.lifecycle_version])

    @strawberry.field(
        description="Its history, oldest event first unless said otherwise; of a position as it was, up to then.",
        metadata={DIRECT: PositionEvents()},
    )
    async def events(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: EventWhere = None,
        direction: Direction = OrderDirection.ASC,
    ) -> Connection[LedgerEvent]:
        """One page of its events; all positions of a level are asked together."""
        context, own = info.context, self.model.id
        request, tests = context.page(first, after, last, before), event_tests(where)
        if self.events_upto is not None:
            tests = (*tests, Condition("position_version", "lte", self.events_upto))
        page = await context.load(events_of_position, own, request, tests, direction)
        count = partial(context.load, events_count_of_position, own, tests)
        return connection(page, partial(LedgerEvent.of, context=context), count)

    @strawberry.field(description="Where it can go from here, and whether this key could take it there now.")
    async def available_transitions(self, info: Info) -> list[AvailableTransition]:
        """Judged by the same engine that judges the transition itself."""
        from app.positions.graphql import policy_verdicts

        context = info.context
        verdicts: tuple[Problem, ...] = await context.load(policy_verdicts, self.model) or ()
        lifecycle = context.services.lifecycles[self.lifecycle_name, self.lifecycle_version]
        circumstances = Circumstances(context.services.clock(), context.principal.role, verdicts)
        # The door of the mutations, which comes before every rule.
        shut = None if context.principal.may(Scope.POSITIONS_MOVE) else lack_of(Scope.POSITIONS_MOVE)
        return [
            _offer(lifecycle, arrow, self.model, circumstances, shut)
            for arrow in lifecycle.leaving(self.model.stage)
        ]

    @classmethod
    def of(cls, model: PositionModel, *, past: bool = False) -> "Position":
        """As GraphQL tells it; with `past`, as it was then, without what came later."""
        balances = model.balances
        return cls(
            id=strawberry.ID(model.id),
            institution_id=strawberry.ID(model.institution_id),
            asset_id=strawberry.ID(model.asset_id),
            holder_reference=model.holder_reference,
            external_reference=model.external_reference,
            currency=model.currency,
            amount=model.amount,
            funded=balances.funded,
            released=balances.released,
            refunded=balances.refunded,
            held=balances.held,
            state=model.state,
            stage=model.stage,
            version=model.version,
            lifecycle_name=model.lifecycle_name,
            lifecycle_version=model.lifecycle_version,
            expires_at=model.expires_at,
            created_at=model.created_at,
            updated_at=model.updated_at,
            closed_at=model.closed_at,
            model=model,
            events_upto=model.version if past else None,
        )


def _offer(
    lifecycle: engine.Lifecycle,
    arrow: engine.Transition,
    model: PositionModel,
    circumstances: Circumstances,
    shut: str | None,
) -> AvailableTransition:
    denied = engine.denied(arrow, model, Intent(stage=arrow.target), circumstances)
    reason = shut if shut is not None or denied is None else denied.message
    amount = None if arrow.portion is Portion.PART else engine.portion(arrow, model, None)
    return AvailableTransition(
        to_state=lifecycle.stages[arrow.target],
        to_stage=arrow.target,
        money_effect=arrow.effect,
        portion=arrow.portion,
        amount=quantise(amount, CURRENCIES[model.currency].exponent) if isinstance(amount, Decimal) else None,
        allowed=reason is None,
        reason=reason,
    )
