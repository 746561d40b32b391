"""One institution's chain: sequences without gaps, every hash, time that never runs backwards."""

from dataclasses import dataclass
from datetime import datetime

from app.kit.canonical import Json
from app.kit.chain import GENESIS
from app.kit.money import CURRENCIES, spell
from app.ledger import spelling
from app.ledger.model import HASH_VERSION, KIND_VERSION, Effect, Event, postings
from app.verify.findings import Report

TABLE = "ledger_events"


@dataclass(slots=True)
class Chain:
    """Where the walk along one institution's events stands."""

    institution_id: str
    sequence: int = 0
    global_sequence: int = 0
    hash: bytes = GENESIS
    recorded_at: datetime | None = None

    def check(self, event: Event, legs: Json, report: Report) -> None:
        """Judge the next event by the one before it; `legs` are its postings as they are stored."""
        row = event.id
        if event.sequence != self.sequence + 1:
            report.add(TABLE, row, f"sequence {event.sequence} follows {self.sequence}: there is a gap")
        if event.global_sequence <= self.global_sequence:
            report.add(TABLE, row, "its global sequence does not grow with its institution's")
        if event.previous_hash != self.hash:
            report.add(
                TABLE, row, f"its previous hash is not the hash of event {self.sequence} of its institution"
            )
        if self.recorded_at is not None and event.recorded_at < self.recorded_at:
            report.add(TABLE, row, "it was recorded before the event that precedes it")
        if (event.hash_version, event.kind_version) != (HASH_VERSION, KIND_VERSION):
            report.add(TABLE, row, "its versions are not known")
        if not self._is_sealed(event):
            report.add(TABLE, row, "its hash does not seal its contents: a column was changed")
        self._check_money(event, legs, report)
        self.sequence, self.global_sequence = event.sequence, event.global_sequence
        self.hash, self.recorded_at = event.hash, event.recorded_at

    @staticmethod
    def _is_sealed(event: Event) -> bool:
        try:
            return spelling.event_hash(event.previous_hash, spelling.spelling(event)) == event.hash
        except (ValueError, KeyError, ArithmeticError, AssertionError):
            # Contents that cannot even be spelled were not written by a writer.
            return False

    @staticmethod
    def _check_money(event: Event, legs: Json, report: Report) -> None:
        expected = postings(event.effect, event.position_id, event.amount_moved, event.currency)
        exponent = CURRENCIES[event.currency].exponent
        if legs != [[leg.account, spell(leg.amount, exponent), leg.currency] for leg in expected]:
            report.add(TABLE, event.id, "its postings are not the balanced legs of the amount it moved")
        if (event.effect is Effect.NONE) != (event.amount_moved == 0):
            report.add(TABLE, event.id, "the amount it moved does not fit what it did to money")
        if not event.balances.hold():
            report.add(TABLE, event.id, "funded = released + refunded + held does not hold after it")
