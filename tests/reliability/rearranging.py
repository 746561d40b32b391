"""Rows deleted, inserted, swapped, moved; history rewritten with everything that follows from it: all of it is found."""

import os
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from app.ledger.checkpoints import Checkpoint
from app.ledger.signer import Signer
from tests.reliability import forging
from tests.reliability.changes import places
from tests.reliability.ledger_to_tamper import COVERED, NAMES, undo
from tests.reliability.tally import Tally
from tests.reliability.tampering import Inspector

Case = Callable[[asyncpg.Connection, str], Awaitable[object]]
ENDS_DELETED = (1, 3, 10)

# Copies of a row as a new one: what has to differ for it to be another row.
ANOTHER = {
    "ledger_events": "id = 'evt_forged', global_sequence = global_sequence + 1000",
    "positions": "id = 'pos_forged', external_reference = NULL",
    "institution_heads": "institution_id = 'inst_forged'",
    "ledger_head": "global_sequence = global_sequence + 1",
    "personal_data": "event_id = 'evt_forged'",
    "holders": "id = 'hld_forged'",
    "institution_keys": "institution_id = 'inst_forged'",
    "checkpoints": "size = size - 1",
}
# Columns that two rows exchange.
EXCHANGED = {
    "ledger_events": (
        "sequence",
        "global_sequence",
        "position_id",
        "amount_moved",
        "hash",
        "recorded_at",
        "request_id",
    ),
    "positions": ("id", "asset_id", "amount", "external_reference", "created_at"),
    "institution_heads": ("institution_id", "sequence", "hash"),
    "personal_data": ("event_id", "holder_id", "holder", "metadata"),
    "holders": ("id", "blind", "reference", "data_key"),
    "institution_keys": ("institution_id", "sealed"),
    "checkpoints": ("size", "root", "signature"),
}
# Where a deleted event's absence is seen: at the one that followed it, else at the head.
NEAR = """
SELECT coalesce((SELECT n.id FROM ledger_events n
                 WHERE n.institution_id = e.institution_id AND n.sequence = e.sequence + 1), e.institution_id)
FROM ledger_events e WHERE e.id = $1
"""


