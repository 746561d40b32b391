"""The engine that reads lifecycles, as pure functions."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.errors import ErrorCode, Problem
from app.ledger.model import Balances, Effect
from app.positions import lifecycle as engine
from app.positions.escrow import BUILT_IN, ESCROW_1
from app.positions.lifecycle import Circumstances, Intent, Lifecycle, Portion, Step, Transition, registry
from app.positions.model import Position, State
from app.principal import Role

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OPERATOR = Circumstances(NOW, Role.OPERATOR)
FINAL = {State.RELEASED, State.CANCELLED, State.EXPIRED}


def position(stage: str = "FUNDED", *, held: str = "100.00", expires_at: datetime | None = None) -> Position:
    amount, part = Decimal("100.00"), Decimal(held)
    return Position(
        id="pos_1",
        institution_id="inst_1",
        asset_id="ast_1",
        holder_id=None,
        holder_reference=None,
        external_reference=None,
        currency="USD",
        amount=amount,
        balances=Balances(amount, amount - part, Decimal("0.00"), part),
        state=State.FUNDED,
        stage=stage,
        version=2,
        lifecycle_name="escrow",
        lifecycle_version=1,
        expires_at=expires_at,
        created_at=NOW,
        updated_at=NOW,
        closed_at=None,
    )


def decide(
    intent: Intent, *, of: Lifecycle = ESCROW_1, by: Circumstances = OPERATOR, **terms: Any
) -> Step | Problem:
    return engine.decide(of, position(**terms), intent, by)


def code(found: Step | Problem) -> ErrorCode:
    assert isinstance(found, Problem)
    return found.code


def test_escrow_is_the_table_of_the_design() -> None:
    arrows = {
        (source, arrow.target): (arrow.effect, arrow.portion)
        for arrow in ESCROW_1.transitions
        for source in arrow.sources
    }
    opened = {
        "PARTIALLY_RELEASED": (Effect.RELEASE, Portion.PART),
        "RELEASED": (Effect.RELEASE, Portion.ALL),
        "CANCELLED": (Effect.REFUND, Portion.ALL),
        "EXPIRED": (Effect.REFUND, Portion.ALL),
    }
    assert arrows == {
        ("CREATED", "FUNDED"): (Effect.FUND, Portion.WHOLE),
        ("CREATED", "CANCELLED"): (Effect.NONE, Portion.NONE),
        ("CREATED", "EXPIRED"): (Effect.NONE, Portion.NONE),
        **{("FUNDED", target): move for target, move in opened.items()},
        **{("PARTIALLY_RELEASED", target): move for target, move in opened.items()},
    }
    assert {stage for stage in ESCROW_1.stages if ESCROW_1.is_terminal(stage)} == FINAL
    assert all(stage == state for stage, state in ESCROW_1.stages.items()), (
        "in escrow@1 stage and state are one"
    )
    assert BUILT_IN["escrow", 1] is ESCROW_1


def test_no_policy_stands_before_a_release_a_refund_or_an_expiry() -> None:
    guarded = {arrow.target for arrow in ESCROW_1.transitions if "policy_allows" in arrow.guards}
    assert guarded == {"FUNDED"}
    denied = replace(OPERATOR, policy_problems=(Problem(ErrorCode.POLICY_REFUSED, "no", "amount"),))
    for intent in (Intent(effect=Effect.RELEASE), Intent(state=State.CANCELLED), Intent(state=State.EXPIRED)):
        assert isinstance(decide(intent, by=denied), Step)
    assert code(decide(Intent(effect=Effect.FUND), by=denied, stage="CREATED")) is ErrorCode.POLICY_REFUSED


@pytest.mark.parametrize("amount", ["0.001", "40.000", "100.000", "0.0000000000000000000001"])
@pytest.mark.parametrize(
    "intent", [Intent(effect=Effect.RELEASE), Intent(state=State.RELEASED), Intent(stage="CANCELLED")]
)
def test_an_amount_with_more_digits_than_its_currency_is_refused_wherever_it_is_given(
    intent: Intent, amount: str
) -> None:
    """Also where it equals what would be moved: such an amount is a mistake, and is not rounded in silence."""
    found = decide(replace(intent, amount=Decimal(amount)))
    assert isinstance(found, Problem)
    assert (found.code, found.field) == (ErrorCode.VALIDATION_FAILED, "amount")
    assert "USD has 2 fraction digits" in found.message


def test_an_amount_with_fewer_digits_is_taken() -> None:
    found = decide(Intent(effect=Effect.RELEASE, amount=Decimal(40)))
    assert isinstance(found, Step)
    assert str(found.amount) == "40.00"


@pytest.mark.parametrize("seconds", [-1, 0, 1])
def test_a_deadline_has_passed_from_its_very_instant_on(seconds: int) -> None:
    passed = seconds <= 0
    deadline = NOW + timedelta(seconds=seconds)
    for intent in (Intent(effect=Effect.RELEASE), Intent(state=State.CANCELLED)):
        found = decide(intent, expires_at=deadline)
        assert code(found) is ErrorCode.POSITION_EXPIRED if passed else isinstance(found, Step)
    by_timer = decide(Intent(state=State.EXPIRED, by_timer=True), expires_at=deadline)
    assert isinstance(by_timer, Step) == passed
    by_hand = decide(Intent(state=State.EXPIRED), expires_at=deadline)
    assert isinstance(by_hand, Step)
    assert by_hand.evidence == {"deadline": deadline.isoformat(), "deadlinePassed": passed}


def test_a_timer_expires_nothing_that_has_no_deadline() -> None:
    assert code(decide(Intent(state=State.EXPIRED, by_timer=True))) is ErrorCode.TRANSITION_NOT_ALLOWED
    by_hand = decide(Intent(state=State.EXPIRED))
    assert isinstance(by_hand, Step)
    assert by_hand.evidence == {"deadline": None, "deadlinePassed": False}


RENTAL = Lifecycle(
    name="rental",
    version=3,
    description="Two stages mean FUNDED, and only an admin may end it early.",
    initial="booked",
    stages={
        "booked": State.CREATED,
        "filled": State.FUNDED,
        "lent": State.FUNDED,
        "returned": State.RELEASED,
        "lost": State.CANCELLED,
    },
    transitions=(
        Transition(("booked",), "filled", Effect.FUND, Portion.WHOLE),
        Transition(("filled",), "lent"),
        Transition(("lent",), "filled"),
        Transition(("lent", "filled"), "returned", Effect.RELEASE, Portion.ALL),
        Transition(("lent", "filled"), "lost", Effect.REFUND, Portion.ALL, roles=frozenset({Role.ADMIN})),
    ),
)


def test_a_stage_is_the_lifecycles_own_word_and_may_share_its_state_with_others() -> None:
    lent = decide(Intent(stage="lent"), of=RENTAL, stage="filled")
    assert isinstance(lent, Step)
    assert (lent.transition.target, lent.amount) == ("lent", 0)
    back = decide(Intent(state=State.FUNDED), of=RENTAL, stage="lent")
    assert isinstance(back, Step)
    assert back.transition.target == "filled"
    assert isinstance(decide(Intent(stage="lent", state=State.FUNDED), of=RENTAL, stage="filled"), Step)
    contradiction = decide(Intent(stage="lent", state=State.RELEASED), of=RENTAL, stage="filled")
    assert code(contradiction) is ErrorCode.TRANSITION_NOT_ALLOWED


def test_a_state_that_several_moves_lead_to_asks_for_the_stage() -> None:
    doubled = replace(
        RENTAL, transitions=(*RENTAL.transitions, Transition(("lent",), "lent", Effect.RELEASE, Portion.PART))
    )
    found = decide(Intent(state=State.FUNDED), of=doubled, stage="lent")
    assert isinstance(found, Problem)
    assert "toStage: filled or lent" in found.message


def test_a_release_needs_no_amount_where_there_is_only_the_whole() -> None:
    found = decide(Intent(effect=Effect.RELEASE), of=RENTAL, stage="lent")
    assert isinstance(found, Step)
    assert found.amount == 100
    part = decide(Intent(effect=Effect.RELEASE, amount=Decimal("1.00")), of=RENTAL, stage="lent")
    assert code(part) is ErrorCode.VALIDATION_FAILED


def test_policies_are_asked_for_what_may_move_money_in_from_whatever_stage_and_for_nothing_else() -> None:
    judged = [Intent(effect=Effect.FUND), Intent(state=State.FUNDED), Intent(stage="FUNDED")]
    assert all(engine.is_judged(ESCROW_1, intent) for intent in judged)
    ends = [Intent(state=state) for state in (State.CANCELLED, State.EXPIRED, State.RELEASED)]
    others = [Intent(effect=Effect.RELEASE), Intent(stage="PARTIALLY_RELEASED"), *ends]
    assert not any(engine.is_judged(ESCROW_1, intent) for intent in others)
    assert engine.is_judged(RENTAL, Intent(state=State.FUNDED)), "where it may mean filling"
    assert not engine.is_judged(RENTAL, Intent(stage="lent"))


def test_a_transition_may_be_for_some_roles_only() -> None:
    intent = Intent(stage="lost")
    assert code(decide(intent, of=RENTAL, stage="lent")) is ErrorCode.ROLE_REFUSED
    assert isinstance(decide(intent, of=RENTAL, stage="lent", by=Circumstances(NOW, Role.ADMIN)), Step)


@pytest.mark.parametrize(
    "broken",
    [
        replace(RENTAL, initial="nowhere"),
        replace(RENTAL, transitions=(Transition(("booked",), "nowhere"),)),
        replace(RENTAL, transitions=(Transition(("nowhere",), "booked"),)),
        replace(RENTAL, transitions=(Transition(("booked",), "filled", guards=("unknown",)),)),
    ],
    ids=["initial", "target", "source", "guard"],
)
def test_a_lifecycle_that_is_not_whole_cannot_be_registered(broken: Lifecycle) -> None:
    with pytest.raises(AssertionError):
        registry([broken])


def test_a_version_of_a_lifecycle_is_registered_once() -> None:
    assert set(registry([RENTAL, replace(RENTAL, version=4), ESCROW_1])) == {
        ("rental", 3),
        ("rental", 4),
        ("escrow", 1),
    }
    with pytest.raises(AssertionError, match="once"):
        registry([RENTAL, replace(RENTAL, description="another")])
