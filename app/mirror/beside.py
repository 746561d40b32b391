"""Copies what is not an event: rows beside the ledger, first all and then as they change, erasures, checkpoints."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from app.kit.canonical import parse_json
from app.mirror import source
from app.mirror.model import (
    AUDIT,
    CHECKPOINTS,
    DOCUMENTS,
    PERSONAL,
    PERSONAL_PARTS,
    SEALS,
    SEEDED,
    TABLES,
    Row,
    Table,
)
from app.mirror.pages import new_epochs
from app.mirror.store import Copy
from app.storage.database import Database, DatabaseRole, Driver, Named

PAGE_ROWS = 500
# How long the events may have to wait for rows beside them.
BUDGET_SECONDS = 1.0
STANDING_EVERY_SECONDS = 1.0

Keys = dict[Table, list[tuple[str, ...]]]


class Beside:
    """One per follower."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._since: str | None = None
        self._standing: object = None
        self._documents: object = None
        self._stood_at = 0.0
        self.is_done = False

    def begin_anew(self) -> None:
        """The copy is seeded again: only transactions that begin from here on are sure to leave notes."""
        self._since = None

    async def copy(self, copy: Copy, token: int) -> None:
        """Copy for a while; `is_done` tells whether something is left."""
        self.is_done = False
        until = asyncio.get_running_loop().time() + BUDGET_SECONDS
        while asyncio.get_running_loop().time() < until:
            if not await self._seed(copy, token) and not await self._follow_changes(copy, token):
                self.is_done = copy.is_seeded
                break
        await self._follow_standing(copy, token)

    async def _seed(self, copy: Copy, token: int) -> bool:
        """One page of what was there before the first start; False when there is nothing to do (now)."""
        table = next((table for table in SEEDED if table.name not in copy.seeded), None)
        if table is None or (table is SEEDED[0] and not copy.seeded_key and not await self._settled()):
            return False
        if table is PERSONAL:
            await self._look_through(copy, token)
            return True
        async with source.reading(self._database, table) as driver:
            rows = await source.rows_after(driver, table, copy.seeded_key, PAGE_ROWS, copy.head)
        seeded = copy.seeded if len(rows) == PAGE_ROWS else (*copy.seeded, table.name)
        key = rows[-1].key if len(rows) == PAGE_ROWS else ()
        # What waits came after the registration: it is noted.
        rows = [row for row in rows if not row.waits]
        if table is AUDIT:
            await copy.make_room(rows)
        async with copy.page(token, _owners(rows)) as driver:
            if rows:
                await copy.put(driver, table, rows)
            await copy.mark_seeded(driver, seeded, key)
        copy.seeded, copy.seeded_key = seeded, key
        return True

    async def _look_through(self, copy: Copy, token: int) -> None:
        """One page of the personal values that the copy keeps: what the ledger has erased meanwhile is erased."""
        keys = await copy.personal_after(copy.seeded_key, PAGE_ROWS)
        rows = await self._read(copy, PERSONAL, keys) if keys else []
        is_last = len(keys) < PAGE_ROWS
        seeded = (*copy.seeded, PERSONAL.name) if is_last else copy.seeded
        key = () if is_last else keys[-1][::-1]
        async with copy.page(token, {owner for owner, _event in keys}) as driver:
            await self._erase(copy, driver, keys, rows)
            await copy.mark_seeded(driver, seeded, key)
        copy.seeded, copy.seeded_key = seeded, key

    async def _erase(
        self, copy: Copy, driver: Driver, keys: Sequence[tuple[str, ...]], rows: Sequence[Row]
    ) -> None:
        found = {row.key: row for row in rows}
        for key in keys:
            parts = _erased(found.get(key))
            if parts:
                await copy.erase(driver, key, parts)

    async def _settled(self) -> bool:
        if self._since is None:
            self._since = await source.moment(self._database)
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            return await source.is_settled(driver, self._since)

    async def _follow_changes(self, copy: Copy, token: int) -> bool:
        """Copy rows that changed, as they are now; False when none has (or not all are there yet).

        The note of a row that stands on events which are still to be copied stays until they are.
        """
        if not copy.is_seeded:
            return False
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            noted = await driver.fetch(source.CHANGED, source.CHANGED_MAX)
        if not noted:
            return False
        keys: Keys = defaultdict(list)
        for row in noted:
            table = PERSONAL if row["source"] == PERSONAL.name else source.TABLE_OF[row["source"]]
            keys[table].append(tuple(row["key"]))
        keys = {table: list(dict.fromkeys(some)) for table, some in keys.items()}
        read = {table: await self._read(copy, table, some) for table, some in keys.items()}
        waiting = {(table.name, row.key) for table, some in read.items() for row in some if row.waits}
        noted = [row for row in noted if (row["source"], tuple(row["key"])) not in waiting]
        if not noted:
            return False
        rows = {table: [row for row in some if not row.waits] for table, some in read.items()}
        await copy.make_room(rows.get(AUDIT, ()))
        owners = _owners([row for some in rows.values() for row in some])
        named = {key[0] for table, some in keys.items() if table.owner == table.columns[0] for key in some}
        async with copy.page(token, owners | named) as driver:
            for table in (table for table in TABLES if table in keys):
                gone = set(keys[table]) - {row.key for row in read[table]}
                if table.vanishing and gone:
                    await copy.remove(driver, table, sorted(gone))
                if rows[table]:
                    await copy.put(driver, table, rows[table])
            if PERSONAL in keys:
                await self._erase(copy, driver, keys[PERSONAL], rows[PERSONAL])
        await source.forget(self._database, [row["place"] for row in noted])
        return True

    async def _read(self, copy: Copy, table: Table, keys: Sequence[tuple[str, ...]]) -> list[Row]:
        scope = sorted({key[0] for key in keys}) if table.sealed else None
        async with source.reading(self._database, table, scope) as driver:
            return await source.rows(driver, table, keys, copy.head)

    async def _follow_standing(self, copy: Copy, token: int) -> None:
        """What changes seldom, looked at now and then: epochs, seals, documents, where the followers stand."""
        now = asyncio.get_running_loop().time()
        if now - self._stood_at < STANDING_EVERY_SECONDS and not self.is_done:
            return
        await self._follow_growth(copy, CHECKPOINTS, token, last=copy.head)
        if self.is_done:
            # Behind the rows that they bind.
            await self._follow_growth(copy, SEALS, token)
        await self._follow_documents(copy, token)
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            followers = await source.values(driver, source.FOLLOWERS)
            parked = await source.values(driver, source.PARKED, source.PARKED_MAX)
        epochs = await new_epochs(self._database, copy)
        # No further than the events have come.
        cursors = [(name, min(cursor, copy.head), paused) for name, cursor, paused in followers]
        ends = {name: cursor for name, cursor, _paused in cursors}
        # What is parked beyond comes again where the copy goes on by itself.
        parked = [one for one in parked if one[1] <= ends.get(one[0], 0)]
        standing = (id(copy), cursors, parked)
        if epochs or standing != self._standing:
            async with copy.page(token) as driver:
                await copy.add_epochs(driver, epochs)
                await copy.set_followers(driver, cursors, parked)
            copy.know_epochs(epochs)
        self._standing, self._stood_at = standing, now

    async def _follow_growth(self, copy: Copy, table: Table, token: int, last: int | None = None) -> None:
        """Rows behind the last one that the copy has."""
        async with source.reading(self._database, table) as driver:
            rows = await source.rows_after(
                driver, table, copy.grown[table.name], source.GROWN_MAX, copy.head, last
            )
        if rows:
            async with copy.page(token) as driver:
                await copy.put(driver, table, rows)
            copy.grown[table.name] = rows[-1].key

    async def _follow_documents(self, copy: Copy, token: int) -> None:
        """Documents as they are: what a hash stands for never changes, so that the hashes tell all."""
        async with source.reading(self._database, DOCUMENTS) as driver:
            here = set(await source.keys(driver, DOCUMENTS))
            if self._documents == (id(copy), here):
                return
            async with copy.as_role(DatabaseRole.FEED) as other:
                there = set(await source.keys(other, DOCUMENTS))
            rows = (
                await source.rows(driver, DOCUMENTS, [(key,) for key in here - there]) if here - there else []
            )
        async with copy.page(token) as other:
            await copy.remove(other, DOCUMENTS, [(key,) for key in there - here])
            if rows:
                await copy.put(other, DOCUMENTS, rows)
        self._documents = (id(copy), here)


def _owners(rows: Sequence[Row]) -> set[str]:
    return {row.owner for row in rows if row.owner is not None}


def _erased(row: Row | None) -> list[str]:
    """Which personal values of an event are gone, or never were; all of them where the row is."""
    values: Named | None = None if row is None else parse_json(row.text)  # type: ignore[assignment]
    return [part for part in PERSONAL_PARTS if values is None or values[part] is None]
