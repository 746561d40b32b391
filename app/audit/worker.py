"""Seals the audit, beside everything else: one process at a time, under a lease and no other lock."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

from app.audit.seals import ROW_COLUMNS, SEAL_COLUMNS, Place, Row, Seal, next_seal, seal_of
from app.kit.chain import GENESIS
from app.kit.tasks import begin, end
from app.ledger import leases
from app.ledger.followers import LeadLost
from app.ledger.leases import Lease
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database, DatabaseRole, Driver, take_role
from app.storage.losses import CONNECTION_LOST

log = logging.getLogger("escrowgrid.audit")

LEASE = "audit-seals"
LEASE_SECONDS_MIN = 15.0
SEAL_ROWS_MAX = 500
SEALS_AT_ONCE_MAX = 100
# No transaction that writes the audit is open for longer: what arrived before, and is not seen, never comes.
TRANSACTION_SECONDS_MAX = 300.0
# A row may arrive between the time that its seal names and the moment it is read.
SLACK = timedelta(seconds=60)
BEFORE_ALL: Place = (datetime(1, 1, 1, tzinfo=UTC), "")

NOW = "SELECT clock_timestamp()"
NEWEST = f"SELECT {', '.join(SEAL_COLUMNS)} FROM audit_seals ORDER BY number DESC LIMIT 1"
SEALED_UP_TO = "SELECT ends_at, ends_id FROM audit_seals WHERE NOT late ORDER BY number DESC LIMIT 1"
SEALED_SINCE = "SELECT unnest(ids) AS id FROM audit_seals WHERE sealed_at >= $1"
DUE = f"""
SELECT {", ".join(ROW_COLUMNS)} FROM audit_events
WHERE (occurred_at, id) > ($1, $2) AND occurred_at < $3 ORDER BY occurred_at, id LIMIT $4
"""
CAME_SINCE = """
SELECT occurred_at, id FROM audit_events WHERE arrived_at >= $1 AND (occurred_at, id) <= ($2, $3)
ORDER BY occurred_at, id
"""
NAMED = f"""
SELECT {", ".join(ROW_COLUMNS)} FROM audit_events
WHERE occurred_at = ANY ($1::timestamptz[]) AND id = ANY ($2::text[]) ORDER BY occurred_at, id
"""
INSERT = f"""
INSERT INTO audit_seals ({", ".join(SEAL_COLUMNS)})
VALUES ($1, $2, $3, $4, $5, $6, $7::text[], $8::bytea[], $9, $10, $11, $12, $13, $14)
"""


class Signs(Protocol):
    """Whoever signs for this installation."""

    public_key: bytes

    def sign(self, content: bytes) -> bytes:
        """A signature of 64 bytes."""


class Sealer:
    """One per process, of which one at a time seals."""

    def __init__(
        self, database: Database, signer: Signs, holder: str, *, every_seconds: float, delay_seconds: float
    ) -> None:
        self._database = database
        self._signer = signer
        self._holder = holder
        self._every = every_seconds
        self._delay = timedelta(seconds=delay_seconds)
        self._task: asyncio.Task[None] | None = None
        self._caught_up_to: datetime | None = None

    async def start(self) -> None:
        """Begin to try for the lease."""
        self._task = begin(self._work(), "audit-sealer")

    async def close(self) -> None:
        """Stop, and let another process seal at once."""
        if self._task is None:
            return
        await end(self._task)
        await leases.let_go(self._database, LEASE, self._holder)

    async def _work(self) -> None:
        while True:
            try:
                await self.seal()
            except LeadLost as error:
                log.warning("the audit's sealer: %s", error)
            except CONNECTION_LOST as error:
                log.warning("the audit's sealer lost its connection: %s", type(error).__name__)
            except Exception:
                # The edge of this task: it goes on for as long as the process.
                log.exception("the audit could not be sealed, trying again")
            await asyncio.sleep(self._every)

    async def seal(self) -> int:
        """Seal what is due; returns how many rows were. None are while another process holds the lease."""
        sealed, due = 0, True
        while due and (lease := await self._lead()) is not None:
            sealed += await self._seal_late(lease)
            more = await self._seal_due(lease)
            sealed, due = sealed + more, more > 0
        return sealed

    async def _lead(self) -> Lease | None:
        return await leases.take(self._database, LEASE, self._holder, max(LEASE_SECONDS_MIN, 3 * self._every))

    async def _seal_late(self, lease: Lease) -> int:
        """Rows that came behind what was sealed by then; what is looked for begins where it ended last time."""
        newest, sealed_up_to = await self._standing()
        if newest is None or sealed_up_to is None:
            return 0
        since = newest.caught_up_to - timedelta(seconds=TRANSACTION_SECONDS_MAX)
        async with self._as(DatabaseRole.API) as driver:
            self._caught_up_to = await driver.fetchval(NOW)
            came = await driver.fetch(CAME_SINCE, since, *sealed_up_to)
        async with self._as(DatabaseRole.WRITER) as driver:
            sealed = {row["id"] for row in await driver.fetch(SEALED_SINCE, since - SLACK)} if came else set()
        missed = [row for row in came if row["id"] not in sealed]
        for start in range(0, len(missed), SEAL_ROWS_MAX):
            some = missed[start : start + SEAL_ROWS_MAX]
            async with self._as(DatabaseRole.API) as driver:
                now = await driver.fetchval(NOW)
                rows = await driver.fetch(
                    NAMED, [row["occurred_at"] for row in some], [row["id"] for row in some]
                )
            log.warning("%d audit rows came after their time was sealed", len(rows))
            made = next_seal(
                newest, list(map(Row.of, rows)), late=True, sealed_at=now, caught_up_to=newest.caught_up_to
            )
            newest = await self._insert(lease, made)
        return len(missed)

    async def _seal_due(self, lease: Lease) -> int:
        """The next rows in the order of time, a bounded number of them."""
        sealed = 0
        for _ in range(SEALS_AT_ONCE_MAX):
            newest, sealed_up_to = await self._standing()
            async with self._as(DatabaseRole.API) as driver:
                now = await driver.fetchval(NOW)
                rows = await driver.fetch(
                    DUE, *(sealed_up_to or BEFORE_ALL), now - self._delay, SEAL_ROWS_MAX
                )
            if rows:
                caught_up_to = self._caught_up_to or now
                made = next_seal(
                    newest, list(map(Row.of, rows)), late=False, sealed_at=now, caught_up_to=caught_up_to
                )
                await self._insert(lease, made)
                sealed += len(rows)
            if len(rows) < SEAL_ROWS_MAX:
                break
        return sealed

    async def _standing(self) -> tuple[Seal | None, Place | None]:
        """The newest seal, and up to where in time everything is sealed."""
        async with self._as(DatabaseRole.WRITER) as driver:
            newest = await _newest(driver)
            regular = await driver.fetchrow(SEALED_UP_TO)
        return newest, None if regular is None else (regular["ends_at"], regular["ends_id"])

    async def _insert(self, lease: Lease, seal: Seal) -> Seal:
        """Write a seal, unless somebody else has led meanwhile."""
        async with self._as(DatabaseRole.WRITER) as driver:
            held, newest = await leases.holds(driver, lease), await _newest(driver)
            if not held or (newest.hash if newest else GENESIS) != seal.previous_hash:
                raise LeadLost("another process seals now")
            await driver.execute(
                INSERT,
                seal.number,
                seal.late,
                *seal.start,
                *seal.end,
                seal.ids,
                seal.hashes,
                seal.sealed_at,
                seal.caught_up_to,
                seal.previous_hash,
                seal.hash,
                self._signer.public_key,
                self._signer.sign(seal.statement),
            )
        return seal

    @asynccontextmanager
    async def _as(self, role: DatabaseRole) -> AsyncIterator[Driver]:
        """A transaction of its own in that role, over all institutions."""
        async with self._database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
            await take_role(driver, role, (ALL_INSTITUTIONS,))
            yield driver


async def _newest(driver: Driver) -> Seal | None:
    found = await driver.fetchrow(NEWEST)
    return None if found is None else seal_of(found)
