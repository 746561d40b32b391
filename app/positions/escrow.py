"""The built-in lifecycle `escrow@1`: fund whole, release in parts or whole, or give back."""

from collections.abc import Mapping

from app.ledger.model import Effect
from app.positions.lifecycle import Lifecycle, Portion, Transition, registry
from app.positions.model import State

OPEN = ("FUNDED", "PARTIALLY_RELEASED")

ESCROW_1 = Lifecycle(
    name="escrow",
    version=1,
    description="Fund the whole amount, release it in parts or at once, or refund what is held.",
    initial="CREATED",
    stages={state.value: state for state in State},
    transitions=(
        Transition(("CREATED",), "FUNDED", Effect.FUND, Portion.WHOLE, ("before_deadline", "policy_allows")),
        Transition(("CREATED",), "CANCELLED", guards=("before_deadline",)),
        Transition(("CREATED",), "EXPIRED", guards=("due",)),
        Transition(OPEN, "PARTIALLY_RELEASED", Effect.RELEASE, Portion.PART, ("before_deadline",)),
        Transition(OPEN, "RELEASED", Effect.RELEASE, Portion.ALL, ("before_deadline",)),
        Transition(OPEN, "CANCELLED", Effect.REFUND, Portion.ALL, ("before_deadline",)),
        Transition(OPEN, "EXPIRED", Effect.REFUND, Portion.ALL, ("due",)),
    ),
)

BUILT_IN: Mapping[tuple[str, int], Lifecycle] = registry([ESCROW_1])
