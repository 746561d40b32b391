"""What a command brings to the writer, and what a slice registers with it."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.errors import Problem
from app.ledger.model import Actor, Draft, Event, Key, Personal
from app.ledger.sealed import Opened
from app.personal.sealing import Holder
from app.storage.database import Driver

# Something that is read under the locks and given to decisions, such as ("policy", institution, region).
Fact = tuple[Hashable, ...]
Row = Any


@dataclass(slots=True)
class View:
    """What decisions of one batch see: the locked rows and the facts read after the locks, as changed so far."""

    now: datetime
    rows: dict[str, Row] = field(default_factory=dict)
    facts: dict[Fact, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A command was accepted: the row as it becomes, the event that says so, facts that are true from now on."""

    row: Row
    row_id: str
    draft: Draft
    learned: Mapping[Fact, Any] = field(default_factory=dict)


Decision = Accepted | Problem


@dataclass(frozen=True, slots=True)
class Listed:
    """Which item of a list a command is, where one key names the whole list.

    The first of its items that is accepted takes that key, the others keep their own: so the one index that knows
    every key used says, too, which list it names, and one that names a list names no single command.
    """

    key: str
    fingerprints: tuple[bytes, ...]
    place: int

    @property
    def fingerprint(self) -> bytes:
        """What is asked by this item."""
        return self.fingerprints[self.place]


class Command(ABC):
    """One move, validated before it is submitted."""

    institution_id: str
    actor: Actor
    key: Key
    personal: Personal
    listed: Listed | None

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names to lock for what has no row yet, such as a key or a reference about to be used."""

    @abstractmethod
    def rows(self) -> Sequence[str]:
        """Ids of the rows to lock."""

    @abstractmethod
    def facts(self, view: View) -> Sequence[Fact]:
        """What else has to be read, now that the rows are locked."""

    @abstractmethod
    def decide(self, view: View) -> Decision:
        """Accept or refuse; pure, called once per attempt."""


class Subject(ABC):
    """The bulk work on the rows that commands move; its slice registers it at start-up."""

    @abstractmethod
    async def lock(self, connection: Driver, ids: Sequence[str], *, wait: bool) -> Mapping[str, Row]:
        """Lock rows in id order; without `wait`, rows that others hold are left out."""

    @abstractmethod
    async def existing(self, connection: Driver, ids: Sequence[str]) -> frozenset[str]:
        """Which of these rows exist, locked or not."""

    @abstractmethod
    async def read(self, connection: Driver, facts: Sequence[Fact]) -> Mapping[Fact, Any]:
        """What is known of these facts; a fact that is missing is None to the decisions."""

    @abstractmethod
    async def write(self, connection: Driver, changes: Sequence[tuple[Row, Event]]) -> list[Row]:
        """Write each row as its event leaves it; returns the rows as written, in order."""

    @abstractmethod
    async def fetch(self, connection: Driver, ids: Sequence[str]) -> Mapping[str, Row]:
        """Rows as they are, unlocked, for answers that are told again."""

    @abstractmethod
    def given(self, row: Row, holder: Holder) -> Row:
        """The row of something new, which is held for that holder."""

    @abstractmethod
    def as_of(self, row: Row, event: Event) -> Row:
        """The row as that event left it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an accepted command is told: its event, the row as of it, and whether it had happened before."""

    event: Event
    row: Row
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Used:
    """An event that already used a key, and the personal values and salts kept for it (None where none ever were).

    `row` is as of that event; None when it is another institution's than those of the batch.
    """

    event: Event
    row: Row | None
    personal: Opened | None
