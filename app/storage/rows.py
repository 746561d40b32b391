"""Rows by their ids, straight through the driver: what every level of a nested query asks for."""

from collections.abc import Sequence

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from app.principal import ALL_INSTITUTIONS
from app.storage.database import Named, driver_of
from app.storage.statements import fetched


async def fetch_by_id(
    connection: AsyncConnection,
    table: Table,
    scope: str,
    ids: Sequence[str],
    *,
    owner: str = "institution_id",
) -> Sequence[Named]:
    """Those of the rows that `scope` may see, in no order."""
    columns = ", ".join(table.columns.keys())
    statement = f"SELECT {columns} FROM {table.name} WHERE id = ANY($1::text[])"
    driver = await driver_of(connection)
    if scope == ALL_INSTITUTIONS:
        return await fetched(connection, driver, statement, (ids,))
    return await fetched(connection, driver, f"{statement} AND {owner} = $2", (ids, scope))
