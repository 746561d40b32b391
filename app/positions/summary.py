"""The SQL that counts positions and sums them up, as they are or as they were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Subquery, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from app.ledger.past import Place, last_event
from app.positions.store import Columns, Conditions, fields, positions, spelled
from app.storage.conditions import narrow, within

t = positions.c


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One group of positions in one currency."""

    keys: Mapping[str, Any]
    currency: str
    count: int
    amount: Decimal
    funded: Decimal
    released: Decimal
    refunded: Decimal
    held: Decimal


async def summarise(
    connection: AsyncConnection,
    scope: str,
    conditions: Conditions,
    groups: Sequence[str],
    zone: str,
    limit: int,
    place: Place | None = None,
) -> list[SummaryRow]:
    """Counts and sums by group, always split by currency as well; the first `limit` groups in order.

    With `place` they are those of positions as they were then.
    """
    c = positions.c if place is None else _as_of(place).c
    keys = [grouping(c, name, zone).label(f"key_{name}") for name in groups]
    sums = [func.sum(c[name]).label(name) for name in ("amount", "funded", "released", "refunded", "held")]
    statement = within(select(*keys, c.currency, func.count().label("n"), *sums), c.institution_id, scope)
    statement = narrow(statement, fields(c), spelled(conditions))
    statement = statement.group_by(*keys, c.currency).order_by(*keys, c.currency).limit(limit)
    rows = (await connection.execute(statement)).all()
    return [
        SummaryRow(
            {name: row._mapping[f"key_{name}"] for name in groups},
            row.currency,
            row.n,
            row.amount,
            row.funded,
            row.released,
            row.refunded,
            row.held,
        )
        for row in rows
    ]


def grouping(c: Columns, name: str, zone: str) -> ColumnElement[Any]:
    """The column that a named group of a summary is made of; days are days of `zone`."""
    local = func.timezone(zone, c.created_at)
    columns: Mapping[str, ColumnElement[Any]] = {
        "STATE": c.state,
        "STAGE": c.stage,
        "ASSET": c.asset_id,
        "HOLDER": c.holder_reference,
        "INSTITUTION": c.institution_id,
        "CREATED_DAY": func.to_char(local, "YYYY-MM-DD"),
        "CREATED_MONTH": func.to_char(local, "YYYY-MM"),
    }
    return columns[name]


def _as_of(place: Place) -> Subquery:
    """Positions as the last event up to `place` left each; those opened later are not there."""
    then = last_event(t.id, place)
    kept = (
        "institution_id",
        "id",
        "asset_id",
        "holder_reference",
        "external_reference",
        "currency",
        "amount",
    )
    moved = ("funded", "released", "refunded", "held")
    return (
        select(
            *(t[name] for name in (*kept, "amount_key", "created_at", "expires_key")),
            *(then.c[name] for name in moved),
            then.c.new_state.label("state"),
            then.c.new_stage.label("stage"),
        )
        .select_from(positions.join(then, true()))
        .subquery("positions_then")
    )
