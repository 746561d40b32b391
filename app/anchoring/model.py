"""What is submitted to the chain, in which state it is, and what to do next: decided from what the chain shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256

NO_ROOT = bytes(32)
LOG_TAG = b"escrowgrid.log.1"
REVERTS_MAX = 3
# What a replacement pays more, at least; nodes demand a tenth.
BUMP = Decimal("1.25")
# The base fee may grow so much while a transaction waits.
HEADROOM = 2
RECORDS_MAX = 64

STATES_ON_CHAIN = {
    None: 0,
    "CREATED": 1,
    "FUNDED": 2,
    "PARTIALLY_RELEASED": 3,
    "RELEASED": 4,
    "CANCELLED": 5,
    "EXPIRED": 6,
}
KINDS_ON_CHAIN = {"POSITION_CREATED": 1, "POSITION_STATE_CHANGED": 2}


class Mode(StrEnum):
    """Which call of the contract."""

    ANCHOR = "ANCHOR"
    RECORD = "RECORD"
    BEGIN = "BEGIN"


class State(StrEnum):
    """How far it has come."""

    PENDING = "PENDING"
    SIGNED = "SIGNED"
    BROADCAST = "BROADCAST"
    MINED = "MINED"
    FINAL = "FINAL"
    REORGED = "REORGED"
    FAILED = "FAILED"
    SUPERSEDED = "SUPERSEDED"


# A transaction of it may be on its way.
UNDER_WAY = frozenset({State.SIGNED, State.BROADCAST, State.REORGED})
ON_CHAIN = frozenset({State.MINED, State.FINAL})
CLOSED = frozenset({State.FINAL, State.SUPERSEDED})


@dataclass(frozen=True, slots=True)
class Target:
    """A contract on a chain, and the account that submits to it."""

    chain_id: int
    contract: str
    account: str


@dataclass(frozen=True, slots=True)
class Head:
    """What the contract holds of a log."""

    size: int = 0
    root: bytes = NO_ROOT
    recorded: int = 0
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Anchor:
    """One call of the contract: of a head of the ledger, of recorded events, or of a log's beginning."""

    id: str
    number: int
    mode: Mode
    state: State
    chain_id: int
    contract: str
    log_id: bytes
    epoch: int
    previous_size: int | None
    previous_root: bytes | None
    size: int | None
    root: bytes | None
    first: int | None
    count: int | None
    follows: bytes | None
    since: int | None
    tx_hash: bytes | None
    block_number: int | None
    block_hash: bytes | None
    gas_used: int | None
    reverts: int
    reorgs: int
    failure: str | None
    created_at: datetime
    changed_at: datetime
    final_at: datetime | None
    # As far as the newest block that was looked at tells; None where nothing is known.
    confirmations: int | None = None

    def is_in(self, head: Head) -> bool:
        """Whether the contract, which holds that of its log, has taken this or something after it."""
        match self.mode:
            case Mode.ANCHOR:
                assert self.size is not None, "a head has a size"
                return head.size >= self.size
            case Mode.RECORD:
                assert self.first is not None, "records are numbered"
                assert self.count is not None, "records are counted"
                return head.recorded >= self.first + self.count - 1
            case Mode.BEGIN:
                return head.begun

    def is_next(self, head: Head) -> bool:
        """Whether the contract, as it is, would take exactly this."""
        match self.mode:
            case Mode.ANCHOR:
                return (head.size, head.root) == (self.previous_size, self.previous_root)
            case Mode.RECORD:
                return head.recorded + 1 == self.first
            case Mode.BEGIN:
                return head.size == 0 and not head.begun


