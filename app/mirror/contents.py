"""What every copied table holds: one number of rows and one digest for each, equal on both sides when the rows are."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from app.mirror.model import DOCUMENTS, GROWING, PERSONAL, TABLES, Table
from app.principal import ALL_INSTITUTIONS
from app.storage.database import DatabaseRole, Driver, take_role

# What follows from the events, and the events themselves with the columns that no hash covers.
DERIVED = (
    Table("positions"),
    Table("ledger_events"),
    Table("institution_heads", (("institution_id", "text"),)),
)
COMPARED = (*TABLES, PERSONAL, *DERIVED, *GROWING, DOCUMENTS)
SECONDS_MAX = 3_600.0

# The order does not matter, so that nothing has to be sorted: two sums over the halves of each row's digest.
DIGEST = """
SELECT count(*), coalesce(sum(('x' || left(h, 16))::bit(64)::bigint), 0)::text AS one,
       coalesce(sum(('x' || right(h, 16))::bit(64)::bigint), 0)::text AS other
FROM (SELECT md5(to_jsonb(t)::text) AS h FROM {} t) AS hashed
"""
EPOCHS = "epochs"
# The first is each database's own: it is told by the ledger's id.
LATER_EPOCHS = "(SELECT * FROM epochs WHERE epoch > 1)"
SEALED_OWNERS = "SELECT DISTINCT institution_id FROM webhook_endpoints"

Contents: TypeAlias = Mapping[str, tuple[int, str, str]]


async def contents(driver: Driver) -> Contents:
    """All tables in the caller's snapshot, each read in the role that may."""
    found = {}
    for table in COMPARED:
        await _be_reader(driver, table)
        found[table.name] = await _digest(driver, table.name)
    await take_role(driver, DatabaseRole.FEED, ())
    found[EPOCHS] = await _digest(driver, LATER_EPOCHS)
    return found


def differing(one: Contents, other: Contents) -> Sequence[str]:
    """What is not the same, in words: the table, and how many rows each side has."""
    return [
        f"{name} ({one[name][0]} rows here, {other[name][0]} there)"
        for name in one
        if one[name] != other[name]
    ]


async def _be_reader(driver: Driver, table: Table) -> None:
    if table.sealed:
        await take_role(driver, DatabaseRole.FEED, ())
        owners = [row["institution_id"] for row in await driver.fetch(SEALED_OWNERS)]
        await take_role(driver, DatabaseRole.WRITER, owners)
    elif table.owner is None:
        await take_role(driver, DatabaseRole.FEED, ())
    else:
        await take_role(driver, DatabaseRole.API, (ALL_INSTITUTIONS,))


async def _digest(driver: Driver, relation: str) -> tuple[int, str, str]:
    # It takes as long as the table is large, and so may it; times are spelled.
    await driver.execute("SET LOCAL statement_timeout = 0")
    await driver.execute("SET LOCAL TIME ZONE 'UTC'")
    row = await driver.fetchrow(DIGEST.format(relation), timeout=SECONDS_MAX)
    assert row is not None, "a count is a row"
    return row["count"], row["one"], row["other"]
