"""Rows beside the ledger that must follow from it: positions, personal values, heads, versions named."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from app.kit import money
from app.ledger.model import Event
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


def check_versions(
    event: Event, templates: Mapping[str, Any], policies: Mapping[str, Any], report: Report
) -> None:
    """The template and policy versions an event names are there."""
    if event.template_id not in templates:
        report.add("ledger_events", event.id, f"the template version {event.template_id} is not there")
    if event.policy_id is not None and event.policy_id not in policies:
        report.add("ledger_events", event.id, f"the policy version {event.policy_id} is not there")


def check_asset(
    event: Event, assets: Mapping[str, Any], templates: Mapping[str, Any], report: Report
) -> None:
    """The asset that a creation names is there, and of the template version that the event names."""
    if event.position_version != 1:
        return
    name = str(event.data.get("assetId"))
    if name not in assets:
        report.add("assets", name, f"is missing, though event {event.id} names it")
    elif assets[name]["template_id"] != event.template_id:
        report.add("assets", name, f"is of another template version than event {event.id} says")
    elif assets[name]["template_id"] not in templates:
        report.add("assets", name, "is of a template version that is not there")


def committed(event: Event) -> tuple[bytes, ...]:
    """The commitments an event has."""
    kept = event.commitments
    return tuple(one for one in (kept.holder, kept.reason, kept.metadata) if one is not None)