@dataclass(frozen=True, slots=True)
class Transaction:
    """One signed try. `raw` is what is sent, as often as needed; it is the account's own and never shown."""

    hash: bytes
    anchor_id: str
    account: str
    nonce: int
    raw: bytes
    fee_max: Decimal
    tip_max: Decimal
    signed_at: datetime
    sent_at: datetime | None
    dead: bool

    def __repr__(self) -> str:
        return f"Transaction(0x{self.hash.hex()}, nonce {self.nonce})"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a transaction was mined, and whether the contract took it."""

    tx_hash: bytes
    block_number: int
    block_hash: bytes
    gas_used: int
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction offers for each unit of gas, in wei."""

    most: Decimal
    tip: Decimal


@dataclass(frozen=True, slots=True)
class Record:
    """How one event is recorded: by which anchor and as which number, or why not; nothing of it while it waits."""

    anchor_id: str | None
    number: int | None
    skipped: str | None
    state: State | None
    tx_hash: bytes | None


@dataclass(frozen=True, slots=True)
class Account:
    """How a chain looked when it was last asked, and what the submitting account has there."""

    chain_id: int
    contract: str
    account: str
    balance: Decimal | None
    balance_low: bool
    block_number: int | None
    failure: str | None
    answered_at: datetime | None
    checked_at: datetime


def log_id(ledger: str, epoch: int, nonce: str) -> bytes:
    """The name of a log on the chain, which anybody can compute: a ledger, and the epoch in which its log began.

    Two restores of one backup begin epochs of one number: their nonces tell them apart. The first epoch has none.
    """
    return sha256(LOG_TAG + f"{ledger}:{epoch}{nonce and ':'}{nonce}".encode()).digest()


def confirmations(block_number: int, latest: int) -> int:
    """How many blocks attest it, its own included."""
    return max(latest - block_number + 1, 0)


def fees(base: Decimal, tip: Decimal, most: Decimal, before: Fees | None = None) -> Fees | None:
    """What to offer now, replacing `before`; None where that is more than may be paid, so that waiting is better."""
    wanted = Fees(base * HEADROOM + tip, tip)
    if before is not None:
        wanted = Fees(
            max(wanted.most, _up(before.most * BUMP)),
            max(wanted.tip, _up(before.tip * BUMP)),
        )
    if wanted.most <= most:
        return wanted
    # Less headroom will do as long as it is mined at today's price, and replaces what is there.
    floor = base + tip if before is None else max(base + tip, _up(before.most * BUMP))
    return Fees(most, min(wanted.tip, most)) if floor <= most else None


def _up(value: Decimal) -> Decimal:
    return value.to_integral_value(rounding="ROUND_CEILING")


@dataclass(frozen=True, slots=True)
class Due:
    """When the events that are not anchored yet become an anchor."""

    count: int
    age: timedelta

    def is_due(self, waiting: int, oldest: datetime | None, now: datetime) -> bool:
        """So many wait, or the oldest waits so long."""
        return waiting > 0 and (waiting >= self.count or (oldest is not None and now - oldest >= self.age))


class Standing(StrEnum):
    """How the ledger and the head that the contract holds of its log fit together."""

    SAME = "SAME"
    BEHIND = "BEHIND"
    RESTORED = "RESTORED"
    REWRITTEN = "REWRITTEN"


@dataclass(frozen=True, slots=True)
class Restore:
    """An epoch of the ledger, how many events it kept, and what tells it from others of its number."""

    epoch: int
    since: int
    nonce: str = ""


def judge(
    head: Head, epoch: int, ledger_size: int, root_then: bytes | None, restores: Sequence[Restore]
) -> tuple[Standing, Restore | None]:
    """How the ledger fits the log that began in `epoch`.

    `root_then` is the ledger's own root at the contract's size, None while it is not known. Only a restore that came
    after the log began, to a point before its head, explains a difference.
    """
    if ledger_size >= head.size:
        if head.size and root_then is None:
            return Standing.BEHIND, None
        if not head.size or root_then == head.root:
            return Standing.SAME, None
    explained = [one for one in restores if one.epoch > epoch and one.since < head.size]
    if not explained:
        return Standing.REWRITTEN, None
    newest = max(one.epoch for one in explained)
    return Standing.RESTORED, Restore(newest, min(one.since for one in explained))
