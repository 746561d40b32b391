"""The tables that the migrations make are the tables that the stores name."""

import importlib
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from app.storage.tables import metadata

REPOSITORY = Path(__file__).resolve().parents[2]
for path in sorted((REPOSITORY / "app").glob("*/store.py")):
    importlib.import_module(f"app.{path.parent.name}.store")
TABLES = sorted(metadata.tables.values(), key=lambda table: table.name)
# What the database keeps for itself: no store has to know it.
OMITTED = {"ledger_head": {"singleton", "system_identifier", "timeline", "written_by"}}
# Tables that are reached with SQL of asyncpg alone.
UNNAMED = {
    "alembic_version",
    "audit_seals",
    "checkpoints",
    "documents",
    "followers",
    "leases",
    "parked_events",
    "rate_buckets",
}
UNNAMED |= {"mirror_queue", "mirror_copy"}
UNNAMED |= {"anchor_tree", "anchor_nodes", "anchor_transactions"}

COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS nullable,
       c.collname AS collation
FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
"""
KEY = """
SELECT a.attname FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)
WHERE k.conrelid = $1::text::regclass AND k.contype = 'p'
"""
SPELLINGS = {
    "timestamp with time zone": "timestamptz",
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
}


def spelled(text: str) -> str:
    """One spelling for the database's and SQLAlchemy's names of a type, without its collation."""
    text = text.partition(" collate")[0]
    return SPELLINGS.get(text, text)


def test_every_store_has_its_tables() -> None:
    assert {table.name for table in TABLES} >= {
        "positions",
        "ledger_events",
        "assets",
        "policies",
        "audit_events",
    }


async def test_every_table_is_named_by_a_store_or_listed(catalogue: asyncpg.Connection) -> None:
    rows = await catalogue.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition"
    )
    assert {row["relname"] for row in rows} == {table.name for table in TABLES} | UNNAMED


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
async def test_columns_agree(catalogue: asyncpg.Connection, table: Table) -> None:
    there = {row["name"]: row for row in await catalogue.fetch(COLUMNS, table.name)}
    assert set(there) == {column.name for column in table.columns} | OMITTED.get(table.name, set())
    for column in table.columns:
        found, type_ = there[column.name], column.type.compile(dialect=postgresql.dialect())
        assert spelled(found["type"]) == spelled(type_.lower()), column.name
        assert found["nullable"] == column.nullable, column.name
        collation = getattr(column.type, "collation", None)
        assert found["collation"] in ((collation,) if collation else ("default", None)), column.name


@pytest.mark.parametrize(
    "table", [t for t in TABLES if len(t.primary_key.columns)], ids=lambda table: table.name
)
async def test_keys_agree(catalogue: asyncpg.Connection, table: Table) -> None:
    there = {row["attname"] for row in await catalogue.fetch(KEY, table.name)}
    assert there == {column.name for column in table.primary_key.columns}


async def test_amounts_have_no_fixed_scale_and_times_have_a_zone(catalogue: asyncpg.Connection) -> None:
    rows = await catalogue.fetch(
        "SELECT a.attrelid::regclass::text AS table, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type "
        "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'public'::regnamespace "
        "AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped"
    )
    types = {row["type"] for row in rows}
    assert not types & {"timestamp without time zone", "real", "double precision", "money", "json"}
    assert not {type_ for type_ in types if type_.startswith(("numeric(", "character"))} - {
        "character varying(32)"  # Alembic's own
    }


async def test_references_between_tenants_are_composite(catalogue: asyncpg.Connection) -> None:
    """Foreign keys look past row-level security, so that the institution is part of every one of them."""
    rows = await catalogue.fetch(
        "SELECT conrelid::regclass::text AS source, confrelid::regclass::text AS target, "
        "(SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = conrelid "
        " AND attnum = ANY(conkey)) AS columns, confdeltype::text AS on_delete, confupdtype::text AS on_update "
        "FROM pg_constraint WHERE contype = 'f' AND conparentid = 0"
    )
    assert rows
    for row in rows:
        tenant = row["source"] not in UNNAMED
        assert not tenant or "institution_id" in row["columns"], row
        assert row["on_delete"] == row["on_update"] == "a", f"nothing cascades: {row}"
        assert row["source"] != "ledger_events", "the ledger's writer holds the rows"
