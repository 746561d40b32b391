"""The state machine engine: lifecycles are data, and this reads them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from app.errors import ErrorCode, Problem
from app.kit import money
from app.kit.canonical import Json
from app.kit.money import CURRENCIES, ZERO, BadAmount, spell
from app.ledger.model import Effect
from app.positions.model import Position, State
from app.principal import Role


class Portion(StrEnum):
    """How much money a transition moves."""

    NONE = "NONE"
    WHOLE = "WHOLE"
    PART = "PART"
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Transition:
    """One arrow of a lifecycle, from any of `sources` to `target` (stages)."""

    sources: tuple[str, ...]
    target: str
    effect: Effect = Effect.NONE
    portion: Portion = Portion.NONE
    guards: tuple[str, ...] = ()
    roles: frozenset[Role] = frozenset()


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """A versioned definition: stages with the state each means, and the arrows between them."""

    name: str
    version: int
    description: str
    initial: str
    stages: Mapping[str, State]
    transitions: tuple[Transition, ...]
    _leaving: Mapping[str, tuple[Transition, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        arrows = {
            stage: tuple(arrow for arrow in self.transitions if stage in arrow.sources)
            for stage in self.stages
        }
        object.__setattr__(self, "_leaving", arrows)

    def leaving(self, stage: str) -> tuple[Transition, ...]:
        """The arrows that start at `stage`."""
        return self._leaving.get(stage, ())

    def is_terminal(self, stage: str) -> bool:
        """Whether nothing can follow."""
        return not self.leaving(stage)


@dataclass(frozen=True, slots=True)
class Intent:
    """What somebody wants: a stage, a state, or an effect on money; the amount where one is given."""

    stage: str | None = None
    state: State | None = None
    effect: Effect | None = None
    amount: Decimal | None = None
    by_timer: bool = False
    # The input that says where to, for refusals to name; None where the mutation's own name says it.
    named_by: str | None = None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What guards may look at beside the position: the server's clock, who asks, what policies said."""

    now: datetime
    role: Role
    policy_problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    """A guard's no."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Allow:
    """A guard's yes, with what it looked at."""

    evidence: Mapping[str, Json] = field(default_factory=dict)


POLICY_GUARD = "policy_allows"

Guard = Callable[[Position, Intent, Circumstances], Allow | Deny]


@dataclass(frozen=True, slots=True)
class Step:
    """A transition that may be taken now, the amount it moves, and the evidence of its guards."""

    transition: Transition
    amount: Decimal
    evidence: Mapping[str, Json]


def decide(
    lifecycle: Lifecycle, position: Position, intent: Intent, circumstances: Circumstances
) -> Step | Problem:
    """Whether `intent` leads anywhere from here, and with how much money."""
    arrow = choose(lifecycle, position, intent)
    if isinstance(arrow, Problem):
        return arrow
    judged = judge(arrow, position, intent, circumstances)
    if isinstance(judged, Problem):
        return judged
    if intent.amount is not None:
        try:
            money.check_scale(intent.amount, CURRENCIES[position.currency])
        except BadAmount as error:
            return Problem(ErrorCode.VALIDATION_FAILED, str(error), "amount")
    amount = portion(arrow, position, intent.amount, intent.named_by)
    return amount if isinstance(amount, Problem) else Step(arrow, amount, judged)


def denied(
    arrow: Transition, position: Position, intent: Intent, circumstances: Circumstances
) -> Problem | None:
    """Why an arrow may not be taken, whatever the amount; None when it may."""
    judged = judge(arrow, position, intent, circumstances)
    return judged if isinstance(judged, Problem) else None


def judge(
    arrow: Transition, position: Position, intent: Intent, circumstances: Circumstances
) -> Mapping[str, Json] | Problem:
    """Ask the role and every guard: the evidence of their yes, or the first no."""
    if arrow.roles and circumstances.role not in arrow.roles:
        return Problem(
            ErrorCode.ROLE_REFUSED, f"a key of the role {circumstances.role} may not take this transition"
        )
    evidence: dict[str, Json] = {}
    for name in arrow.guards:
        verdict = GUARDS[name](position, intent, circumstances)
        if isinstance(verdict, Deny):
            return verdict.problem
        evidence.update(verdict.evidence)
    return evidence


def choose(lifecycle: Lifecycle, position: Position, intent: Intent) -> Transition | Problem:
    """The arrow that `intent` means from the position's stage."""
    arrows = [arrow for arrow in lifecycle.leaving(position.stage) if _meant(lifecycle, arrow, intent)]
    if intent.effect is Effect.RELEASE and len(arrows) > 1:
        # Releasing all that is held ends the position; releasing less does not.
        all_of_it = intent.amount is None or intent.amount == position.balances.held
        wanted = Portion.ALL if all_of_it else Portion.PART
        arrows = [arrow for arrow in arrows if arrow.portion is wanted]
    if len(arrows) == 1:
        return arrows[0]
    if len(arrows) > 1:
        stages = " or ".join(sorted(arrow.target for arrow in arrows))
        words = f"from {position.stage} more than one move fits: say which by toStage: {stages}"
        return Problem(ErrorCode.TRANSITION_NOT_ALLOWED, words, intent.named_by)
    offered = sorted({lifecycle.stages[arrow.target] for arrow in lifecycle.leaving(position.stage)})
    from_here = (
        f"from {position.stage} it can go to {', '.join(offered)}"
        if offered
        else f"{position.stage} is final"
    )
    return Problem(
        ErrorCode.TRANSITION_NOT_ALLOWED, f"this position cannot do that: {from_here}", intent.named_by
    )


