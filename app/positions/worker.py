"""The expiry clerk: sends the ordinary EXPIRED command for every position whose deadline has passed."""

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from app.errors import AppError, Refusal
from app.kit.clock import Clock
from app.kit.ids import Ids
from app.kit.tasks import begin, end
from app.ledger import leases
from app.ledger.writer import Writer
from app.positions import rows, service
from app.positions.lifecycle import Intent
from app.positions.model import State
from app.positions.service import Asker, Lifecycles, Move
from app.principal import CLERK
from app.settings import Settings
from app.storage.database import Database, DatabaseRole
from app.storage.losses import CONNECTION_LOST

log = logging.getLogger("escrowgrid.clerk")

LEASE = "expiry"
DUE_MAX = 500
UNDER_WAY_MAX = 1_000
# A position that was refused is not asked again for so long; nobody waits for it meanwhile.
REST_SECONDS = 60.0
RESTING_MAX = 100_000

# Where a page of due positions begins: behind a deadline and a position's id.
Place = tuple[datetime, str]
FIRST: Place = (datetime(1, 1, 1, tzinfo=UTC), "")


@dataclass(frozen=True, slots=True)
class Due:
    """A position whose deadline has passed."""

    institution_id: str
    position_id: str
    deadline: datetime


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
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._resting: dict[str, float] = {}

    async def start(self) -> None:
        """Begin to look."""
        self._task = begin(self._work(), "expiry-clerk")

    async def close(self) -> None:
        """Stop, and let another process take over at once."""
        if self._task is None:
            return
        await end(self._task)
        await end(*self._under_way.values())
        await leases.let_go(self._database, LEASE, self._name)

    async def _work(self) -> None:
        while True:
            try:
                if (
                    await leases.take(self._database, LEASE, self._name, self._settings.lease_seconds)
                    is not None
                ):
                    # Not waited for: one that somebody holds must not keep the others.
                    await self._begin_due()
            except CONNECTION_LOST as error:
                log.warning("the expiry clerk lost its connection: %s", type(error).__name__)
            except Exception:
                log.exception("the expiry clerk failed; it tries again")
            await asyncio.sleep(self._settings.expiry_tick_seconds)

    async def settle_due(self) -> int:
        """Expire what is due, and wait for it; returns how many were, also those that somebody else moved first."""
        begun = await self._begin_due()
        if self._under_way:
            await asyncio.wait(list(self._under_way.values()))
        return begun

    async def _begin_due(self) -> int:
        """Begin to expire all that is due, but what is under way and what was refused a while ago; returns how many."""
        now = asyncio.get_running_loop().time()
        self._resting = {one: until for one, until in self._resting.items() if until > now}
        begun, place, page = 0, FIRST, DUE_MAX
        while page == DUE_MAX:
            due = await self._due(place)
            page = len(due)
            for one in due:
                place = (one.deadline, one.position_id)
                if one.position_id in self._under_way or one.position_id in self._resting:
                    continue
                if len(self._under_way) >= UNDER_WAY_MAX:
                    await asyncio.wait(self._under_way.values(), return_when=asyncio.FIRST_COMPLETED)
                self._begin(one)
                begun += 1
        return begun

    def _begin(self, due: Due) -> None:
        task = begin(self._expire(due), "expiry", over=lambda: True)
        self._under_way[due.position_id] = task
        task.add_done_callback(lambda _done: self._under_way.pop(due.position_id, None))

    async def _due(self, after: Place) -> list[Due]:
        pool = self._database.pool(DatabaseRole.FEED)
        return [
            Due(row["institution_id"], row["id"], row["expires_at"])
            for row in await pool.fetch(rows.DUE, self._clock(), DUE_MAX, *after)
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
            self._rest(due)
        except AppError as error:
            log.warning("position %s is tried again: %s", due.position_id, error.code)
        except CONNECTION_LOST as error:
            log.warning("position %s is tried again: %s", due.position_id, type(error).__name__)
        except Exception:
            # The edge of this task: one that breaks whatever it meets must not do so all the time.
            log.exception("position %s cannot expire", due.position_id)
            self._rest(due)

    def _rest(self, due: Due) -> None:
        if len(self._resting) < RESTING_MAX:
            self._resting[due.position_id] = asyncio.get_running_loop().time() + REST_SECONDS
