"""Connections to PostgreSQL, each transaction in the role and tenant scope it needs and in no other."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import Overloaded, Unavailable
from app.kit.canonical import Json, canonical_json, stored_json
from app.storage.losses import (
    CONNECT_ATTEMPTS_MAX,
    CONNECT_PAUSE_SECONDS,
    CONNECTION_LOST,
    IN_DOUBT,
    UNDONE,
    is_lost,
    telling_loss,
)
from app.storage.statements import METER, Meter, watch
from app.storage.transactions import beginning, commit, rollback

log = logging.getLogger("escrowgrid.storage")

# Of a transaction of the ledger.
STATEMENT_SECONDS_MAX = 15.0
CONNECT_TIMEOUT_SECONDS = 10
CLOSE_SECONDS_MAX = 10.0
ANSWER_TIMEOUT_SECONDS = 3
WRITER_CONNECTIONS_MAX = 4
FEED_CONNECTIONS_MAX = 4
# Statements that SQLAlchemy keeps as it spelled them, about 20 KB each: it lets half as many more come before it
# forgets the ones used longest ago. And those that a connection keeps prepared, some 7 KB here and 30 KB there.
STATEMENTS_MAX = 500
PREPARED_MAX = 100

# Of queries: everything is seen at one instant.
SNAPSHOT = "ISOLATION LEVEL REPEATABLE READ READ ONLY"
IDLE_MAX = "30s"
BEGIN_SECONDS_MAX = 5.0
# A statement that the database should have ended by then: the wire between is silent, and the connection is given up.
GRACE_SECONDS = 5.0


# A connection of its own or one lent by a pool: they answer alike.
Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


class Named(Protocol):
    """Columns by name: a row of asyncpg, or `_mapping` of one of SQLAlchemy's."""

    def __getitem__(self, key: str, /) -> Any:
        """The column's value."""


class DatabaseRole(StrEnum):
    """The database roles of migrations/roles.sql; every transaction takes one of them."""

    OWNER = "escrowgrid_owner"
    API = "escrowgrid_api"
    WRITER = "escrowgrid_writer"
    FEED = "escrowgrid_feed"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the database is; the URLs hold passwords and are never shown."""

    url: str = field(repr=False)
    direct_url: str = field(repr=False)
    owner_url: str = field(repr=False)

    @classmethod
    def of(cls, url: str, direct_url: str | None = None, owner_url: str | None = None) -> "Address":
        """One URL serves for all, unless a pooler stands between or the owner logs in apart."""
        return cls(url, direct_url or url, owner_url or url)


class Database:
    """The pools of one process: queries and ordinary mutations through SQLAlchemy, ledger work through asyncpg."""

    def __init__(
        self,
        address: Address,
        *,
        pool_size_max: int,
        pool_timeout: float,
        statement_timeout: float,
        writers: int = WRITER_CONNECTIONS_MAX,
        feeds: int = FEED_CONNECTIONS_MAX,
    ) -> None:
        self._writers = writers
        self._feeds = feeds
        self.address = address
        self._statement_timeout = statement_timeout
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            pool_size=pool_size_max,
            max_overflow=0,
            pool_timeout=pool_timeout,
            query_cache_size=STATEMENTS_MAX,
            # Parameters may be personal values: an error that is logged must not carry them.
            hide_parameters=True,
            # Transactions are begun and ended by `_begun`, in fewer round trips.
            isolation_level="AUTOCOMMIT",
            json_serializer=canonical_json,
            json_deserializer=stored_json,
        )
        watch(self._engine)
        event.listen(self._engine.sync_engine, "checkout", _refuse_closed)
        self._pools: dict[DatabaseRole, asyncpg.Pool] = {}
        # How many wait for a connection for queries at this moment.
        self.waiting = 0

    @property
    def engine(self) -> AsyncEngine:
        """The SQLAlchemy engine, for whoever counts statements or connections."""
        return self._engine

    async def _connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            self.address.url,
            timeout=CONNECT_TIMEOUT_SECONDS,
            statement_cache_size=PREPARED_MAX,
            command_timeout=self._statement_timeout + GRACE_SECONDS,
        )

    async def open(self) -> None:
        """Open the ledger's pools; raises when the database cannot be reached."""
        self._pools[DatabaseRole.WRITER] = await _pool(self.address.url, self._writers)
        # Nothing of a tenant is set on the feed's connections, and no pooler stands between: the role may stay.
        self._pools[DatabaseRole.FEED] = await _pool(
            self.address.direct_url, self._feeds, {"role": DatabaseRole.FEED.value}
        )

    async def close(self) -> None:
        """Close every connection; one that is still at work after a while is cut."""
        for pool in self._pools.values():
            try:
                await asyncio.wait_for(pool.close(), timeout=CLOSE_SECONDS_MAX)
            except Exception as error:  # noqa: BLE001 - whatever it is: the others are to be closed, too
                log.warning("connections are cut off: %s: %s", type(error).__name__, error)
                pool.terminate()
        await self._engine.dispose()

    async def answers(self) -> bool:
        """Whether the database answers on the running pool."""
        try:
            await self._pools[DatabaseRole.FEED].fetchval("SELECT 1", timeout=ANSWER_TIMEOUT_SECONDS)
        except (*CONNECTION_LOST, asyncpg.PostgresError, KeyError):
            return False
        return True

    def pool(self, role: DatabaseRole) -> asyncpg.Pool:
        """The asyncpg pool for ledger work in that role; each transaction still has to take it (`take_role`)."""
        return self._pools[role]

    @asynccontextmanager
    async def reading(self, scope: str, meter: Meter | None = None) -> AsyncIterator[AsyncConnection]:
        """One consistent read-only snapshot of what `scope` may see, as the api role."""
        async with self._begun(DatabaseRole.API, scope, meter, SNAPSHOT) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self, scope: str, meter: Meter | None = None) -> AsyncIterator[AsyncConnection]:
        """One ordinary transaction of the writer role, committed at the end of the block."""
        async with self._begun(DatabaseRole.WRITER, scope, meter) as connection:
            yield connection
            with telling_loss(IN_DOUBT):
                await commit(await driver_of(connection))

    @asynccontextmanager
    async def _begun(
        self, role: DatabaseRole, scope: str, meter: Meter | None, mode: str = ""
    ) -> AsyncIterator[AsyncConnection]:
        settings = {
            "statement_timeout": f"{int(self._statement_timeout * 1000)}ms",
            "idle_in_transaction_session_timeout": IDLE_MAX,
        }
        connection = await self._started(beginning(role.value, (scope,), settings, mode))
        info = connection.info
        info[METER] = meter
        try:
            with telling_loss(UNDONE):
                yield connection
        finally:
            # Whoever has it next is not this operation. Shielded: a cancelled request still gives it back clean.
            info.pop(METER, None)
            await asyncio.shield(_give_back(connection))

    async def _started(self, begin: str) -> AsyncConnection:
        for attempt in range(CONNECT_ATTEMPTS_MAX):
            connection = self._engine.connect()
            try:
                self.waiting += 1
                try:
                    await connection.start()
                finally:
                    self.waiting -= 1
                await (await driver_of(connection)).execute(begin, timeout=BEGIN_SECONDS_MAX)
            except PoolTimeoutError:
                raise Overloaded("all database connections are in use; nothing was done, try again") from None
            except (*CONNECTION_LOST, InterfaceError, OperationalError, DBAPIError) as error:
                await _give_back(connection)
                if isinstance(error, DBAPIError) and not is_lost(error):
                    raise
                log.warning("database connection lost, attempt %d: %s", attempt + 1, type(error).__name__)
                await asyncio.sleep(CONNECT_PAUSE_SECONDS * 2**attempt)
            except BaseException:
                await asyncio.shield(_give_back(connection))
                raise
            else:
                return connection
        raise Unavailable("the database cannot be reached; nothing was done, try again shortly")


