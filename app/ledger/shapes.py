"""The small GraphQL types that a ledger event is made of."""

from decimal import Decimal

import strawberry

from app.engine.enums import describe
from app.engine.roles import Role
from app.ledger.model import Balances, Effect, Kind
from app.ledger.model import Posting as PostingModel

describe(
    Kind,
    "What happened to a position.",
    {
        Kind.POSITION_CREATED: "The position was opened; no money has moved yet.",
        Kind.POSITION_STATE_CHANGED: "The position took a transition of its lifecycle.",
    },
    name="LedgerEventKind",
)
describe(
    Effect,
    "What a transition does to money.",
    {
        Effect.NONE: "No money moves.",
        Effect.FUND: "Money comes in and is held.",
        Effect.RELEASE: "Held money goes out to the beneficiary.",
        Effect.REFUND: "Held money goes back to the funder.",
    },
    name="MoneyEffect",
)


@strawberry.type(
    name="Balances", description="A position's money: funded = released + refunded + held, always."
)
class BalancesType:
    """The four amounts."""

    funded: Decimal = strawberry.field(description="All that ever came in.")
    released: Decimal = strawberry.field(description="What went out to the beneficiary.")
    refunded: Decimal = strawberry.field(description="What went back to the funder.")
    held: Decimal = strawberry.field(description="What is held now.")

    @classmethod
    def of(cls, model: Balances) -> "BalancesType":
        """As GraphQL tells it."""
        return cls(funded=model.funded, released=model.released, refunded=model.refunded, held=model.held)


@strawberry.type(description="A signed amount on one account; those of an event sum to zero.")
class Posting:
    """One leg."""

    account: str = strawberry.field(
        description="The account: held:<position id>, clearing:in, clearing:out:beneficiary or clearing:out:funder."
    )
    amount: Decimal = strawberry.field(description="What the account gained (negative: lost).")
    currency: str = strawberry.field(description="The currency's code.")

    @classmethod
    def of(cls, model: PostingModel) -> "Posting":
        """As GraphQL tells it."""
        return cls(account=str(model.account), amount=model.amount, currency=model.currency)


@strawberry.type(description="Who did it.")
class Actor:
    """Key and role."""

    id: strawberry.ID = strawberry.field(description="The key's id, `root`, or `clerk` for the expiry clerk.")
    role: Role = strawberry.field(description="The role of the key.")


@strawberry.type(description="What the ledger keeps of personal values: H(salt ‖ value), as lower-case hex.")
class Commitments:
    """Stays when the values are erased."""

    holder_reference: str | None = strawberry.field(description="Commitment to holderReference.")
    reason: str | None = strawberry.field(description="Commitment to reason.")
    metadata: str | None = strawberry.field(description="Commitment to metadata.")
