"""What queries and subscriptions of the ledger take, and the words that filters of positions share."""

import strawberry

from app.engine.enums import describe
from app.engine.filters import IDFilter, TimeFilter, WordFilter, conditions
from app.engine.words import known
from app.kit.money import CURRENCIES
from app.ledger.model import Kind, State
from app.storage.conditions import Condition

describe(
    State,
    "What became of a position's money; the same six for every lifecycle.",
    {
        State.CREATED: "Agreed, nothing has come in yet.",
        State.FUNDED: "The whole amount came in and is held.",
        State.PARTIALLY_RELEASED: "Part of it went to the beneficiary, the rest is held.",
        State.RELEASED: "All that was held went to the beneficiary. Final.",
        State.CANCELLED: "Called off; what was held went back to the funder. Final.",
        State.EXPIRED: "Its deadline passed, or somebody let it expire before; what was held went back to the funder. "
        "Final.",
    },
    name="PositionState",
)


@strawberry.input(description="A test on what happened.")
class LedgerEventKindFilter:
    """Kinds."""

    eq: Kind | None = strawberry.field(default=None, description="Equal to this.")
    in_: list[Kind] | None = strawberry.field(default=None, name="in", description="One of these.")


@strawberry.input(description="A test on a state of positions.")
class PositionStateFilter:
    """States."""

    eq: State | None = strawberry.field(default=None, description="Equal to this.")
    in_: list[State] | None = strawberry.field(default=None, name="in", description="One of these.")


@strawberry.input(
    description="Which events; all tests must pass. An index serves `id`, `institutionId`, `positionId`, `currency`, "
    "`recordedAt`. The others look at every event that these leave, in the order of the ledger: in a long one, give a "
    "span of `recordedAt`."
)
class LedgerEventWhere:
    """Tests on events."""

    id: IDFilter | None = strawberry.field(default=None, description="The event's id.")
    institution_id: IDFilter | None = strawberry.field(default=None, description="The institution's id.")
    position_id: IDFilter | None = strawberry.field(default=None, description="The position's id.")
    kind: LedgerEventKindFilter | None = strawberry.field(default=None, description="What happened.")
    new_state: PositionStateFilter | None = strawberry.field(default=None, description="The state after.")
    currency: WordFilter | None = strawberry.field(default=None, description="The currency's code.")
    actor_id: IDFilter | None = strawberry.field(default=None, description="Who did it.")
    recorded_at: TimeFilter | None = strawberry.field(default=None, description="When it was recorded.")
    occurred_at: TimeFilter | None = strawberry.field(default=None, description="Business time.")


def known_currencies(tests: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """The tests as they came; refuses a currency that no amount can have."""
    return known(tests, "currency", CURRENCIES, "`currencies` lists those there are")


def tests_of(where: LedgerEventWhere | None) -> tuple[Condition, ...]:
    """The tests of a `where`."""
    return known_currencies(conditions(where))
