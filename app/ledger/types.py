"""The ledger's GraphQL types."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import strawberry

from app.context import Context, Info
from app.engine.connection import Node
from app.engine.loaded import METADATA as LOADED
from app.engine.loaded import Loaded
from app.engine.roles import Role
from app.engine.scalars import JsonObject, Long
from app.ledger import service
from app.ledger.model import Effect, Event, Kind, Personal, State
from app.ledger.service import StatementLine as StatementLineModel
from app.ledger.shapes import Actor, BalancesType, Commitments, Posting

if TYPE_CHECKING:
    from app.anchoring.types import Anchor, AnchorProof, AnchorRecord
    from app.institutions.graphql import Institution
    from app.positions.types import Position


@strawberry.type(
    description="One entry of the append-only ledger: a fact about a position and the money it moved."
)
class LedgerEvent(Node):
    """One event."""

    sequence: Long = strawberry.field(
        description="Its number in the institution's ledger: 1, 2, 3 … without gaps."
    )
    global_sequence: Long | None = strawberry.field(
        description="Its number among all institutions, told to root only."
    )
    institution_id: strawberry.ID = strawberry.field(description="The institution's id.")
    position_id: strawberry.ID = strawberry.field(description="The position's id.")
    position_version: int = strawberry.field(
        description="The position's version after it: 1, 2, 3 … without gaps."
    )
    kind: Kind = strawberry.field(description="What happened.")
    kind_version: int = strawberry.field(description="The version of this kind's fields.")
    previous_state: State | None = strawberry.field(description="The state before; null at creation.")
    new_state: State = strawberry.field(description="The state after.")
    previous_stage: str | None = strawberry.field(
        description="The lifecycle's own word before; null at creation."
    )
    new_stage: str = strawberry.field(description="The lifecycle's own word after.")
    money_effect: Effect = strawberry.field(description="What it did to money.")
    amount_moved: Decimal = strawberry.field(description="How much money moved; 0 when none did.")
    currency: str = strawberry.field(description="The currency's code.")
    postings: list[Posting] = strawberry.field(
        description="The balanced legs of the move; empty when none moved."
    )
    balances_after: BalancesType = strawberry.field(description="The position's money after it.")
    actor: Actor = strawberry.field(description="Who did it.")
    request_id: str = strawberry.field(description="The request it came by.")
    idempotency_key: str = strawberry.field(
        description="The key the command carried, or the one made for it."
    )
    template_id: strawberry.ID = strawberry.field(description="The version of the asset's template.")
    policy_id: strawberry.ID | None = strawberry.field(
        description="The version of the policy that judged it; null where none did."
    )
    lifecycle_name: str = strawberry.field(description="The lifecycle's name.")
    lifecycle_version: int = strawberry.field(description="The lifecycle's version.")
    data: JsonObject = strawberry.field(
        description="What else this kind says; at creation the terms of the position."
    )
    evidence: JsonObject = strawberry.field(description="What the guards of the transition looked at.")
    occurred_at: datetime = strawberry.field(
        description="Business time: when it happened, as the client says."
    )
    recorded_at: datetime = strawberry.field(description="When the ledger recorded it; never runs backwards.")
    commitments: Commitments = strawberry.field(
        description="What stays of personal values when they are erased."
    )
    previous_hash: str = strawberry.field(
        description="The hash of the institution's event before, lower-case hex."
    )
    hash: str = strawberry.field(
        description="The hash that seals this event and all before it, lower-case hex."
    )
    hash_version: int = strawberry.field(description="The version of the bytes that are hashed.")

    @strawberry.field(
        description="Why, as the client said; null when nothing was said or it has been erased."
    )
    async def reason(self, info: Info) -> str | None:
        """Personal."""
        return (await _personal(info, self.id)).reason

    @strawberry.field(description="What the client attached; null when nothing was or it has been erased.")
    async def metadata(self, info: Info) -> JsonObject | None:
        """Personal."""
        found = (await _personal(info, self.id)).metadata
        return None if found is None else JsonObject(found)

    @strawberry.field(
        description="The position as it is now (`balancesAfter` and `newState` tell it as of then).",
        metadata={LOADED: Loaded("app.positions.graphql:position_by_id", "position_id")},
    )
    async def position(
        self, info: Info
    ) -> Annotated["Position", strawberry.lazy("app.positions.types")] | None:
        """The current row."""
        from app.positions.graphql import position_by_id

        found: Position | None = await info.context.load(position_by_id, str(self.position_id))
        return found

    @strawberry.field(
        description="The institution.",
        metadata={LOADED: Loaded("app.institutions.graphql:institution_by_id", "institution_id")},
    )
    async def institution(
        self, info: Info
    ) -> Annotated["Institution", strawberry.lazy("app.institutions.graphql")] | None:
        """Whose ledger."""
        from app.institutions.graphql import institution_by_id

        found: Institution | None = await info.context.load(institution_by_id, str(self.institution_id))
        return found

    @strawberry.field(
        description="The first anchored head that covers it, on its way or on the chain; null before there is one."
    )
    async def anchor(self, info: Info) -> Annotated["Anchor", strawberry.lazy("app.anchoring.types")] | None:
        """Where it is anchored."""
        from app.anchoring.types import anchor_of_event

        found: Anchor | None = await info.context.load(anchor_of_event, str(self.id))
        return found

    @strawberry.field(
        description="How it is recorded on a chain by itself; null when its template does not ask for that."
    )
    async def record(
        self, info: Info
    ) -> Annotated["AnchorRecord", strawberry.lazy("app.anchoring.types")] | None:
        """Where it is recorded."""
        from app.anchoring.types import record_of_event

        found: AnchorRecord | None = await info.context.load(record_of_event, str(self.id))
        return found

    @strawberry.field(
        description="What proves to anybody that it is in a head that the chain has taken; null before there is one.",
        metadata={"cost": 20},
    )
    async def proof(
        self, info: Info
    ) -> Annotated["AnchorProof", strawberry.lazy("app.anchoring.types")] | None:
        """Made when asked for."""
        from app.anchoring.types import proof_of_event

        found: AnchorProof | None = await info.context.load(proof_of_event, str(self.id))
        return found

    @classmethod
    def of(cls, event: Event, context: Context) -> "LedgerEvent":
        """As GraphQL tells it to this asker."""
        is_root = context.principal.role is Role.ROOT
        kept = event.commitments
        return cls(
            id=strawberry.ID(event.id),
            sequence=Long(event.sequence),
            global_sequence=Long(event.global_sequence) if is_root else None,
            institution_id=strawberry.ID(event.institution_id),
            position_id=strawberry.ID(event.position_id),
            position_version=event.position_version,
            kind=event.kind,
            kind_version=event.kind_version,
            previous_state=None if event.previous_state is None else State(event.previous_state),
            new_state=State(event.new_state),
            previous_stage=event.previous_stage,
            new_stage=event.new_stage,
            money_effect=event.effect,
            amount_moved=event.amount_moved,
            currency=event.currency,
            postings=[Posting.of(leg) for leg in event.postings],
            balances_after=BalancesType.of(event.balances),
            actor=Actor(id=strawberry.ID(event.actor.id), role=Role(event.actor.role)),
            request_id=event.actor.request_id,
            idempotency_key=event.key.value,
            template_id=strawberry.ID(event.template_id),
            policy_id=None if event.policy_id is None else strawberry.ID(event.policy_id),
            lifecycle_name=event.lifecycle_name,
            lifecycle_version=event.lifecycle_version,
            data=JsonObject(event.data),
            evidence=JsonObject(event.evidence),
            occurred_at=event.occurred_at,
            recorded_at=event.recorded_at,
            commitments=Commitments(
                holder_reference=_hex(kept.holder), reason=_hex(kept.reason), metadata=_hex(kept.metadata)
            ),
            previous_hash=event.previous_hash.hex(),
            hash=event.hash.hex(),
            hash_version=event.hash_version,
        )


@strawberry.type(description="The end of the ledger at this instant.")
class LedgerHead:
    """Where a subscription can go on."""

    cursor: str = strawberry.field(
        description="Give it as `after` to a subscription or list: what follows is neither missed nor repeated."
    )
    sequence: Long = strawberry.field(
        description="The number of the last event (of the institution; for root among all institutions)."
    )
    hash: str | None = strawberry.field(
        description="The hash of the institution's last event, lower-case hex; null for root."
    )

    @classmethod
    def of(cls, model: service.HeadState) -> "LedgerHead":
        """As GraphQL tells it."""
        return cls(cursor=model.cursor, sequence=Long(model.sequence), hash=_hex(model.hash))


@strawberry.type(description="One posting on an account, and the balance after it.")
class StatementLine:
    """A line."""

    event: LedgerEvent = strawberry.field(description="The event the posting belongs to.")
    amount: Decimal = strawberry.field(description="What the account gained (negative: lost).")
    balance_after: Decimal = strawberry.field(
        description="The account's balance after it, from the beginning."
    )

    @classmethod
    def of(cls, model: StatementLineModel, context: Context) -> "StatementLine":
        """As GraphQL tells it."""
        event = LedgerEvent.of(model.event, context)
        return cls(event=event, amount=model.amount, balance_after=model.balance_after)


async def personal_by_event(context: Context, event_ids: Sequence[str]) -> Mapping[str, Personal]:
    """Loads personal values."""
    async with context.reading() as connection:
        return await service.personal(connection, context.scope, event_ids, context.holders)


async def _personal(info: Info, event_id: str) -> Personal:
    found: Personal | None = await info.context.load(personal_by_event, str(event_id))
    return found or Personal()


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
