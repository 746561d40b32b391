"""The inputs of position queries and mutations."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import cast

import strawberry

from app.engine.connection import OrderDirection
from app.engine.enums import describe
from app.engine.filters import (
    DecimalFilter,
    IDFilter,
    SealedFilter,
    TextFilter,
    TimeFilter,
    WordFilter,
    conditions,
)
from app.engine.scalars import JsonObject, Long
from app.errors import BadRequest
from app.kit.canonical import Json
from app.ledger.inputs import PositionStateFilter, known_currencies
from app.positions.lifecycle import Intent
from app.positions.model import State
from app.positions.service import Metadata, Move, Opening
from app.storage.conditions import Condition


class PositionOrderField(StrEnum):
    """What positions can be ordered by."""

    CREATED = "CREATED"
    AMOUNT = "AMOUNT"
    EXPIRES = "EXPIRES"


class SummaryGroup(StrEnum):
    """What positions can be summed up by."""

    STATE = "STATE"
    STAGE = "STAGE"
    ASSET = "ASSET"
    HOLDER = "HOLDER"
    INSTITUTION = "INSTITUTION"
    CREATED_DAY = "CREATED_DAY"
    CREATED_MONTH = "CREATED_MONTH"


describe(
    PositionOrderField,
    "What positions are ordered by; equal ones by their id.",
    {
        PositionOrderField.CREATED: "When they were opened.",
        PositionOrderField.AMOUNT: "The agreed amount, whatever the currency. As root only within one institution "
        "(`where`).",
        PositionOrderField.EXPIRES: "Their deadline; those without one come after all deadlines: last with ASC, first "
        "with DESC. As root only within one institution (`where`).",
    },
)
describe(
    SummaryGroup,
    "What positions are summed up by, always within each currency.",
    {
        SummaryGroup.STATE: "By state.",
        SummaryGroup.STAGE: "By the lifecycle's own stage.",
        SummaryGroup.ASSET: "By asset.",
        SummaryGroup.HOLDER: "By holderReference.",
        SummaryGroup.INSTITUTION: "By institution.",
        SummaryGroup.CREATED_DAY: "By the day they were opened, in the given time zone.",
        SummaryGroup.CREATED_MONTH: "By the month they were opened, in the given time zone.",
    },
)


@strawberry.input(description="Which positions. All tests must pass.")
class PositionWhere:
    """Tests on positions."""

    id: IDFilter | None = strawberry.field(default=None, description="The position's id.")
    institution_id: IDFilter | None = strawberry.field(default=None, description="The institution's id.")
    asset_id: IDFilter | None = strawberry.field(default=None, description="The asset's id.")
    holder_reference: SealedFilter | None = strawberry.field(default=None, description="The holder.")
    external_reference: TextFilter | None = strawberry.field(
        default=None, description="The external reference."
    )
    currency: WordFilter | None = strawberry.field(default=None, description="The currency's code.")
    amount: DecimalFilter | None = strawberry.field(default=None, description="The agreed amount.")
    state: PositionStateFilter | None = strawberry.field(
        default=None,
        description="The state. It changes with every move, so no index names it: open or closed positions are "
        "looked at in the list's order until the page is full.",
    )
    stage: WordFilter | None = strawberry.field(
        default=None, description="The lifecycle's own stage; looked for like the state."
    )
    created_at: TimeFilter | None = strawberry.field(default=None, description="When it was opened.")
    expires_at: TimeFilter | None = strawberry.field(default=None, description="Its deadline.")


@strawberry.input(description="A holder to erase.")
class EraseHolderInput:
    """Named as their positions name them."""

    holder_reference: str = strawberry.field(
        description="Your own name for the holder, exactly. It is written nowhere."
    )
    institution_id: strawberry.ID | None = strawberry.field(
        default=None, description="Whose holder; needed as root, else the asker's own institution."
    )


@strawberry.input(
    one_of=True, description="A point in the past of the ledger: give exactly one of the two.", name="AsOf"
)
class AsOfInput:
    """By number or by time."""

    sequence: Long | None = strawberry.field(
        default=strawberry.UNSET,
        description="As the ledger stood behind this sequence (of the institution; for root the global one).",
    )
    time: datetime | None = strawberry.field(
        default=strawberry.UNSET, description="As the ledger stood at this instant, by recordedAt."
    )


@strawberry.input(description="The order of a list of positions.")
class PositionOrder:
    """Field and direction."""

    field: PositionOrderField = strawberry.field(description="What to order by.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.DESC, description="Which end comes first."
    )


_KEY = (
    "A name for this command, at most 255 characters: the same command sent again with it acts once and gets the "
    "same answer. Without one the Idempotency-Key header serves, where the document has one mutation (it names a whole "
    "list: the first item accepted has it, the others with their place added; another list, or a single command, "
    "with it is refused). To give both, and not the same, is refused."
)
_OCCURRED = (
    "Business time, when it is not now; at most microseconds. Not in the future, but for five minutes in which "
    "clocks may differ."
)
_REASON = "Why, in words; at most 1,000 characters. Personal data: it can be erased."
_METADATA = "What else belongs to it; at most 64 KB, ten deep. Personal data: it can be erased."
_VERSION = "Refuse (VERSION_CONFLICT) unless the position is at this version."


@strawberry.input(description="A position to open.")
class CreatePositionInput:
    """Terms of a position."""

    asset_id: strawberry.ID = strawberry.field(description="The asset it is held on.")
    holder_reference: str = strawberry.field(
        description="Your own name for the holder, 1 to 255 characters. Personal data: it can be erased."
    )
    currency: str = strawberry.field(
        description="The currency's code, such as USD; the template names which."
    )
    amount: Decimal = strawberry.field(description="What is agreed on, greater than zero.")
    external_reference: str | None = strawberry.field(
        default=None, description="Your own name for the position, unique within the institution."
    )
    expires_at: datetime | None = strawberry.field(
        default=None,
        description="The deadline after which it expires by itself and what is held is refunded.",
    )
    occurred_at: datetime | None = strawberry.field(default=None, description=_OCCURRED)
    reason: str | None = strawberry.field(default=None, description=_REASON)
    metadata: JsonObject | None = strawberry.field(default=None, description=_METADATA)
    idempotency_key: str | None = strawberry.field(default=None, description=_KEY)

    def opening(self, header_key: str | None) -> Opening:
        """As the service takes it."""
        return Opening(
            asset_id=str(self.asset_id),
            holder_reference=self.holder_reference,
            currency=self.currency,
            amount=self.amount,
            external_reference=self.external_reference,
            expires_at=self.expires_at,
            occurred_at=self.occurred_at,
            reason=self.reason,
            metadata=_metadata(self.metadata),
            idempotency_key=_one_key(self.idempotency_key, header_key),
        )


@strawberry.input(description="Positions to open, each for itself: one refused takes no other down.")
class CreatePositionsInput:
    """A list of terms."""

    items: list[CreatePositionInput] = strawberry.field(description="The positions, at most 100.")


@strawberry.input(description="A position to move, where the kind of move is the mutation's name.")
class MovePositionInput:
    """Which position, and why."""

    id: strawberry.ID = strawberry.field(description="The position.")
    expected_version: int | None = strawberry.field(default=None, description=_VERSION)
    reason: str | None = strawberry.field(default=None, description=_REASON)
    metadata: JsonObject | None = strawberry.field(default=None, description=_METADATA)
    occurred_at: datetime | None = strawberry.field(default=None, description=_OCCURRED)
    idempotency_key: str | None = strawberry.field(default=None, description=_KEY)

    def move(self, operation: str, intent: Intent, header_key: str | None) -> Move:
        """As the service takes it."""
        return Move(
            operation=operation,
            position_id=str(self.id),
            intent=intent,
            reason=self.reason,
            metadata=_metadata(self.metadata),
            expected_version=self.expected_version,
            occurred_at=self.occurred_at,
            idempotency_key=_one_key(self.idempotency_key, header_key),
        )


@strawberry.input(description="What to release.")
class ReleasePositionInput(MovePositionInput):
    """A part or all of it."""

    amount: Decimal | None = strawberry.field(
        default=None,
        description="How much; all that is held when absent. All of it makes the position RELEASED.",
    )


@strawberry.input(description="A transition to take.")
class TransitionPositionInput(MovePositionInput):
    """Where to, and with how much."""

    to_state: State | None = strawberry.field(
        default=None, description="The state to go to; give this or `toStage`."
    )
    to_stage: str | None = strawberry.field(
        default=None, description="The lifecycle's own stage to go to, where several mean one state."
    )
    amount: Decimal | None = strawberry.field(
        default=None,
        description="How much, for PARTIALLY_RELEASED; elsewhere absent or the one amount that fits.",
    )

    def intent(self) -> Intent:
        """As the lifecycle engine takes it."""
        named_by = "toState" if self.to_stage is None else "toStage"
        return Intent(stage=self.to_stage, state=self.to_state, amount=self.amount, named_by=named_by)


@strawberry.input(description="Transitions to take.")
class TransitionPositionsInput:
    """A list of transitions."""

    items: list[TransitionPositionInput] = strawberry.field(description="The transitions, at most 100.")
    atomic: bool = strawberry.field(
        default=False, description="True: all of them or none. False: each for itself."
    )


def _one_key(given: str | None, header_key: str | None) -> str | None:
    if given is not None and header_key is not None and given != header_key:
        raise BadRequest(
            "idempotencyKey and the Idempotency-Key header name different keys; give one of the two"
        )
    return header_key if given is None else given


def _metadata(value: JsonObject | None) -> Metadata:
    return None if value is None else cast("dict[str, Json]", value)


def tests_of(where: PositionWhere | None) -> tuple[Condition, ...]:
    """The tests of a `where`."""
    return known_currencies(conditions(where))
