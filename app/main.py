"""Puts the parts together: the only place that knows them all."""

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette

from app import fittings, schema, vitals
from app.anchoring.news import News
from app.assets.cache import AssetCache
from app.audit.recorder import Recorder
from app.audit.watch import Watch
from app.audit.worker import Sealer
from app.context import Services
from app.documents.service import TrustedDocuments
from app.engine.compiled import Plans
from app.errors import Unavailable
from app.http import routes
from app.http.graphiql import DevelopmentKey
from app.identity.authenticator import KeysAndTokens
from app.kit.clock import Clock, system_clock
from app.kit.ids import Ids
from app.kit.tasks import begin, end
from app.ledger import epochs
from app.ledger.bell import Bell, Topic
from app.ledger.checkpoints import Checkpointer
from app.ledger.followers import Runner
from app.ledger.keeper import NOT_HERE, Keeper
from app.ledger.tail import Tail
from app.ledger.writer import Writer
from app.limits.service import Quota
from app.personal.service import Holders
from app.positions.escrow import BUILT_IN
from app.positions.rows import PositionRows
from app.positions.worker import Clerk
from app.settings import Settings
from app.storage.database import WRITER_CONNECTIONS_MAX, Address, Database
from app.webhooks.post import DATABASE_TURNS

log = logging.getLogger("escrowgrid")


@dataclass(frozen=True, slots=True)
class Parts:
    """One server process: what resolvers reach, and what runs beside them."""

    services: Services
    bell: Bell
    clerk: Clerk
    followers: tuple[Runner, ...]
    authenticator: KeysAndTokens
    sealer: Sealer
    quota: Quota
    documents: TrustedDocuments

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything started in order, and ended in the opposite one: accepted commands are finished."""
        services = self.services
        async with AsyncExitStack() as stack:
            keeps = await self._mind_epoch()
            await services.database.open()
            stack.push_async_callback(services.database.close)
            if services.replica is not None:
                stack.push_async_callback(services.replica.close)
            if services.tracer is not None:
                stack.push_async_callback(services.tracer.close)
            await services.holders.check(services.database, keeps=keeps)
            started: tuple[Any, ...] = (
                services.tail,
                self.bell,
                services.recorder,
                services.watch,
                services.anchor_news,
                *self.followers,
                services.writer,
                self.authenticator,
                self.clerk,
                self.sealer,
                self.quota,
                self.documents,
            )
            for part in started:
                if part in self._keeping and not keeps:
                    continue
                start = getattr(part, "start", None)
                if start is not None:
                    await start()
                stack.push_async_callback(part.close)
            yield

    @property
    def _keeping(self) -> tuple[Any, ...]:
        """What only runs where the ledger is kept, not on a mirror of it."""
        return (self.services.recorder, *self.followers, self.services.writer, self.clerk, self.sealer)

    async def _mind_epoch(self) -> bool:
        """Whether this server keeps the ledger; on a mirror it only reads."""
        kept_by, raised = await epochs.ensure(self.services.database.address.direct_url)
        if raised is not None:
            log.warning("this is another database than before, or a restored one: epoch %d begins", raised)
        if kept_by is Keeper.MIRROR:
            log.warning("this database is a mirror: queries and streams are served, writes are refused")
            self.services.writer.refuse(Unavailable(NOT_HERE))
            self.services.recorder.rest()
        return kept_by is Keeper.SERVERS

    async def ready(self) -> Mapping[str, bool]:
        """Whether requests can be served: each part by name."""
        services = self.services
        return {
            "database": await services.database.answers(),
            "tail": not services.tail.has_stopped,
            "writer": not services.writer.has_stopped,
        }


def assemble(
    settings: Settings, address: Address, *, clock: Clock = system_clock, ids: Ids | None = None
) -> Parts:
    """The parts of one process, not yet started."""
    ids, name = ids or Ids(clock), secrets.token_hex(6)
    database = Database(
        address,
        pool_size_max=settings.pool_size_max,
        pool_timeout=settings.pool_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
        # What delivers webhooks takes none of those that the ledger is written by.
        writers=WRITER_CONNECTIONS_MAX + DATABASE_TURNS,
        feeds=settings.catch_up_connections_max + 2,
    )
    tail = Tail(database, settings)
    watch = Watch(database, settings.tick_seconds)
    authenticator = KeysAndTokens.of(database, settings, clock)
    holders, anchor_news = Holders(fittings.masters(settings)), News(database, settings.tick_seconds)
    others = {
        Topic.AUDIT: watch.wake,
        Topic.KEYS: authenticator.forget,
        Topic.HOLDERS: holders.forget,
        Topic.ANCHORS: anchor_news.ring,
    }
    bell = Bell(lambda: fittings.broadcast(settings, address), tail.wake, name, others)
    tracer = fittings.tracer(settings)
    writer = Writer(
        database, PositionRows(BUILT_IN, holders), holders, settings, ids, clock, bell.ring, tracer
    )
    services = Services(
        settings=settings,
        clock=clock,
        ids=ids,
        database=database,
        writer=writer,
        tail=tail,
        recorder=Recorder(database, ids, clock, partial(bell.tell, Topic.AUDIT)),
        assets=AssetCache(),
        lifecycles=BUILT_IN,
        vault=fittings.vault(settings),
        holders=holders,
        watch=watch,
        anchor_news=anchor_news,
        tell=bell.tell,
        replica=fittings.replica(settings, tail),
        tracer=tracer,
    )
    signer = fittings.signer(settings)
    clerk = Clerk(database, writer, settings, BUILT_IN, ids, clock, name)
    followers = tuple(
        Runner(database, tail, settings, follower, name)
        for follower in (
            # The first is the last to stop: it copies also what the others leave behind.
            *fittings.mirror(services),
            Checkpointer(
                database, signer, clock, settings.checkpoint_seconds, fittings.last_signed(settings)
            ),
            fittings.webhooks(services),
            *fittings.anchoring(services),
        )
    )
    sealer = Sealer(
        database,
        signer,
        name,
        every_seconds=settings.audit_seal_seconds,
        delay_seconds=settings.audit_seal_delay_seconds,
    )
    quota, documents = Quota(database), TrustedDocuments(database)
    return Parts(services, bell, clerk, followers, authenticator, sealer, quota, documents)


def create_app(
    settings: Settings,
    address: Address,
    *,
    development_keys: Sequence[DevelopmentKey] = (),
    beside: Callable[[Services], Coroutine[None, None, None]] | None = None,
) -> Starlette:
    """The ASGI application; its lifespan starts and ends everything.

    `beside` runs for as long as the server does, such as the demo.
    """
    parts, plans = assemble(settings, address), Plans()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with parts.running():
            task = begin(beside(parts.services), "beside", over=lambda: True) if beside else None
            try:
                yield
            finally:
                await end(task)

    application = routes.build(
        parts.services,
        schema.build(settings, plans),
        parts.authenticator,
        parts.ready,
        development_keys,
        lifespan=lifespan,
        quota=parts.quota,
        documents=parts.documents,
        vitals=vitals.of(parts.services, parts.bell, parts.quota, parts.documents, plans),
    )
    parts.authenticator.listeners.append(application.state.live.look)
    return application
