"""Puts the parts together: the only place that knows them all."""

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from broadcaster import Broadcast
from pydantic import SecretStr
from starlette.applications import Starlette

from app import schema, vitals
from app.anchoring.news import News
from app.assets.service import AssetCache
from app.audit.recorder import Recorder
from app.audit.watch import Watch
from app.audit.worker import Sealer
from app.context import Services
from app.documents.service import TrustedDocuments
from app.engine.compiled import Plans
from app.errors import Invalid, Unavailable
from app.http import routes
from app.http.graphiql import DevelopmentKey
from app.identity.authenticator import KeysAndTokens
from app.kit.clock import Clock, system_clock
from app.kit.ids import Ids
from app.ledger import epochs
from app.ledger.bell import Bell, PostgresBell, Topic
from app.ledger.checkpoints import Checkpointer, Signer, signer_from
from app.ledger.followers import Follower, Runner
from app.ledger.keeper import NOT_HERE, Keeper
from app.ledger.remembered import LastSigned
from app.ledger.replica import Replica
from app.ledger.tail import Tail
from app.ledger.writer import Writer
from app.limits.service import Quota
from app.mirror.worker import Mirror
from app.personal.masters import masters_of
from app.personal.service import Holders
from app.positions.escrow import BUILT_IN
from app.positions.rows import PositionRows
from app.positions.worker import Clerk
from app.settings import Settings, StoreBackend
from app.storage.database import WRITER_CONNECTIONS_MAX, Address, Database
from app.webhooks.post import DATABASE_TURNS, Post
from app.webhooks.sending import Resolver, Sender
from app.webhooks.vault import Vault, vault_from
from app.webhooks.worker import Webhooks

log = logging.getLogger("escrowgrid")

# Of the keys that a ledger in memory makes for itself.
KEY_BYTES = 32


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
        return {"database": await services.database.answers(), "tail": services.tail.failure is None}


def assemble(
    settings: Settings, address: Address, *, clock: Clock = system_clock, ids: Ids | None = None
) -> Parts:
    """The parts of one process, not yet started."""
    ids = ids or Ids(clock)
    name = f"{secrets.token_hex(6)}"
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
    holders, anchor_news = Holders(masters_of(settings)), News(database, settings.tick_seconds)
    others = {
        Topic.AUDIT: watch.wake,
        Topic.KEYS: authenticator.forget,
        Topic.HOLDERS: holders.forget,
        Topic.ANCHORS: anchor_news.ring,
    }
    bell = Bell(lambda: _broadcast(settings, address), tail.wake, name, others)
    writer = Writer(database, PositionRows(BUILT_IN, holders), holders, settings, ids, clock, bell.ring)
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
        vault=_vault(settings),
        holders=holders,
        watch=watch,
        anchor_news=anchor_news,
        tell=bell.tell,
        replica=_replica(settings, tail),
    )
    signer = _signer(settings)
    clerk = Clerk(database, writer, settings, BUILT_IN, ids, clock, name)
    followers = tuple(
        Runner(database, tail, settings, follower, name)
        for follower in (
            # The first is the last to stop: it copies also what the others leave behind.
            *_mirror(services),
            Checkpointer(database, signer, clock, settings.checkpoint_seconds, _last_signed(settings)),
            _webhooks(services),
            *_anchoring(services),
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


def _webhooks(services: Services) -> Webhooks:
    sender = Sender(Resolver(), private=services.settings.webhook_allow_private)
    post = Post(
        services.database,
        services.tail,
        services.clock,
        services.ids,
        services.vault,
        sender,
        random.random,
        timedelta(days=services.settings.webhook_delivery_days),
    )
    return Webhooks(post, services.settings.tick_seconds)


def _anchoring(services: Services) -> tuple[Follower, ...]:
    settings = services.settings
    if not settings.anchors:
        if settings.chain_url is not None:
            raise Invalid(
                "CHAIN_URL alone anchors nothing: CHAIN_CONTRACT is missing (`escrowgrid anchor deploy`)"
            )
        return ()
    # Web3 is large and slow to load: a process that does not anchor does without.
    from app.anchoring.installed import anchoring

    tell = partial(services.tell, Topic.ANCHORS)
    return (anchoring(services.database, settings, services.clock, services.ids, tell),)


def _mirror(services: Services) -> tuple[Mirror, ...]:
    url = services.settings.mirror_url
    if url is None:
        return ()
    shared = (services.settings, services.lifecycles, services.holders)
    return (Mirror(services.database, url.get_secret_value(), *shared),)


def _replica(settings: Settings, tail: Tail) -> Replica | None:
    if settings.replica_url is None:
        return None
    database = Database(
        Address.of(settings.replica_url.get_secret_value()),
        pool_size_max=settings.pool_size_max,
        pool_timeout=settings.pool_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
    )
    return Replica(database, tail)


def _vault(settings: Settings) -> Vault:
    former = settings.webhook_key_former
    return vault_from(
        _key(settings.webhook_key, settings),
        settings.data_dir,
        None if former is None else former.get_secret_value(),
    )


def _signer(settings: Settings) -> Signer:
    return signer_from(_key(settings.checkpoint_key, settings), settings.data_dir)


def _last_signed(settings: Settings) -> LastSigned:
    return LastSigned(None if settings.store_backend is StoreBackend.MEMORY else settings.data_dir)


def _key(key: SecretStr | None, settings: Settings) -> str | None:
    """The key of the settings; a ledger in memory has one that goes with it, and leaves no file behind."""
    if key is None and settings.store_backend is StoreBackend.MEMORY:
        return secrets.token_hex(KEY_BYTES)
    return None if key is None else key.get_secret_value()


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
            task = asyncio.create_task(beside(parts.services), name="beside") if beside else None
            try:
                yield
            finally:
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    return routes.build(
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


def _broadcast(settings: Settings, address: Address) -> Broadcast:
    url = settings.bell_url
    if url is None:
        return Broadcast(backend=PostgresBell(address.direct_url))
    return Broadcast(url.get_secret_value())
