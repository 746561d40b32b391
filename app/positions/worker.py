"""The expiry clerk: sends the ordinary EXPIRED command for every position whose deadline has passed."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from app.errors import AppError, Refusal
from app.kit.clock import Clock
from app.kit.ids import Ids
from app.kit.tasks import end
from app.ledger import leases
from app.ledger.writer import Writer
from app.positions import rows, service
from app.positions.lifecycle import Intent
from app.positions.model import State
from app.positions.service import Asker, Lifecycles, Move
from app.principal import CLERK
from app.settings import Settings
from app.storage.database import CONNECTION_LOST, Database, DatabaseRole

log = logging.getLogger("escrowgrid.clerk")

LEASE = "expiry"
DUE_MAX = 500


@dataclass(frozen=True, slots=True)
class Due:
    """A position whose deadline has passed."""

    institution_id: str
    position_id: str


class Clerk:
    """One of all processes at a time works, the one with the lease; what it cannot settle it meets again."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        settings: Settings,
        lifecycles: Lifecycles,
        ids: Ids,
        clock: Clock,
        name: str,
    ) -> None:
        self._database = database
        self._writer = writer
        self._settings = settings
        self._lifecycles = lifecycles
        self._ids = ids
        self._clock = clock
        self._name = name
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._work(), name="expiry-clerk")

    async def close(self) -> None:
        """Stop, and let another process take over at once."""
        if self._task is None:
            return
        await end(self._task)
        with suppress(*CONNECTION_LOST):
            await leases.give_up(self._database, LEASE, self._name)

    async def _work(self) -> None:
        while True:
            settled = 0
            try:
                if (
                    await leases.take(self._database, LEASE, self._name, self._settings.lease_seconds)
                    is not None
                ):
                    settled = await self.settle_due()
            except CONNECTION_LOST as error:
                log.warning("the expiry clerk lost its connection: %s", type(error).__name__)
            except Exception:
                log.exception("the expiry clerk failed; it tries again")
            if settled < DUE_MAX:
                await asyncio.sleep(self._settings.expiry_tick_seconds)

    async def settle_due(self) -> int:
        """Expire a batch of what is due; returns how many were, also those that somebody else moved first."""
        due = await self._due()
        await asyncio.gather(*(self._expire(item) for item in due))
        return len(due)

    async def _due(self) -> list[Due]:
        pool = self._database.pool(DatabaseRole.FEED)
        return [
            Due(row["institution_id"], row["id"])
            for row in await pool.fetch(rows.DUE, self._clock(), DUE_MAX)
        ]

    async def _expire(self, due: Due) -> None:
        asker = Asker(CLERK, self._ids.new("req"), self._clock(), self._ids, self._lifecycles)
        intent = Intent(state=State.EXPIRED, by_timer=True)
        # Keyed by the position: however often and by however many it is sent, it acts once.
        move = Move("expire", due.position_id, intent, idempotency_key=f"expiry:{due.position_id}")
        try:
            await self._writer.submit(service.move(asker, move, due.institution_id))
        except Refusal as refusal:
            log.info("position %s did not expire: %s", due.position_id, refusal.code)
        except AppError as error:
            log.warning("position %s is tried again: %s", due.position_id, error.code)
