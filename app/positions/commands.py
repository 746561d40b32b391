"""The commands that make and move positions: what they lock, what they need to know, how they decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from app.assets.model import AssetTemplate, judge_position
from app.errors import ErrorCode, Problem
from app.kit.money import CURRENCIES, ZERO, quantise, spell
from app.ledger.model import Actor, Balances, Draft, Effect, Key, Kind, Personal
from app.ledger.writer import Accepted, Command, Decision, Listed, View
from app.ledger.writer.contract import Fact
from app.personal.sealing import Envelope
from app.policies import model as policies
from app.positions import lifecycle as engine
from app.positions.lifecycle import Circumstances, Intent, Lifecycle
from app.positions.model import Held, Position, State
from app.principal import Role

ERASED = "the holder was erased: nothing personal can be kept any more; leave out reason and metadata"


def policy_fact(institution_id: str, region: str) -> Fact:
    """The policy that is current for an institution in a region."""
    return ("policy", institution_id, region)


def reference_fact(institution_id: str, external_reference: str) -> Fact:
    """The position that carries an external reference."""
    return ("reference", institution_id, external_reference)


@dataclass(frozen=True, slots=True)
class CreatePosition(Command):
    """Open a position on an asset."""

    actor: Actor
    key: Key
    personal: Personal
    institution_id: str
    position_id: str
    asset_id: str
    template: AssetTemplate
    lifecycle: Lifecycle
    external_reference: str | None
    currency: str
    amount: Decimal
    expires_at: datetime | None
    occurred_at: datetime | None
    listed: Listed | None = None

    def names(self) -> Sequence[str]:
        """The keys and the external reference, which have no rows to lock yet."""
        keys = [self.key.value, *([] if self.listed is None else [self.listed.key])]
        names = [f"key:{self.key.institution_id}:{key}" for key in keys]
        if self.external_reference is not None:
            names.append(f"reference:{self.institution_id}:{self.external_reference}")
        return names

    def rows(self) -> Sequence[str]:
        """None: the row is made."""
        return ()

    def facts(self, view: View) -> Sequence[Fact]:
        """The current policy, and who carries the external reference."""
        facts = [policy_fact(self.institution_id, self.template.region)]
        if self.external_reference is not None:
            facts.append(reference_fact(self.institution_id, self.external_reference))
        return facts

    def decide(self, view: View) -> Decision:
        """Refused when the reference is taken, or the template or the policy says no."""
        if self.external_reference is not None:
            reference = reference_fact(self.institution_id, self.external_reference)
            if view.facts.get(reference) is not None:
                return Problem(
                    ErrorCode.DUPLICATE_REFERENCE,
                    "another position carries this reference",
                    "externalReference",
                )
        policy = view.facts.get(policy_fact(self.institution_id, self.template.region))
        problems = [
            *judge_position(
                self.template,
                amount=self.amount,
                currency=self.currency,
                expires_at=self.expires_at,
                now=view.now,
            ),
            *policies.judge(policy, amount=self.amount, currency=self.currency),
        ]
        if problems:
            return problems[0]
        if self.expires_at is not None and self.expires_at <= view.now:
            return Problem(ErrorCode.VALIDATION_FAILED, "the deadline has passed already", "expiresAt")
        learned = {} if self.external_reference is None else {reference: self.position_id}
        held = Held(self._position(view.now), self.template.id, self.template.region)
        return Accepted(held, self.position_id, self._draft(policy.id if policy else None), learned)

    def _position(self, now: datetime) -> Position:
        return Position(
            id=self.position_id,
            institution_id=self.institution_id,
            asset_id=self.asset_id,
            holder_id=None,
            holder_reference=self.personal.holder_reference,
            external_reference=self.external_reference,
            currency=self.currency,
            amount=self.amount,
            balances=self._nothing(),
            state=State.CREATED,
            stage=self.lifecycle.initial,
            version=1,
            lifecycle_name=self.lifecycle.name,
            lifecycle_version=self.lifecycle.version,
            expires_at=self.expires_at,
            created_at=now,
            updated_at=now,
            closed_at=None,
        )

    def _nothing(self) -> Balances:
        zero = quantise(ZERO, CURRENCIES[self.currency].exponent)
        return Balances(zero, zero, zero, zero)

    def _draft(self, policy_id: str | None) -> Draft:
        return Draft(
            institution_id=self.institution_id,
            position_id=self.position_id,
            position_version=1,
            kind=Kind.POSITION_CREATED,
            previous_state=None,
            new_state=State.CREATED,
            previous_stage=None,
            new_stage=self.lifecycle.initial,
            effect=Effect.NONE,
            currency=self.currency,
            amount_moved=self._nothing().held,
            balances=self._nothing(),
            template_id=self.template.id,
            policy_id=policy_id,
            lifecycle_name=self.lifecycle.name,
            lifecycle_version=self.lifecycle.version,
            data={
                "amount": spell(self.amount, CURRENCIES[self.currency].exponent),
                "assetId": self.asset_id,
                "expiresAt": self.expires_at.isoformat() if self.expires_at else None,
                "externalReference": self.external_reference,
            },
            evidence={},
            occurred_at=self.occurred_at,
            personal=self.personal,
        )


@dataclass(frozen=True, slots=True)
class MovePosition(Command):
    """Move a position along one arrow of its lifecycle."""

    actor: Actor
    key: Key
    personal: Personal
    institution_id: str
    position_id: str
    intent: Intent
    role: Role
    lifecycles: Mapping[tuple[str, int], Lifecycle]
    expected_version: int | None = None
    occurred_at: datetime | None = None
    listed: Listed | None = None

    def names(self) -> Sequence[str]:
        """None: the position's row is lock enough."""
        return ()

    def rows(self) -> Sequence[str]:
        """The position."""
        return (self.position_id,)

    def facts(self, view: View) -> Sequence[Fact]:
        """The current policy, where a move may be taken that policies judge."""
        held: Held | None = view.rows.get(self.position_id)
        if held is None:
            return []
        position = held.position
        lifecycle = self.lifecycles[position.lifecycle_name, position.lifecycle_version]
        judged = engine.is_judged(lifecycle, self.intent)
        return [policy_fact(self.institution_id, held.region)] if judged else []

    def decide(self, view: View) -> Decision:
        """Refused when the position is not there, not as expected, or its lifecycle or a guard says no."""
        held: Held | None = view.rows.get(self.position_id)
        if held is None or held.position.institution_id != self.institution_id:
            return Problem(ErrorCode.NOT_FOUND, "there is no such position", "id")
        position = held.position
        if self.expected_version is not None and self.expected_version != position.version:
            return Problem(
                ErrorCode.VERSION_CONFLICT,
                f"the position is at version {position.version}, not {self.expected_version}: read it again",
                "expectedVersion",
            )
        if self.personal != Personal() and held.holder is None:
            return Problem(
                ErrorCode.VALIDATION_FAILED, ERASED, "reason" if self.personal.reason else "metadata"
            )
        lifecycle = self.lifecycles[position.lifecycle_name, position.lifecycle_version]
        policy = view.facts.get(policy_fact(self.institution_id, held.region))
        verdicts = policies.judge(policy, amount=position.amount, currency=position.currency)
        step = engine.decide(lifecycle, position, self.intent, Circumstances(view.now, self.role, verdicts))
        if isinstance(step, Problem):
            return step
        balances = position.balances.moved(step.transition.effect, step.amount)
        draft = self._draft(held, step, lifecycle, balances, policy)
        after = replace(
            position,
            balances=balances,
            state=State(draft.new_state),
            stage=draft.new_stage,
            version=draft.position_version,
        )
        return Accepted(Held(after, held.template_id, held.region, held.holder), self.position_id, draft)

    def _draft(
        self,
        held: Held,
        step: engine.Step,
        lifecycle: Lifecycle,
        balances: Balances,
        policy: policies.Policy | None,
    ) -> Draft:
        position = held.position
        judged = step.transition.effect is Effect.FUND and policy is not None
        return Draft(
            institution_id=self.institution_id,
            position_id=position.id,
            position_version=position.version + 1,
            kind=Kind.POSITION_STATE_CHANGED,
            previous_state=position.state,
            new_state=lifecycle.stages[step.transition.target],
            previous_stage=position.stage,
            new_stage=step.transition.target,
            effect=step.transition.effect,
            currency=position.currency,
            amount_moved=quantise(step.amount, CURRENCIES[position.currency].exponent),
            balances=balances,
            template_id=held.template_id,
            policy_id=policy.id if judged and policy is not None else None,
            lifecycle_name=lifecycle.name,
            lifecycle_version=lifecycle.version,
            data={},
            evidence=step.evidence,
            occurred_at=self.occurred_at,
            personal=self.personal,
            holder=held.holder if isinstance(held.holder, Envelope) else None,
        )
