"""Holders and what is sealed for them: every key opens, every value is the one its event committed to, none is lost."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from app.errors import Unavailable
from app.ledger import spelling
from app.ledger.model import Commitments, Event
from app.ledger.sealed import PARTS, envelope_of, opened
from app.personal.sealing import CannotOpen, Envelope
from app.personal.service import Holders
from app.storage.database import Driver, Named
from app.verify.findings import Report

PREFETCH = 1_000
ERASED = "personal values erased"
PERSONAL = """
SELECT p.*, h.id AS known, h.reference, h.data_key FROM personal_data p
LEFT JOIN holders h ON h.institution_id = p.institution_id AND h.id = p.holder_id
WHERE p.institution_id = $1 ORDER BY p.event_id
"""
HOLDERS = "SELECT * FROM holders WHERE institution_id = $1 ORDER BY id"
HAS_KEY = "SELECT EXISTS (SELECT FROM institution_keys WHERE institution_id = $1)"
CHANGED = "cannot be opened: it was changed, or put in another place"

Reading = Callable[[str, object], AbstractContextManager[None]]


class Persons:
    """Without `holders`, the master keys, nothing is opened: only what is there is compared."""

    def __init__(self, connection: Driver, holders: Holders | None, report: Report, reading: Reading) -> None:
        self._connection = connection
        self._holders = holders
        self._report = report
        self._reading = reading

    async def check(self, institution_id: str, events: Mapping[str, Event]) -> dict[str, str | None]:
        """Those of an institution, given its events that committed to something; the holder of each position."""
        living, opener = await self._check_holders(institution_id)
        held: dict[str, str | None] = {}
        seen = set()
        async for row in self._connection.cursor(PERSONAL, institution_id, prefetch=PREFETCH):
            event = events.get(row["event_id"])
            with self._reading("personal_data", row["event_id"]):
                self._check_row(row, event, opener, is_alive=row["holder_id"] in living)
                if event is not None:
                    self._report.looked_at[ERASED] += _erased(event, row)
            if event is not None and event.position_version == 1:
                held[event.position_id] = row["holder_id"]
            seen.add(row["event_id"])
            self._report.looked_at["personal_data"] += 1
        for event in events.values():
            if event.id not in seen:
                self._report.looked_at[ERASED] += _erased(event, None)
            if event.id not in seen and held.get(event.position_id) in living:
                self._report.add("personal_data", event.id, "is missing, though its holder was not erased")
        return held

    async def _check_holders(self, institution_id: str) -> tuple[set[str], Holders | None]:
        """Who is not erased, and what opens what is theirs."""
        rows = await self._connection.fetch(HOLDERS, institution_id)
        needed = bool(rows) or await self._connection.fetchval(HAS_KEY, institution_id)
        opener = await self._opener(institution_id) if needed else None
        for row in rows:
            with self._reading("holders", row["id"]):
                self._check_holder(row, opener)
            self._report.looked_at["holders"] += 1
        return {row["id"] for row in rows if row["erased_at"] is None}, opener

    async def _opener(self, institution_id: str) -> Holders | None:
        if self._holders is None:
            return None
        try:
            if await self._holders.ready(self._connection, [institution_id]):
                return self._holders
            self._report.add("institution_keys", institution_id, "is missing, though there are holders")
        except CannotOpen:
            self._report.add("institution_keys", institution_id, CHANGED)
        except Unavailable as error:
            self._report.add("institution_keys", institution_id, error.message)
        return None

    def _check_holder(self, row: Named, opener: Holders | None) -> None:
        """Found by what they are called; and of who was erased, nothing is left."""
        left = [row[name] for name in ("blind", "reference", "data_key") if row[name] is not None]
        if len(left) != (3 if row["erased_at"] is None else 0):
            self._report.add("holders", row["id"], "is neither there nor erased")
            return
        if row["erased_at"] is not None or self._holders is None:
            return
        if opener is None:
            self._report.add("holders", row["id"], "cannot be opened: the key of its institution cannot")
            return
        called = _called(
            opener, Envelope(row["institution_id"], row["id"], row["reference"], row["data_key"])
        )
        if called is None:
            self._report.add("holders", row["id"], CHANGED)
        elif row["blind"] != opener.blind(row["institution_id"], called):
            self._report.add("holders", row["id"], "is not found by what they are called")

    def _check_row(self, row: Named, event: Event | None, opener: Holders | None, *, is_alive: bool) -> None:
        """The kept values of one event, against what it committed to."""
        report = self._report
        if event is None:
            report.add("personal_data", row["event_id"], "belongs to no event")
            return
        if row["position_id"] != event.position_id:
            report.add("personal_data", event.id, "names another position than its event")
        if row["known"] is None:
            report.add("personal_data", event.id, "names a holder who is not there")
            report.add("holders", row["holder_id"], f"is missing, though event {event.id} names them")
            return
        for name, committed in _by_name(event.commitments).items():
            if row[name] is not None and committed is None:
                report.add("personal_data", event.id, f"its {name} is one that the event does not have")
            if row[name] is None and committed is not None and is_alive:
                report.add("personal_data", event.id, f"its {name} is gone, though the holder was not erased")
        if opener is not None:
            self._check_values(row, event, opener)

    def _check_values(self, row: Named, event: Event, opener: Holders) -> None:
        envelope = envelope_of(row)
        try:
            values, salts = opened(opener, row, envelope)
        except CannotOpen:
            self._report.add("personal_data", event.id, CHANGED)
            return
        committed = _by_name(event.commitments)
        for name, kept in _by_name(spelling.commitments(values, salts)).items():
            if kept is not None and kept != committed[name]:
                self._report.add(
                    "personal_data", event.id, f"its {name} is not the one that the ledger committed to"
                )
        if values.holder_reference is not None and values.holder_reference != _called(opener, envelope):
            self._report.add("holders", row["holder_id"], f"is not called what event {event.id} says")


def _erased(event: Event, row: Named | None) -> int:
    """How many of the personal values that the event committed to are not kept."""
    given = [name for name, commitment in _by_name(event.commitments).items() if commitment is not None]
    return sum(row is None or row[name] is None for name in given)


def _called(opener: Holders, envelope: Envelope) -> str | None:
    """What a holder is called; None when that cannot be opened."""
    try:
        return opener.reference(envelope)
    except CannotOpen:
        return None


def _by_name(commitments: Commitments) -> dict[str, bytes | None]:
    return dict(zip(PARTS, (commitments.holder, commitments.reason, commitments.metadata), strict=True))