def _refuse_closed(connection: Any, _record: object, _proxy: object) -> None:
    """Where one is found closed the others are older than that, too: all are made anew."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


async def _give_back(connection: AsyncConnection) -> None:
    # One that was never started has nothing to give back, and says so when it is closed.
    if connection.sync_connection is None:
        return
    try:
        if not connection.invalidated:
            driver = await driver_of(connection)
            await rollback(driver)
            if driver.is_closed():
                await connection.invalidate()
        await connection.close()
    except DBAPIError as error:
        # There is nothing to end on one that is gone: whoever had it has been told, or has what it asked for.
        if not is_lost(error):
            raise
        log.warning("database connection lost at its end: %s", type(error).__name__)


async def driver_of(connection: AsyncConnection) -> Driver:
    """The driver's own connection beneath, in the same transaction."""
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None, "a connection in use has a driver"
    found: Driver = raw.driver_connection
    return found


async def take_role(
    connection: Driver, role: DatabaseRole, scope: Iterable[str], *, seconds: float = STATEMENT_SECONDS_MAX
) -> None:
    """For the rest of this transaction be `role`, within the institutions of `scope`; each statement has `seconds`."""
    await connection.execute(
        "SELECT set_config('role', $1, true), set_config('escrowgrid.scope', $2, true), "
        "set_config('statement_timeout', $3, true), "
        # A process that stops while it holds the head must not stop the others for long.
        "set_config('idle_in_transaction_session_timeout', '5s', true)",
        role.value,
        ",".join(scope),
        f"{int(seconds * 1000)}ms",
    )


async def _pool(url: str, size: int, settings: dict[str, str] | None = None) -> asyncpg.Pool:
    return await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        init=exact_json,
        reset=_nothing_to_reset,
        timeout=CONNECT_TIMEOUT_SECONDS,
        statement_cache_size=PREPARED_MAX,
        command_timeout=STATEMENT_SECONDS_MAX + GRACE_SECONDS,
        server_settings=settings or {},
    )


async def _nothing_to_reset(_connection: Driver) -> None:
    """Every setting was local to its transaction."""


async def exact_json(connection: Driver) -> None:
    """Have JSON come as exact values (fractions as Decimal) and go as its canonical text."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_dump, decoder=stored_json, format="text"
    )


def _dump(value: Json) -> str:
    return canonical_json(value)
