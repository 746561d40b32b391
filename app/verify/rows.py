"""Rows beside the ledger that must follow from it: positions, personal values, heads, versions named."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from app.kit import money
from app.ledger import spelling
from app.ledger.model import Commitments, Event
from app.ledger.sealed import PARTS, envelope_of, opened
from app.personal.sealing import CannotOpen, Envelope
from app.personal.service import Holders
from app.positions.model import Position
from app.storage.database import Named
from app.verify.findings import Report
from app.verify.fold import Folded

COMPARED = tuple(
    field.name
    for field in fields(Position)
    if field.name not in ("balances", "holder_id", "holder_reference")
)
BALANCES = ("funded", "released", "refunded", "held")


def check_position(row: Position, folded: Folded | None, holder_id: str | None, report: Report) -> None:
    """Every column of a position, against what its events make of it; the holder against the side table."""
    if folded is None:
        report.add("positions", row.id, "no event of the ledger made it")
        return
    derived = folded.position
    wrong = [name for name in COMPARED if getattr(row, name) != getattr(derived, name)]
    wrong += [name for name in BALANCES if getattr(row.balances, name) != getattr(derived.balances, name)]
    if row.holder_id != holder_id:
        wrong.append("holder_id")
    if wrong:
        report.add("positions", row.id, f"does not follow from its events: {', '.join(wrong)}")


def check_keys(row: Named, report: Report) -> None:
    """The keys that indexes order by, against the columns they follow from."""
    if row["amount_key"] != money.key(row["amount"]) or not row["expires_key_follows"]:
        report.add("positions", row["id"], "is ordered otherwise than its amount and deadline say")


def check_missing(folded: Iterable[str], rows: Iterable[str], report: Report) -> None:
    """Positions that the ledger knows and the table does not."""
    for position_id in sorted(set(folded) - set(rows)):
        report.add("positions", position_id, "is missing, though the ledger has its events")


def check_personal(row: Named, event: Event | None, holders: Holders | None, report: Report) -> None:
    """The kept values, against the commitments of their event; without keys, whether there is one for each."""
    if event is None:
        report.add("personal_data", row["event_id"], "belongs to no event")
        return
    if row["position_id"] != event.position_id:
        report.add("personal_data", event.id, "names another position than its event")
    if row["known"] is None:
        report.add("personal_data", event.id, "names a holder who is not there")
        report.add("holders", row["holder_id"], f"is missing, though event {event.id} names them")
        return
    committed = _by_name(event.commitments)
    for name in PARTS:
        if row[name] is not None and committed[name] is None:
            report.add(
                "personal_data", event.id, f"its {name} is one that the ledger committed to nothing of"
            )
    if holders is not None:
        _check_values(row, event, holders, report)


def check_holder(row: Named, holders: Holders | None, report: Report, *, opening: bool) -> None:
    """That a holder's key opens, and that they are found by what they are called; nothing is left of an erased one."""
    left = [row[name] for name in ("blind", "reference", "data_key") if row[name] is not None]
    if len(left) != (3 if row["erased_at"] is None else 0):
        report.add("holders", row["id"], "is neither there nor erased")
        return
    if row["erased_at"] is not None or not opening:
        return
    if holders is None:
        report.add("holders", row["id"], "cannot be opened: the key of its institution cannot")
        return
    envelope = Envelope(row["institution_id"], row["id"], row["reference"], row["data_key"])
    try:
        reference = holders.reference(envelope)
    except CannotOpen:
        report.add("holders", row["id"], "cannot be opened: it was changed, or put in another place")
        return
    assert reference is not None, "the database keeps all of a holder or nothing"
    if row["blind"] != holders.blind(row["institution_id"], reference):
        report.add("holders", row["id"], "is not found by what they are called")


def _check_values(row: Named, event: Event, holders: Holders, report: Report) -> None:
    try:
        values, salts = opened(holders, row, envelope_of(row))
    except CannotOpen:
        report.add("personal_data", event.id, "cannot be opened: it was changed, or put in another place")
        return
    committed = _by_name(event.commitments)
    for name, kept in _by_name(spelling.commitments(values, salts)).items():
        if kept is not None and kept != committed[name]:
            report.add("personal_data", event.id, f"its {name} is not the one that the ledger committed to")
    if values.holder_reference is not None and values.holder_reference != _called(holders, row):
        report.add("holders", row["holder_id"], f"is not called what event {event.id} says")


def _called(holders: Holders, row: Named) -> str | None:
    try:
        return holders.reference(envelope_of(row))
    except CannotOpen:
        return None


def check_versions(
    event: Event, templates: Mapping[str, Any], policies: Mapping[str, Any], report: Report
) -> None:
    """The template and policy versions an event names are there."""
    if event.template_id not in templates:
        report.add("ledger_events", event.id, f"the template version {event.template_id} is not there")
    if event.policy_id is not None and event.policy_id not in policies:
        report.add("ledger_events", event.id, f"the policy version {event.policy_id} is not there")


def committed(event: Event) -> tuple[bytes, ...]:
    """The commitments an event has."""
    kept = event.commitments
    return tuple(one for one in (kept.holder, kept.reason, kept.metadata) if one is not None)


def _by_name(commitments: Commitments) -> dict[str, bytes | None]:
    return dict(zip(PARTS, (commitments.holder, commitments.reason, commitments.metadata), strict=True))