async def deleted(owner: asyncpg.Connection, inspector: Inspector) -> None:
    """First, middle and last row of each table."""
    for table in COVERED:
        there = await places(owner, table)
        for place in dict.fromkeys((there[0], there[len(there) // 2], there[-1])):
            tables, rows = [table], {place, "0"}
            kept: Sequence[Checkpoint] = ()
            if table == "ledger_events":
                rows = {await owner.fetchval(NEAR, place)}
                tables.append("institution_heads")
            if table == "checkpoints":
                kept = inspector.evidence.exported
            await owner.execute(f"DELETE FROM {table} WHERE {NAMES[table]}::text = $1", place)
            if table == "personal_data":
                # Of a creation, it is the position that nothing tells the holder of any more.
                position = "SELECT position_id FROM ledger_events WHERE id = $1"
                tables, rows = [table, "positions"], {place, await owner.fetchval(position, place)}
            await inspector.finds(f"{table} {place} deleted", tables, rows, kept)
            await undo(owner)


async def inserted(owner: asyncpg.Connection, inspector: Inspector) -> None:
    """A row more in each table: a copy under another name."""
    for table in COVERED:
        for place in {(await places(owner, table))[0], (await places(owner, table))[-1]}:
            await owner.execute(
                f"CREATE TEMP TABLE another AS SELECT * FROM {table} WHERE {NAMES[table]}::text = $1", place
            )
            name = await owner.fetchval(f"UPDATE another SET {ANOTHER[table]} RETURNING {NAMES[table]}::text")
            await owner.execute(f"INSERT INTO {table} SELECT * FROM another")
            await owner.execute("DROP TABLE another")
            await inspector.finds(f"{table} {name} inserted", [table], {name, place})
            await undo(owner, table)


async def swapped(owner: asyncpg.Connection, inspector: Inspector) -> None:
    """Two rows exchange a value, or their names with all that hangs on them."""
    for table, columns in EXCHANGED.items():
        for column in columns:
            first, second = await _two_that_differ(owner, table, column)
            name = NAMES[table]
            await owner.execute(
                f"UPDATE {table} t SET {column} = k.{column} FROM kept.{table} k "
                f"WHERE (t.{name}::text, k.{name}::text) IN (($1, $2), ($2, $1))",
                first,
                second,
            )
            await inspector.finds(
                f"{table}.{column} of {first} and {second} swapped", [table], {first, second}
            )
            await undo(owner, table)


async def _two_that_differ(owner: asyncpg.Connection, table: str, column: str) -> tuple[str, str]:
    name = NAMES[table]
    row = await owner.fetchrow(
        f"SELECT a.{name}::text, b.{name}::text FROM {table} a JOIN {table} b ON a.{column} IS DISTINCT FROM b.{column} "
        f"AND a.{name} < b.{name} ORDER BY random() LIMIT 1"
    )
    assert row is not None, f"two rows of {table} differ in {column}"
    return row[0], row[1]


async def moved(owner: asyncpg.Connection, inspector: Inspector) -> None:
    """An event, a position, a personal value into the hands of another position or institution."""
    other = "(SELECT min(institution_id) FROM kept.institution_heads k WHERE k.institution_id <> t.institution_id)"
    next_number = f"(SELECT max(sequence) + 1 FROM kept.ledger_events k WHERE k.institution_id = {other})"
    elsewhere = (
        "(SELECT max(k.id) FROM kept.positions k WHERE k.institution_id = t.institution_id AND k.id <> {})"
    )
    cases = (
        ("ledger_events", f"institution_id = {other}"),
        ("ledger_events", f"institution_id = {other}, sequence = {next_number}"),
        ("ledger_events", f"position_id = {elsewhere.format('t.position_id')}"),
        ("positions", f"institution_id = {other}"),
        ("personal_data", f"institution_id = {other}"),
        ("personal_data", f"position_id = {elsewhere.format('t.position_id')}"),
    )
    for table, setting in cases:
        for place in {(await places(owner, table))[0], (await places(owner, table))[-1]}:
            await owner.execute(f"UPDATE {table} t SET {setting} WHERE {NAMES[table]}::text = $1", place)
            await inspector.finds(f"{table} {place} moved: {setting}", [table], {place})
            await undo(owner, table)


async def rewritten(owner: asyncpg.Connection, inspector: Inspector, tally: Tally) -> None:
    """Consistent in itself, so that only what was signed before tells: in the table, by the key, or in a file."""
    tell = {str(checkpoint.size) for checkpoint in inspector.evidence.exported}
    forgeries = [*forging.REWRITINGS, *map(forging.without_the_newest, ENDS_DELETED)]
    for forge in forgeries:
        name = forge.__doc__ or "the newest events deleted"
        chained = await forging.rewrite(owner, forge(await forging.events(owner)))
        await inspector.finds(name, ["checkpoints"], tell)
        await owner.execute("DELETE FROM checkpoints")
        report = await inspector.report()
        tally.require(
            report.is_clean, f"the forgery itself shows, so nothing is proved: {report.findings[:3]}"
        )
        await inspector.finds(
            f"{name}, checkpoints deleted", ["checkpoints"], tell, inspector.evidence.exported
        )
        await undo(owner, "checkpoints")
        await forging.sign_anew(owner, chained, Signer(os.urandom(32)))
        await inspector.finds(f"{name}, checkpoints signed anew", ["checkpoints"], tell)
        await undo(owner)


CASES = (deleted, inserted, swapped, moved)


async def everything(owner: asyncpg.Connection, inspector: Inspector, tally: Tally) -> None:
    """All of it, once."""
    for case in CASES:
        await case(owner, inspector)
        await inspector.clean(f"{case.__name__} was undone")
    await rewritten(owner, inspector, tally)
    await inspector.clean("the forgeries were undone")
