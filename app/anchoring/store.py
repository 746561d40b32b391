"""The tables of anchoring as queries read them. What is on a chain is public; what is recorded is its institution's."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Integer,
    LargeBinary,
    Numeric,
    Row,
    Select,
    Table,
    Text,
    cast,
    func,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from app.anchoring.model import Account, Anchor, Mode, Record, State
from app.storage import paging
from app.storage.conditions import Condition, narrow, within
from app.storage.paging import Order, Page, PageRequest
from app.storage.tables import Id, Moment, Word, metadata

anchors = Table(
    "anchors",
    metadata,
    Column("id", Id, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("mode", Word, nullable=False),
    Column("state", Word, nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("contract", Word, nullable=False),
    Column("log_id", LargeBinary, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("previous_size", BigInteger),
    Column("previous_root", LargeBinary),
    Column("size", BigInteger),
    Column("root", LargeBinary),
    Column("first", BigInteger),
    Column("count", Integer),
    Column("follows", LargeBinary),
    Column("since", BigInteger),
    Column("tx_hash", LargeBinary),
    Column("block_number", BigInteger),
    Column("block_hash", LargeBinary),
    Column("gas_used", BigInteger),
    Column("reverts", Integer, nullable=False),
    Column("reorgs", Integer, nullable=False),
    Column("failure", Text),
    Column("created_at", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),
    Column("final_at", Moment),
)
anchor_chains = Table(
    "anchor_chains",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("contract", Word, primary_key=True),
    Column("account", Word, nullable=False),
    Column("balance", Numeric),
    Column("balance_low", Boolean, nullable=False),
    Column("block_number", BigInteger),
    Column("failure", Text),
    Column("answered_at", Moment),
    Column("checked_at", Moment, nullable=False),
)
anchor_records = Table(
    "anchor_records",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("event_id", Id, primary_key=True),
    Column("global_sequence", BigInteger, nullable=False),
    Column("anchor_id", Id),
    Column("number", BigInteger),
    Column("skipped", Text),
    Column("noted_at", Moment, nullable=False),
)
a, c, r = anchors.c, anchor_chains.c, anchor_records.c
FIELDS = tuple(name for name in Anchor.__dataclass_fields__ if name != "confirmations")
CHANGES_AT_ONCE = 100


def _anchors(scope: str) -> Select[Any]:
    """Whoever has a scope sees them all; how many blocks attest one is told by the newest block."""
    deep = func.greatest(c.block_number - a.block_number + 1, 0).label("confirmations")
    joined = anchors.outerjoin(anchor_chains, (c.chain_id == a.chain_id) & (c.contract == a.contract))
    return select(*(a[name] for name in FIELDS), deep).select_from(joined)


async def by_id(connection: AsyncConnection, scope: str, ids: Sequence[str]) -> Mapping[str, Anchor]:
    """Anchors by id."""
    rows = await connection.execute(_anchors(scope).where(a.id.in_(ids)))
    return {row.id: _anchor(row) for row in rows}


async def page(
    connection: AsyncConnection,
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    descending: bool,
) -> Page[Anchor]:
    """One page of them, in the order they were made."""
    statement = narrow(_anchors(scope), _columns(), conditions)
    order = Order("anchors.number", (a.number,), descending)
    return await paging.fetch_page(connection, statement, order, request, _anchor)


async def count(connection: AsyncConnection, scope: str, conditions: Sequence[Condition]) -> int:
    """How many there are."""
    return await paging.count(connection, narrow(_anchors(scope), _columns(), conditions))


async def covering(
    connection: AsyncConnection, scope: str, sizes: Sequence[int], *, on_chain: bool
) -> Mapping[int, Anchor]:
    """For each number of events the first head that covers so many, at the contract that is submitted to now."""
    newest = select(a.chain_id, a.contract).order_by(a.number.desc()).limit(1)
    present = (await connection.execute(newest)).first()
    if present is None:
        return {}
    wanted = select(func.unnest(cast(list(sizes), ARRAY(BigInteger))).label("wanted")).subquery()
    states = [State.MINED, State.FINAL] if on_chain else [one for one in State if one is not State.SUPERSEDED]
    found = _anchors(scope).where(
        a.mode == Mode.ANCHOR.value,
        a.size >= wanted.c.wanted,
        a.state.in_([one.value for one in states]),
        a.chain_id == present.chain_id,
        a.contract == present.contract,
    )
    lateral = found.order_by(a.size, a.number).limit(1).correlate(wanted).lateral()
    rows = await connection.execute(
        select(wanted.c.wanted, *lateral.c).select_from(wanted.join(lateral, true()))
    )
    return {row.wanted: _anchor(row) for row in rows}


async def changed(connection: AsyncConnection, scope: str, after: int) -> Sequence[tuple[int, Anchor]]:
    """What changed after that revision, each with its own."""
    statement = _anchors(scope).add_columns(a.revision).where(a.revision > after)
    rows = await connection.execute(statement.order_by(a.revision).limit(CHANGES_AT_ONCE))
    return [(row.revision, _anchor(row)) for row in rows]


async def revision(connection: AsyncConnection, scope: str) -> int:
    """The newest one."""
    return int((await connection.execute(select(func.coalesce(func.max(a.revision), 0)))).scalar_one())


async def records(connection: AsyncConnection, scope: str, event_ids: Sequence[str]) -> Mapping[str, Record]:
    """How single events are recorded; those that are not to be are not there."""
    columns = (r.event_id, r.anchor_id, r.number, r.skipped, a.state, a.tx_hash)
    joined = select(*columns).select_from(anchor_records.outerjoin(anchors, a.id == r.anchor_id))
    rows = await connection.execute(within(joined, r.institution_id, scope).where(r.event_id.in_(event_ids)))
    return {
        row.event_id: Record(
            row.anchor_id, row.number, row.skipped, row.state and State(row.state), row.tx_hash
        )
        for row in rows
    }


async def accounts(connection: AsyncConnection, scope: str) -> Sequence[Account]:
    """How each chain looked when it was last asked."""
    rows = await connection.execute(select(anchor_chains).order_by(c.chain_id, c.contract))
    return [Account(**row._mapping) for row in rows]


def _columns() -> Mapping[str, ColumnElement[Any]]:
    return {one.name: one for one in anchors.columns}


def _anchor(row: Row[Any]) -> Anchor:
    found = {name: row._mapping[name] for name in (*FIELDS, "confirmations")}
    return Anchor(**{**found, "mode": Mode(row.mode), "state": State(row.state)})
