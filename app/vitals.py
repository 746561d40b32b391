"""What an operator wants to see at three in the morning, and where in the server it is found."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from app.audit import service as audit
from app.chain_vitals import Anchoring
from app.context import Services
from app.documents.service import TrustedDocuments
from app.engine.compiled import Plans
from app.http.vitals import Kind, Vital, Vitals
from app.ledger import steering
from app.ledger.bell import Bell
from app.ledger.steering import Standing, Unsigned
from app.limits.service import Quota
from app.mirror import service as mirror
from app.storage.database import Database, DatabaseRole, Driver

log = logging.getLogger("escrowgrid.http")

ASK_SECONDS_MAX = 2.0
KEPT_SECONDS = 2.0

GAUGE, COUNTER, HISTOGRAM = Kind.GAUGE, Kind.COUNTER, Kind.HISTOGRAM


def of(services: Services, bell: Bell, quota: Quota, documents: TrustedDocuments, plans: Plans) -> Vitals:
    """Everything there is to see of one process."""
    anchoring = Anchoring(services.clock) if services.settings.anchors else None
    ledger = Ledger(services.database, anchoring.ask if anchoring else None)
    vitals = (
        *_writer(services),
        *_feed(services, bell, ledger),
        *_followers(ledger),
        *_pools(services.database),
        *(anchoring.vitals() if anchoring else ()),
        Vital(COUNTER, "escrowgrid_plans_used", "Operations run by a compiled plan.", lambda: plans.used),
        Vital(COUNTER, "escrowgrid_plans_compiled", "Plans compiled.", lambda: plans.compiled),
        Vital(
            COUNTER,
            "escrowgrid_executor_fallbacks",
            "Operations that no plan could run: graphql-core ran them.",
            lambda: plans.fallbacks,
        ),
        Vital(
            GAUGE, "escrowgrid_audit_waiting", "Audit rows not written yet.", lambda: len(services.recorder)
        ),
        Vital(
            GAUGE,
            "escrowgrid_audit_default_rows",
            "Audit rows without a partition of their month, counted up to 10,000.",
            lambda: ledger.default_rows,
        ),
        Vital(
            COUNTER,
            "escrowgrid_audit_lost",
            "Audit rows of refusals that were lost: the queue was full, or they could never be written.",
            lambda: services.recorder.dropped,
        ),
        Vital(
            COUNTER,
            "escrowgrid_rate_leases",
            "Statements that leased from rate limits.",
            lambda: quota.leases,
        ),
        Vital(
            COUNTER,
            "escrowgrid_rate_lease_failures",
            "Leases that failed; for a second after one nothing is limited.",
            lambda: quota.failures,
        ),
        Vital(
            GAUGE, "escrowgrid_trusted_documents_kept", "Trusted documents in memory.", lambda: len(documents)
        ),
    )
    return Vitals(vitals, ledger.refresh)


def _writer(services: Services) -> Sequence[Vital]:
    writer = services.writer
    return (
        Vital(
            GAUGE, "escrowgrid_writer_queue", "Commands waiting for the ledger's writer.", lambda: len(writer)
        ),
        Vital(
            GAUGE,
            "escrowgrid_writer_stopped",
            "1 when the writer has stopped for good: see the log.",
            lambda: float(writer.has_stopped),
        ),
        Vital(HISTOGRAM, "escrowgrid_writer_batch_size", "Commands of a batch.", lambda: writer.sizes),
        Vital(
            HISTOGRAM,
            "escrowgrid_writer_batch_seconds",
            "How long a batch took, commit and all.",
            lambda: writer.seconds,
        ),
        Vital(
            HISTOGRAM,
            "escrowgrid_writer_wait_seconds",
            "How long commands waited for their batch.",
            lambda: writer.waits,
        ),
    )


def _feed(services: Services, bell: Bell, ledger: "Ledger") -> Sequence[Vital]:
    tail = services.tail
    return (
        Vital(GAUGE, "escrowgrid_ledger_head", "The last event of the ledger.", lambda: ledger.head),
        Vital(
            GAUGE, "escrowgrid_tail_position", "The last event this process has read.", lambda: tail.position
        ),
        Vital(
            GAUGE,
            "escrowgrid_tail_lag_events",
            "How many events this process has still to read.",
            lambda: max(ledger.head - tail.position, 0),
        ),
        Vital(
            GAUGE,
            "escrowgrid_tail_stopped",
            "1 when the feed has stopped for good: see the log.",
            lambda: float(tail.has_stopped),
        ),
        Vital(GAUGE, "escrowgrid_ring_bytes", "Memory for recent events.", lambda: tail.ring_bytes),
        Vital(COUNTER, "escrowgrid_bell_rebuilds", "How often the bell was made anew.", lambda: bell.rebuilt),
        Vital(
            GAUGE,
            "escrowgrid_checkpoint_age_seconds",
            "How long ago the head of the ledger was signed last.",
            lambda: ledger.unsigned.age_seconds,
        ),
        Vital(
            GAUGE,
            "escrowgrid_checkpoint_lag_events",
            "Events that no checkpoint covers.",
            lambda: ledger.unsigned.events,
        ),
        Vital(
            GAUGE,
            "escrowgrid_database_answers",
            "1 when the ledger's state could be read for this page.",
            lambda: float(ledger.answered),
        ),
    )


def _followers(ledger: "Ledger") -> Sequence[Vital]:
    return (
        Vital(
            GAUGE,
            "escrowgrid_follower_lag_events",
            "How many events a follower is behind.",
            ledger.each(lambda standing: standing.lag),
            "follower",
        ),
        Vital(
            GAUGE,
            "escrowgrid_follower_parked_events",
            "Events a follower has set aside.",
            ledger.each(lambda standing: standing.parked),
            "follower",
        ),
        Vital(
            GAUGE,
            "escrowgrid_follower_failing",
            "1 when a follower's last try failed.",
            ledger.each(lambda standing: float(standing.failure is not None)),
            "follower",
        ),
        Vital(
            GAUGE,
            "escrowgrid_follower_led",
            "1 when some process leads a follower.",
            ledger.each(lambda standing: float(standing.leader is not None)),
            "follower",
        ),
        Vital(
            GAUGE,
            "escrowgrid_mirror_waiting_changes",
            "Changes beside the events that wait to be copied to the mirror.",
            lambda: ledger.to_mirror,
        ),
    )


def _pools(database: Database) -> Sequence[Vital]:
    # The driver's pool knows these, its type does not.
    queries: Any = database.engine.pool
    roles = {"writer": DatabaseRole.WRITER, "feed": DatabaseRole.FEED}

    def in_use() -> Mapping[str, float]:
        pools = {name: database.pool(role) for name, role in roles.items()}
        others = {name: float(pool.get_size() - pool.get_idle_size()) for name, pool in pools.items()}
        return {"queries": float(queries.checkedout()), **others}

    def largest() -> Mapping[str, float]:
        others = {name: float(database.pool(role).get_max_size()) for name, role in roles.items()}
        return {"queries": float(queries.size()), **others}

    return (
        Vital(GAUGE, "escrowgrid_pool_in_use", "Database connections in use.", in_use, "pool"),
        Vital(GAUGE, "escrowgrid_pool_size_max", "Database connections there may be.", largest, "pool"),
        Vital(
            GAUGE,
            "escrowgrid_pool_waiting",
            "Queries waiting for a connection.",
            lambda: database.waiting,
        ),
    )


class Ledger:
    """What only the database knows: the head, its signature and the followers, asked for when somebody looks."""

    def __init__(self, database: Database, also: Callable[[Driver], Awaitable[None]] | None = None) -> None:
        self._database = database
        self._also = also
        self._turn = asyncio.Lock()
        self._until = 0.0
        self.standings: Sequence[Standing] = ()
        self.head = 0
        self.unsigned = Unsigned(0, 0.0)
        self.default_rows = 0
        self.to_mirror = 0
        self.answered = False

    def each(self, number: Callable[[Standing], float]) -> Callable[[], Mapping[str, float]]:
        """A number for each follower, by its name."""
        return lambda: {standing.name: number(standing) for standing in self.standings}

    async def refresh(self) -> None:
        """Ask, unless somebody just did; what cannot be asked stays as it was, and says so."""
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if now < self._until:
                return
            try:
                async with asyncio.timeout(ASK_SECONDS_MAX):
                    await self._ask()
                self.answered = True
            except Exception as error:  # noqa: BLE001 - what is watched must not take the watching down
                log.warning("the ledger's state cannot be read for the metrics: %r", error)
                self.answered = False
            self._until = asyncio.get_running_loop().time() + KEPT_SECONDS

    async def _ask(self) -> None:
        async with self._database.pool(DatabaseRole.FEED).acquire() as connection:
            self.standings = await steering.standings(connection)
            self.head = await steering.head(connection)
            self.unsigned = await steering.unsigned(connection)
            self.to_mirror = await mirror.waiting(connection)
            if self._also is not None:
                await self._also(connection)
            self.default_rows = await audit.default_rows(connection)
