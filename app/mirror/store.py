"""The database of the mirror: is it a copy of this ledger, and the transactions that bring it on."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

from app.kit.chain import GENESIS
from app.ledger import epochs, keeper
from app.ledger.bell import CHANNEL
from app.ledger.followers import LeadLost
from app.ledger.keeper import Keeper
from app.mirror.model import DELIVERIES, GROWING, INSTITUTIONS, SEEDED, TABLES, NotACopy, Row, Table
from app.mirror.source import Values
from app.principal import ALL_INSTITUTIONS
from app.storage.database import DatabaseRole, Driver, exact_json, take_role
from app.storage.losses import CONNECTION_LOST

CONNECT_SECONDS_MAX = 5
COMMAND_SECONDS_MAX = 60
TROUBLES = (*CONNECTION_LOST, asyncpg.PostgresError, ValueError)

REVISION = "SELECT version_num FROM alembic_version"
HEAD = """
SELECT h.log_id, h.global_sequence, h.written_by, e.hash FROM ledger_head h
LEFT JOIN ledger_events e ON e.global_sequence = h.global_sequence
"""
IS_EMPTY = """
SELECT NOT EXISTS (SELECT FROM institutions) AND NOT EXISTS (SELECT FROM ledger_events)
   AND NOT EXISTS (SELECT FROM checkpoints) AND NOT EXISTS (SELECT FROM epochs WHERE epoch > 1)
"""
BECOME = "UPDATE ledger_head SET log_id = $1"
STATE = "SELECT token, registration, seeded, seeded_key FROM mirror_copy"
# Events bring their personal values along: there is nothing to look through in a copy that begins.
BEGIN = """
INSERT INTO mirror_copy (token, registration, seeded, seeded_key, changed_at)
VALUES ($1, $2, '{personal_data}', '{}', clock_timestamp())
"""
ANEW = "UPDATE mirror_copy SET registration = $1, seeded = '{}', seeded_key = '{}'"
FENCE = "UPDATE mirror_copy SET token = $1, changed_at = clock_timestamp() WHERE token <= $1 RETURNING true"
MARK = "UPDATE mirror_copy SET seeded = $1, seeded_key = $2"
COLUMNS = """
SELECT attname, has_column_privilege(attrelid, attnum, 'UPDATE') AS changes FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
CHAINS = """
INSERT INTO institution_heads (institution_id, sequence, hash)
SELECT id, 0, $2 FROM unnest($1::text[]) AS n (id) ON CONFLICT (institution_id) DO NOTHING
"""
EPOCHS = "INSERT INTO epochs (epoch, scope, starts_after, reason, raised_at, nonce) VALUES ($1, $2, $3, $4, $5, $6)"
# The leases of this database are its own: their tokens begin anew.
FOLLOWERS = """
INSERT INTO followers (name, cursor, token, paused, updated_at) VALUES ($1, $2, 0, $3, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor, paused = excluded.paused, updated_at = excluded.updated_at
"""
PARKED = """
INSERT INTO parked_events (follower, global_sequence, reason, attempts, parked_at, retry)
VALUES ($1, $2, $3, $4, $5, $6)
"""
KEPT_PERSONAL = """
SELECT institution_id, event_id FROM personal_data
WHERE (event_id, institution_id) > ($1, $2) ORDER BY event_id, institution_id LIMIT $3
"""
SEALED_OWNERS = "SELECT DISTINCT institution_id FROM webhook_endpoints"
ERASE = "SELECT escrowgrid_erase_personal($1, $2, $3::text[])"
PARTITIONS = """
SELECT escrowgrid_make_audit_partitions(month, 0)
FROM (SELECT DISTINCT unnest($1::text[])::timestamptz AS month) months ORDER BY month
"""
# Of one position at most one delivery is ready: whichever was, gives way before the next one comes.
GIVE_WAY = """
UPDATE webhook_deliveries d SET next_attempt_at = NULL, claimed_until = NULL
FROM jsonb_populate_recordset(NULL::webhook_deliveries, $1::text::jsonb) n
WHERE d.institution_id = n.institution_id AND d.endpoint_id = n.endpoint_id AND d.position_id = n.position_id
  AND d.id <> n.id AND d.state = 'PENDING' AND d.next_attempt_at IS NOT NULL
  AND n.state = 'PENDING' AND n.next_attempt_at IS NOT NULL
"""

Columns: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]


class Broken(Exception):
    """The mirror's database cannot be reached, or refused; the message says which."""


