"""One value of one row, changed: for each column of the catalogue every way that its type has to be wrong."""

from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg

from tests.reliability.ledger_to_tamper import COVERED, NAMES

COLUMNS = """
SELECT table_name, column_name, udt_name, is_nullable = 'YES' AS nullable FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = ANY($1) ORDER BY table_name, ordinal_position
"""
# By type: ways to change a value that is there, and the value for a place that is empty.
BYTES = "set_byte({c}, 0, get_byte({c}, 0) # 1)"
WAYS: dict[str, tuple[tuple[str, ...], str]] = {
    "text": (("{c} || 'x'", "''"), "'x'"),
    "int2": (("{c} + 1",), "1"),
    "int4": (("{c} + 1", "{c} + 1000000"), "1"),
    "int8": (("{c} + 1", "0"), "1"),
    "numeric": (("{c} + 1", "-1 - {c}", "{c} + 0.001", "'NaN'"), "1"),
    "bool": (("NOT {c}",), "true"),
    "bytea": ((BYTES, "'\\x'"), "decode(repeat('00', 32), 'hex')"),
    "_bytea": (("ARRAY[decode(repeat('00', 32), 'hex')] || {c}", "{c}[2:]"), "'{}'"),
    "jsonb": (("jsonb_build_object('was', {c})", "'[]'", "'{}'"), "'{}'"),
    "timestamptz": (("{c} + interval '1 microsecond'", "{c} - interval '1 day'", "'infinity'"), "now()"),
}
# Changes of one column that cannot show, each with its reason.
CANNOT_SHOW: dict[tuple[str, str], str] = {
    (
        "ledger_head",
        "timeline",
    ): "which history of WAL a server last saw: after a restore PostgreSQL itself tells the "
    "former one until its next checkpoint, so that a difference proves nothing; the next server to start sees it and "
    "begins an epoch",
}


@dataclass(frozen=True, slots=True)
class Change:
    """An expression put in the place of a value."""

    table: str
    column: str
    expression: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column} = {self.expression}"


async def every_change(owner: asyncpg.Connection) -> list[Change]:
    """All of them, as the catalogue has the columns now."""
    found = []
    for row in await owner.fetch(COLUMNS, list(COVERED)):
        found += [
            Change(row["table_name"], row["column_name"], expression)
            for expression in _expressions(
                row["table_name"], row["column_name"], row["udt_name"], row["nullable"]
            )
        ]
    return found


def _expressions(table: str, column: str, kind: str, nullable: bool) -> Iterator[str]:
    assert kind in WAYS, f"{table}.{column} is of the type {kind}: say how such a value is changed"
    ways, instead = WAYS[kind]
    for way in ways:
        yield f"CASE WHEN {column} IS NULL THEN ({instead})::{kind} ELSE ({way.replace('{c}', column)})::{kind} END"
    if nullable:
        yield "NULL"
    # What stands in another row of the same column.
    yield (
        f"coalesce((SELECT k.{column} FROM kept.{table} k WHERE k.{column} IS DISTINCT FROM {table}.{column} "
        f"ORDER BY k.{NAMES[table]} LIMIT 1), {table}.{column})"
    )


async def apply(owner: asyncpg.Connection, change: Change, place: str) -> set[str]:
    """Change it in the row of that name; the names that the row has or had, none when that changes nothing."""
    name = NAMES[change.table]
    changed = await owner.fetch(
        f"UPDATE {change.table} SET {change.column} = {change.expression} "
        f"WHERE {name}::text = $1 AND {change.column} IS DISTINCT FROM ({change.expression}) RETURNING {name}::text",
        place,
    )
    return {place, *(row[0] for row in changed)} if changed else set()


async def places(owner: asyncpg.Connection, table: str) -> list[str]:
    """The names of a table's rows, in order."""
    order = "global_sequence" if table == "ledger_events" else NAMES[table]
    return [
        row[0] for row in await owner.fetch(f"SELECT {NAMES[table]}::text FROM kept.{table} ORDER BY {order}")
    ]
