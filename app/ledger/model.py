"""What an event is: a fact about one position, with the money it moved, in its place in the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from app.kit import money
from app.kit.canonical import Json
from app.kit.money import ZERO


class Effect(StrEnum):
    """What a transition does to money."""

    NONE = "NONE"
    FUND = "FUND"
    RELEASE = "RELEASE"
    REFUND = "REFUND"


class State(StrEnum):
    """What became of the money; the same six for every lifecycle."""

    CREATED = "CREATED"
    FUNDED = "FUNDED"
    PARTIALLY_RELEASED = "PARTIALLY_RELEASED"
    RELEASED = "RELEASED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class Kind(StrEnum):
    """What happened."""

    POSITION_CREATED = "POSITION_CREATED"
    POSITION_STATE_CHANGED = "POSITION_STATE_CHANGED"


class Account(StrEnum):
    """The accounts of an institution that are not a position's own: the world outside."""

    CLEARING_IN = "clearing:in"
    CLEARING_OUT_BENEFICIARY = "clearing:out:beneficiary"
    CLEARING_OUT_FUNDER = "clearing:out:funder"


KIND_VERSION = 1
HASH_VERSION = 1


@dataclass(frozen=True, slots=True)
class Posting:
    """A signed amount on one account; those of an event sum to zero for each currency."""

    account: str
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Balances:
    """A position's money: funded = released + refunded + held, all at least zero."""

    funded: Decimal = ZERO
    released: Decimal = ZERO
    refunded: Decimal = ZERO
    held: Decimal = ZERO

    def moved(self, effect: Effect, amount: Decimal) -> "Balances":
        """The balances after `amount` had that effect."""
        match effect:
            case Effect.NONE:
                return self
            case Effect.FUND:
                return Balances(
                    money.add(self.funded, amount), self.released, self.refunded, money.add(self.held, amount)
                )
            case Effect.RELEASE:
                return Balances(
                    self.funded,
                    money.add(self.released, amount),
                    self.refunded,
                    money.add(self.held, money.negate(amount)),
                )
            case Effect.REFUND:
                return Balances(
                    self.funded,
                    self.released,
                    money.add(self.refunded, amount),
                    money.add(self.held, money.negate(amount)),
                )

    def hold(self) -> bool:
        """Whether the invariant holds."""
        parts = (self.funded, self.released, self.refunded, self.held)
        return all(part.is_finite() and part >= 0 for part in parts) and self.funded == money.add(*parts[1:])


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it and by which request."""

    id: str
    role: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Key:
    """A command's idempotency key: unique per asking institution (None: root), with what was asked."""

    institution_id: str | None
    value: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Personal:
    """What may be erased: the ledger itself keeps only commitments to it."""

    holder_reference: str | None = None
    reason: str | None = None
    metadata: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Salts:
    """The salts of an event's commitments, erased together with the values."""

    holder: bytes | None
    reason: bytes | None
    metadata: bytes | None


@dataclass(frozen=True, slots=True)
class Commitments:
    """H(salt ‖ value) of each personal value, None where there is none."""

    holder: bytes | None = None
    reason: bytes | None = None
    metadata: bytes | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """An event as it was decided, before it has its place in the ledger."""

    institution_id: str
    position_id: str
    position_version: int
    kind: Kind
    previous_state: str | None
    new_state: str
    previous_stage: str | None
    new_stage: str
    effect: Effect
    currency: str
    amount_moved: Decimal
    balances: Balances
    template_id: str
    policy_id: str | None
    lifecycle_name: str
    lifecycle_version: int
    data: Mapping[str, Json]
    evidence: Mapping[str, Json]
    occurred_at: datetime | None
    personal: Personal

    @property
    def postings(self) -> tuple[Posting, ...]:
        """The two legs of the money moved; none when nothing moved."""
        return postings(self.effect, self.position_id, self.amount_moved, self.currency)


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the ledger. `key`, `actor` and the hashes are part of it."""

    global_sequence: int
    sequence: int
    id: str
    institution_id: str
    position_id: str
    position_version: int
    kind: Kind
    kind_version: int
    previous_state: str | None
    new_state: str
    previous_stage: str | None
    new_stage: str
    effect: Effect
    currency: str
    amount_moved: Decimal
    postings: tuple[Posting, ...]
    balances: Balances
    data: Mapping[str, Json]
    evidence: Mapping[str, Json]
    actor: Actor
    key: Key
    template_id: str
    policy_id: str | None
    lifecycle_name: str
    lifecycle_version: int
    occurred_at: datetime
    recorded_at: datetime
    commitments: Commitments
    previous_hash: bytes
    hash: bytes
    hash_version: int

    @property
    def draft(self) -> Draft:
        """What was decided, without its place; personal values are not part of an event."""
        return Draft(
            **{name: getattr(self, name) for name in _SHARED},
            personal=Personal(),
        )


_SHARED = tuple(field.name for field in fields(Draft) if field.name != "personal")


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the ledger as its last writer left it."""

    log_id: str
    global_sequence: int
    recorded_at: datetime


def held_account(position_id: str) -> str:
    """The account of what is held for a position."""
    return f"held:{position_id}"


def postings(effect: Effect, position_id: str, amount: Decimal, currency: str) -> tuple[Posting, ...]:
    """The balanced legs of a move: what leaves one account arrives on the other."""
    outside = OUTSIDE.get(effect)
    if outside is None:
        return ()
    out = money.negate(amount)
    there, here = (out, amount) if effect is Effect.FUND else (amount, out)
    return (Posting(outside, there, currency), Posting(held_account(position_id), here, currency))


# Which account outside stands against a position's held account.
OUTSIDE = {
    Effect.FUND: Account.CLEARING_IN,
    Effect.RELEASE: Account.CLEARING_OUT_BENEFICIARY,
    Effect.REFUND: Account.CLEARING_OUT_FUNDER,
}
