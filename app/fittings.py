"""What the settings add to a server: keys, a bell, a replica, and the followers of the ledger."""

import random
import secrets
import sys
from datetime import timedelta
from functools import partial

from broadcaster import Broadcast
from pydantic import SecretStr

from app.context import Services
from app.errors import Invalid
from app.kit.spans import Tracer
from app.ledger.bell import PostgresBell, Topic
from app.ledger.followers import Follower
from app.ledger.remembered import LastSigned
from app.ledger.replica import Replica
from app.ledger.signer import Signer, signer_from
from app.ledger.tail import Tail
from app.mirror.worker import Mirror
from app.personal.masters import GivenMasters, Masters, masters_of
from app.settings import Settings, StoreBackend
from app.storage.database import Address, Database
from app.webhooks.post import Post
from app.webhooks.sending import Resolver, Sender
from app.webhooks.vault import Vault, vault_from
from app.webhooks.worker import Webhooks

# Of the keys that a ledger in memory makes for itself.
KEY_BYTES = 32


def webhooks(services: Services) -> Webhooks:
    """The follower that sends events to endpoints."""
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


def anchoring(services: Services) -> tuple[Follower, ...]:
    """The follower that anchors, where a chain is named."""
    settings = services.settings
    if not settings.anchors:
        if settings.chain_url is not None:
            raise Invalid(
                "CHAIN_URL alone anchors nothing: CHAIN_CONTRACT is missing (`escrowgrid anchor deploy`)"
            )
        return ()
    # Web3 is large and slow to load: a process that does not anchor does without. It also lets Python recurse until
    # the stack breaks, where a document that is nested too deeply has to be refused.
    limit = sys.getrecursionlimit()
    from app.anchoring.installed import anchoring as installed

    sys.setrecursionlimit(limit)
    tell = partial(services.tell, Topic.ANCHORS)
    return (installed(services.database, settings, services.clock, services.ids, tell),)


def mirror(services: Services) -> tuple[Mirror, ...]:
    """The follower that copies the ledger, where a mirror is named."""
    url = services.settings.mirror_url
    if url is None:
        return ()
    shared = (services.settings, services.lifecycles, services.holders)
    return (Mirror(services.database, url.get_secret_value(), *shared),)


def tracer(settings: Settings) -> Tracer | None:
    """Where operations are traced, if anywhere; what does it is not even loaded otherwise."""
    if settings.otel_exporter_otlp_endpoint is None:
        return None
    from app.tracing import OpenTelemetry

    return OpenTelemetry(settings.otel_exporter_otlp_endpoint)


def replica(settings: Settings, tail: Tail) -> Replica | None:
    """What answers queries that may be older, where a replica is named."""
    if settings.replica_url is None:
        return None
    database = Database(
        Address.of(settings.replica_url.get_secret_value()),
        pool_size_max=settings.pool_size_max,
        pool_timeout=settings.pool_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
    )
    return Replica(database, tail)


def vault(settings: Settings) -> Vault:
    """What seals the signing secrets of webhooks."""
    former = settings.webhook_key_former
    return vault_from(
        _key(settings.webhook_key, settings),
        settings.data_dir,
        None if former is None else former.get_secret_value(),
    )


def masters(settings: Settings) -> Masters:
    """The keys above the keys of personal data."""
    is_given = settings.personal_keys is not None or settings.personal_key_file is not None
    if settings.store_backend is StoreBackend.MEMORY and not is_given:
        return GivenMasters(secrets.token_hex(KEY_BYTES))
    return masters_of(settings)


def signer(settings: Settings) -> Signer:
    """What signs checkpoints."""
    return signer_from(_key(settings.checkpoint_key, settings), settings.data_dir)


def last_signed(settings: Settings) -> LastSigned:
    """What was signed last on this machine."""
    return LastSigned(None if settings.store_backend is StoreBackend.MEMORY else settings.data_dir)


def _key(key: SecretStr | None, settings: Settings) -> str | None:
    """The key of the settings; a ledger in memory has one that goes with it, and leaves no file behind."""
    if key is None and settings.store_backend is StoreBackend.MEMORY:
        return secrets.token_hex(KEY_BYTES)
    return None if key is None else key.get_secret_value()


def broadcast(settings: Settings, address: Address) -> Broadcast:
    """The bell."""
    url = settings.bell_url
    if url is None:
        return Broadcast(backend=PostgresBell(address.direct_url))
    told = url.get_secret_value()
    if told.startswith(("redis://", "rediss://")):
        from app.ledger.redis_bell import RedisBell

        return Broadcast(backend=RedisBell(told))
    return Broadcast(told)