def is_judged(lifecycle: Lifecycle, intent: Intent) -> bool:
    """Whether any arrow that `intent` may mean asks what policies say, or moves money in.

    From whatever stage, because commands before it in the same batch may move the position first.
    """
    return any(
        POLICY_GUARD in arrow.guards or arrow.effect is Effect.FUND
        for arrow in lifecycle.transitions
        if _meant(lifecycle, arrow, intent)
    )


def _meant(lifecycle: Lifecycle, arrow: Transition, intent: Intent) -> bool:
    if intent.stage is None and intent.state is None:
        return arrow.effect is intent.effect
    # Whoever names both wants both: none of them is passed over in silence.
    return intent.stage in (None, arrow.target) and intent.state in (None, lifecycle.stages[arrow.target])


def portion(
    arrow: Transition, position: Position, amount: Decimal | None, named_by: str | None = None
) -> Decimal | Problem:
    """The money an arrow moves; refuses an amount that does not fit it."""
    whole = {Portion.NONE: ZERO, Portion.WHOLE: position.amount, Portion.ALL: position.balances.held}
    if arrow.portion is Portion.PART:
        return _part(position, amount, named_by)
    due = whole[arrow.portion]
    if amount is None or amount == due:
        return due
    currency = CURRENCIES[position.currency]
    return Problem(
        ErrorCode.VALIDATION_FAILED if arrow.portion is not Portion.ALL else _above(amount, due),
        f"this transition moves {spell(due, currency.exponent)} {currency.code}; leave the amount out or give that",
        "amount",
    )


def _above(amount: Decimal, due: Decimal) -> ErrorCode:
    return ErrorCode.INSUFFICIENT_HELD if amount > due else ErrorCode.VALIDATION_FAILED


def _part(position: Position, amount: Decimal | None, named_by: str | None) -> Decimal | Problem:
    currency, held = CURRENCIES[position.currency], position.balances.held
    if amount is None:
        return Problem(ErrorCode.VALIDATION_FAILED, "say how much to release: give an amount", "amount")
    try:
        exact = money.check_amount(amount, currency)
    except BadAmount as error:
        return Problem(ErrorCode.VALIDATION_FAILED, str(error), "amount")
    held_text = f"{spell(held, currency.exponent)} {currency.code}"
    if exact > held:
        return Problem(ErrorCode.INSUFFICIENT_HELD, f"only {held_text} is held", "amount")
    if exact == held:
        return Problem(
            ErrorCode.TRANSITION_NOT_ALLOWED,
            f"{held_text} is all that is held: to release all of it, transition to RELEASED or use releasePosition",
            named_by,
        )
    return exact


def _before_deadline(position: Position, _intent: Intent, circumstances: Circumstances) -> Allow | Deny:
    if position.expires_at is not None and position.expires_at <= circumstances.now:
        return Deny(
            Problem(
                ErrorCode.POSITION_EXPIRED,
                f"its deadline passed at {_told(position.expires_at)}; it expires and what is held is refunded",
            )
        )
    return Allow()


def _told(moment: datetime) -> str:
    """As the API spells times."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _due(position: Position, intent: Intent, circumstances: Circumstances) -> Allow | Deny:
    deadline = position.expires_at
    passed = deadline is not None and deadline <= circumstances.now
    if intent.by_timer and not passed:
        return Deny(Problem(ErrorCode.TRANSITION_NOT_ALLOWED, "its deadline has not passed yet"))
    return Allow({"deadline": deadline.isoformat() if deadline else None, "deadlinePassed": passed})


def _policy_allows(_position: Position, _intent: Intent, circumstances: Circumstances) -> Allow | Deny:
    if circumstances.policy_problems:
        return Deny(circumstances.policy_problems[0])
    return Allow()


GUARDS: Mapping[str, Guard] = {
    "before_deadline": _before_deadline,
    "due": _due,
    POLICY_GUARD: _policy_allows,
}


def registry(lifecycles: Iterable[Lifecycle]) -> Mapping[tuple[str, int], Lifecycle]:
    """Lifecycles by name and version; each is checked to be whole."""
    found: dict[tuple[str, int], Lifecycle] = {}
    for lifecycle in lifecycles:
        key = (lifecycle.name, lifecycle.version)
        assert key not in found, "a lifecycle's name and version are given once"
        assert lifecycle.initial in lifecycle.stages, "a lifecycle begins at one of its stages"
        for arrow in lifecycle.transitions:
            assert {*arrow.sources, arrow.target} <= set(lifecycle.stages), (
                "arrows join stages of the lifecycle"
            )
            assert set(arrow.guards) <= set(GUARDS), "guards are registered"
        found[key] = lifecycle
    return found
