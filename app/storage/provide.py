"""Gives the database that the settings name: a server of our own, or somebody's by its address."""

import asyncio
import hashlib
import hmac
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from app.settings import Settings, StoreBackend
from app.storage import embedded
from app.storage.database import Address
from app.storage.embedded import EmbeddedError, RunningCluster
from app.storage.migrate import grant, migrate
from app.storage.recovery import recovered

WATCH_SECONDS = 1.0
CONNECT_SECONDS_MAX = 10.0
DATABASE = "escrowgrid"
LOGIN = "escrowgrid_app"


class NoDatabaseUrlError(Exception):
    """STORE_BACKEND=postgres needs DATABASE_URL, such as postgresql://user:password@host:5432/escrowgrid."""

    def __str__(self) -> str:
        return self.__doc__ or ""


class Ended(EmbeddedError):
    """A server of ours ended while it was needed; the message says what to do."""


@contextmanager
def provide(settings: Settings, *, attach: bool = False) -> Iterator[Address]:
    """The database for as long as the block lasts; our own servers are stopped at its end.

    With `attach` a running embedded server is used as it is (for commands beside it).
    """
    if settings.store_backend is StoreBackend.POSTGRES:
        yield address_of(settings)
    elif settings.store_backend is StoreBackend.MEMORY:
        with embedded.memory() as running, _watched(running):
            yield prepare(running.admin_url)
    elif attach:
        with embedded.reach(settings.data_dir) as found:
            yield prepare(found.admin_url)
    else:
        with embedded.start(settings.data_dir, durable=True) as running, _watched(running):
            yield prepare(running.admin_url)


@contextmanager
def _watched(running: RunningCluster) -> Iterator[None]:
    """Ends the block, as Ctrl-C would, when the server ends by itself: nothing could be served without it."""
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(WATCH_SECONDS):
            if running.is_gone:
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=watch, name="database-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join()
        if running.is_gone:
            raise Ended(
                f"the database ended by itself; {running.cluster.log} says why. Start again: it recovers"
            )


def address_of(settings: Settings) -> Address:
    """The addresses that the settings spell out."""
    if settings.database_url is None:
        raise NoDatabaseUrlError
    direct, owner = settings.database_direct_url, settings.database_owner_url
    return Address.of(
        settings.database_url.get_secret_value(),
        direct.get_secret_value() if direct else None,
        owner.get_secret_value() if owner else None,
    )


def reach(address: Address) -> None:
    """Raise what went wrong when there is no database there: before a server starts, it is told in a line."""
    asyncio.run(_connect(address.direct_url))


async def _connect(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS_MAX)
    await connection.close()


def prepare(admin_url: str) -> Address:
    """Make the database of a server of ours on first use, with a login that can do no more than the app needs."""
    return asyncio.run(_prepare(admin_url))


async def _prepare(admin_url: str) -> Address:
    connection = await asyncpg.connect(admin_url)
    try:
        # As after a restore: it says that it is ready as soon as it can be read.
        await recovered(connection)
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close()
    owner_url = with_database(admin_url, DATABASE)
    password = _login_password(admin_url)
    await migrate(owner_url)
    await grant(owner_url, LOGIN, password)
    return Address.of(with_login(owner_url, LOGIN, password), owner_url=owner_url)


def with_database(url: str, database: str) -> str:
    """The same server's other database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{quote(database)}"))


def with_login(url: str, user: str, password: str) -> str:
    """The same database under another login."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user)}:{quote(password)}@{place}"))


def _login_password(admin_url: str) -> str:
    """Derived, so that every process that knows the superuser's password finds the same one."""
    secret = urlsplit(admin_url).password or ""
    return hmac.new(secret.encode(), LOGIN.encode(), hashlib.sha256).hexdigest()