class Copy:
    """One connection to the mirror's database, and where the copy stands."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self._columns: dict[str, Columns] = {}
        self._months: set[str] = set()
        self._is_news = False
        self.log_id = ""
        self.keeper = Keeper.SERVERS
        self.head = 0
        self.hash: bytes | None = None
        self.epoch, self.nonce = 0, ""
        self.grown: dict[str, tuple[str, ...]] = {}
        self.token = 0
        self.registration = ""
        self.seeded: tuple[str, ...] = ()
        self.seeded_key: tuple[str, ...] = ()

    @classmethod
    async def open(cls, url: str) -> "Copy":
        """Connect; raises `Broken`."""
        try:
            connection = await asyncpg.connect(
                url, timeout=CONNECT_SECONDS_MAX, command_timeout=COMMAND_SECONDS_MAX
            )
        except TROUBLES as error:
            raise Broken(
                f"the mirror's database cannot be reached: {error or type(error).__name__}"
            ) from None
        await exact_json(connection)
        return cls(connection)

    async def close(self) -> None:
        """End the connection, whatever its state."""
        self._connection.terminate()

    @property
    def is_closed(self) -> bool:
        """Whether the connection is of no more use."""
        return self._connection.is_closed()

    @asynccontextmanager
    async def as_role(self, role: DatabaseRole, scope: Iterable[str] = ()) -> AsyncIterator[Driver]:
        """One transaction; what the database refuses in it becomes `Broken`."""
        try:
            async with self._connection.transaction():
                await take_role(self._connection, role, scope)
                yield self._connection
        except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError) as error:
            raise Broken(f"the mirror's database: {error}; run `escrowgrid migrate` on it first") from None
        except TROUBLES as error:
            raise Broken(f"the mirror's database: {error or type(error).__name__}") from None

    @asynccontextmanager
    async def page(self, token: int, scope: Iterable[str] = ()) -> AsyncIterator[Driver]:
        """One transaction that brings the copy on, as its keeper. An older leader than the last one is refused."""
        async with self.as_role(DatabaseRole.WRITER, scope) as driver:
            if await keeper.take(driver) is not Keeper.MIRROR:
                raise NotACopy(
                    "the mirror was promoted: it goes on by itself, and must not be written to from here"
                )
            if not await driver.fetchval(FENCE, token):
                raise LeadLost("another process brings the mirror on")
            yield driver
        self._is_news = True

    async def revision(self) -> str:
        """At which revision its schema is."""
        async with self.as_role(DatabaseRole.FEED) as driver:
            found: str = await driver.fetchval(REVISION)
            return found

    async def look(self) -> None:
        """Read where the copy stands."""
        async with self.as_role(DatabaseRole.FEED) as driver:
            head = await driver.fetchrow(HEAD)
            assert head is not None, "a ledger has a head"
            self.log_id, self.keeper = head["log_id"], Keeper(head["written_by"])
            self.head, self.hash = head["global_sequence"], head["hash"]
            self.epoch, self.nonce = await epochs.newest(driver)
            for table in GROWING:
                last = await driver.fetchval(f"SELECT max({table.columns[0]})::text FROM {table.name}")
                self.grown[table.name] = () if last is None else (last,)
            state = await driver.fetchrow(STATE)
            if state is not None:
                self.token, self.registration = state["token"], state["registration"]
                self.seeded, self.seeded_key = tuple(state["seeded"]), tuple(state["seeded_key"])

    @property
    def is_seeded(self) -> bool:
        """Whether all that was there before the follower's registration is here."""
        return {table.name for table in SEEDED} <= set(self.seeded)

    async def become(self, log_id: str, registration: str, token: int) -> None:
        """Make an empty ledger the copy of another; raises `NotACopy` when it is not empty."""
        async with self.as_role(DatabaseRole.WRITER) as driver:
            found = await keeper.take(driver)
            await driver.execute("SET LOCAL ROLE escrowgrid_feed")
            is_empty = await driver.fetchval(IS_EMPTY)
            await driver.execute("SET LOCAL ROLE escrowgrid_writer")
            if found is not Keeper.SERVERS or not is_empty:
                raise NotACopy("MIRROR_URL names a database with another ledger in it: give it an empty one")
            await driver.execute(BECOME, log_id)
            await keeper.hand_to(driver, Keeper.MIRROR)
            await driver.execute(BEGIN, token, registration)
        await self.look()

    async def begin_anew(self, registration: str, token: int) -> None:
        """Nothing was noted since another registration ended: seed all again, without what may have been deleted."""
        async with self.as_role(DatabaseRole.FEED) as driver:
            owners = [row["institution_id"] for row in await driver.fetch(SEALED_OWNERS)]
        async with self.page(token, owners) as driver:
            for table in TABLES:
                if table.vanishing:
                    await driver.execute(f"DELETE FROM {table.name}")
            await driver.execute(ANEW, registration)
        await self.look()

    async def personal_after(self, key: Sequence[str], limit: int) -> list[tuple[str, ...]]:
        """Whose personal values are here, behind `key` (an event and its institution; none: the first)."""
        async with self.as_role(DatabaseRole.API, (ALL_INSTITUTIONS,)) as driver:
            rows = await driver.fetch(KEPT_PERSONAL, *(key or ("", "")), limit)
        return [(row["institution_id"], row["event_id"]) for row in rows]

    async def put(self, driver: Driver, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows, and bring those that are there up to date in what the writer's role may change."""
        text = f"[{','.join(row.text for row in rows)}]"
        names, changing = await self._columns_of(driver, table)
        if table is DELIVERIES:
            await driver.execute(GIVE_WAY, text)
        columns, order = ", ".join(names), f"ORDER BY {table.order}" if table.order else ""
        changes = ", ".join(f"{name} = excluded.{name}" for name in changing)
        there = "" if table.blind else f"({', '.join(table.columns)})"
        await driver.execute(
            f"INSERT INTO {table.name} ({columns}) "
            f"SELECT {columns} FROM jsonb_populate_recordset(NULL::{table.name}, $1::text::jsonb) {order} "
            f"ON CONFLICT {there} DO " + (f"UPDATE SET {changes}" if changes else "NOTHING"),
            text,
        )
        if table is INSTITUTIONS:
            await driver.execute(CHAINS, [row.key[0] for row in rows], GENESIS)

    async def make_room(self, rows: Sequence[Row]) -> None:
        """Partitions for the months of audit rows, the oldest ones too."""
        months = {row.key[0][:7] for row in rows} - self._months
        if months:
            async with self.as_role(DatabaseRole.WRITER) as driver:
                await driver.execute(PARTITIONS, [f"{month}-01 00:00:00+00" for month in months])
            self._months |= months

    async def remove(self, driver: Driver, table: Table, keys: Sequence[Sequence[str]]) -> None:
        """Delete rows that have gone."""
        equal = " AND ".join(f"{name} = ${place}" for place, name in enumerate(table.columns, start=1))
        await driver.executemany(f"DELETE FROM {table.name} WHERE {equal}", keys)

    async def erase(self, driver: Driver, key: Sequence[str], parts: Sequence[str]) -> None:
        """Erase personal values of one event; nothing happens where it is not here yet."""
        await driver.execute(ERASE, *key, list(parts))

    async def mark_seeded(self, driver: Driver, seeded: Sequence[str], key: Sequence[str]) -> None:
        """Remember, with the page that brought it there, how far the first copying has come."""
        await driver.execute(MARK, list(seeded), list(key))

    async def add_epochs(self, driver: Driver, found: Sequence[Values]) -> None:
        """Take over epochs as they are."""
        await driver.executemany(EPOCHS, found)

    def know_epochs(self, found: Sequence[Values]) -> None:
        """What was taken over is there."""
        if found:
            self.epoch, self.nonce = found[-1][0], found[-1][-1]

    async def set_followers(
        self, driver: Driver, cursors: Sequence[tuple[str, int, bool]], parked: Sequence[Values]
    ) -> None:
        """Have every follower go on from here as it would have there."""
        await driver.executemany(FOLLOWERS, cursors)
        await driver.execute("DELETE FROM parked_events")
        await driver.executemany(PARKED, parked)

    async def ring(self) -> None:
        """Wake the servers that read here, if something came since; losing it costs them a moment."""
        if self._is_news:
            self._is_news = False
            async with self.as_role(DatabaseRole.FEED) as driver:
                await driver.execute("SELECT pg_notify($1, 'mirror')", CHANNEL)

    async def _columns_of(self, driver: Driver, table: Table) -> Columns:
        """All columns that are not derived, and those that may change."""
        if table.name not in self._columns:
            rows = await driver.fetch(COLUMNS, table.name)
            names = tuple(row["attname"] for row in rows)
            self._columns[table.name] = names, tuple(row["attname"] for row in rows if row["changes"])
        return self._columns[table.name]
