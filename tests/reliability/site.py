"""A durable database and the server processes on it, as an operator runs them: each is killed and started at will."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx

from app.ledger.signer import SigningKeys, signer_from
from app.positions.escrow import BUILT_IN
from app.storage import embedded
from app.storage.database import Address
from app.storage.provide import prepare
from app.verify.findings import Report
from app.verify.walk import verify
from tests.reliability.processes import exists
from tests.reliability.relay import Relay
from tests.serving import ROOT, free_port, plain_environment

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 40
DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")
NOTHING: Mapping[str, str] = MappingProxyType({})
SERVER_SETTINGS = {
    "STORE_BACKEND": "postgres",
    "LOG_LEVEL": "WARNING",
    "CHECKPOINT_SECONDS": "1",
    "LEASE_SECONDS": "2",
    "TICK_SECONDS": "0.5",
}


class Nursery:
    """Where server processes come from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "tests.reliability.nursery"),
            cwd=ROOT,
            env=plain_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        self._told()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """A new process of `escrowgrid …`; returns its number."""
        wanted = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        assert self._process.stdin is not None, "it was opened with one"
        self._process.stdin.write(json.dumps(wanted) + "\n")
        return int(self._told())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and with it what it started."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None, "it was opened with both"
            stream.close()

    def _told(self) -> str:
        assert self._process.stdout is not None, "it was opened with one"
        return self._process.stdout.readline()


class Server:
    """One process of `escrowgrid serve`."""

    def __init__(
        self, nursery: Nursery, address: Address, root_key: str, folder: Path, settings: Mapping[str, str]
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / f"server-{port}.log"
        environment = {
            **plain_environment(),
            **SERVER_SETTINGS,
            "DATABASE_URL": address.url,
            "DATABASE_DIRECT_URL": address.direct_url,
            "DATA_DIR": str(folder / "keys"),
            "ROOT_API_KEY": root_key,
            **settings,
        }
        self.pid = nursery.start(("serve", "--port", str(port)), environment, self._log)

    @property
    def is_alive(self) -> bool:
        return exists(self.pid)

    async def ready(self) -> None:
        """Until it serves."""
        began = time.monotonic()
        async with httpx.AsyncClient(timeout=5) as client:
            while True:
                assert self.is_alive, f"the server ended:\n{self.said}"
                assert time.monotonic() - began < START_SECONDS_MAX, f"it was not ready in time:\n{self.said}"
                try:
                    if (await client.get(f"{self.url}/ready")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)

    async def stop(self) -> None:
        """As an operator stops it; killed when it does not heed."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while self.is_alive:
            if time.monotonic() > deadline:
                self.kill()
            await asyncio.sleep(0.02)

    @property
    def resident_bytes(self) -> int:
        """What it holds in memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    @property
    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-5_000:]


class Site:
    """The database, its servers, and whoever looks at both from outside."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder = folder
        self.root_key = f"egroot_{secrets.token_urlsafe(24)}"
        self.servers: list[Server] = []
        self.relay = Relay()
        self._nursery = nursery
        self._running = self._start()
        self._address: Address | None = None

    def _start(self) -> embedded.RunningCluster:
        return embedded.start(self.folder / "database", durable=True, settings={"max_connections": "400"})

    async def open(self) -> None:
        """Migrate, and make the login of the servers."""
        self._address = await asyncio.to_thread(prepare, self._running.admin_url)
        async with self.connected() as owner:
            for name in DURABILITY:
                assert await owner.fetchval("SELECT current_setting($1)", name) == "on", (
                    "crashes have to hurt"
                )
        await self.relay.open(self._running.port)

    def address(self, *, relayed: bool = False) -> Address:
        """Where the database is now; `relayed`, an address that stays the same when it is started again."""
        assert self._address is not None, "the site is open"
        port = self.relay.port if relayed else self._running.port
        urls = (self._address.url, self._address.direct_url, self._address.owner_url)
        return Address(*(_at(url, port) for url in urls))

    def start_server(self, *, relayed: bool = False, settings: Mapping[str, str] = NOTHING) -> Server:
        """A new server process, not ready yet."""
        address = self.address(relayed=relayed)
        server = Server(self._nursery, address, self.root_key, self.folder, settings)
        self.servers.append(server)
        return server

    async def serve(
        self, count: int = 1, *, relayed: bool = False, settings: Mapping[str, str] = NOTHING
    ) -> list[Server]:
        """New server processes that serve."""
        servers = [self.start_server(relayed=relayed, settings=settings) for _ in range(count)]
        await asyncio.gather(*(server.ready() for server in servers))
        return servers

    @asynccontextmanager
    async def serving(
        self, count: int = 1, *, relayed: bool = False, settings: Mapping[str, str] = NOTHING
    ) -> AsyncIterator[list[Server]]:
        """Server processes for the length of the block; whatever was started in it ends with it."""
        try:
            yield await self.serve(count, relayed=relayed, settings=settings)
        finally:
            await self.stop_servers()

    async def stop_servers(self) -> None:
        """All of them."""
        await asyncio.gather(*(server.stop() for server in self.servers))
        self.servers.clear()

    def crash_database(self) -> None:
        """`pg_ctl stop -m immediate`, and start again: it recovers, on another port."""
        self._running.kill()
        self._running = self._start()
        self.relay.lead_to(self._running.port)

    async def crash_backend(self) -> None:
        """kill -9 of one of the database's processes: all of its sessions end, and it recovers by itself."""
        async with self.connected() as owner:
            pid = await owner.fetchval("SELECT pg_backend_pid()")
            os.kill(pid, signal.SIGKILL)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        """As the superuser, who sees everything."""
        connection = await asyncpg.connect(self.address().owner_url, timeout=30)
        try:
            yield connection
        finally:
            connection.terminate()

    async def verify(self) -> Report:
        """What `escrowgrid verify` finds, run with the servers' own key."""
        key = signer_from(None, self.folder / "keys").public_key
        return await verify(self.address().direct_url, BUILT_IN, keys=SigningKeys(key))

    async def close(self) -> None:
        """End everything that was started."""
        await self.stop_servers()
        await self.relay.close()
        self._running.stop("immediate")


@asynccontextmanager
async def opened(nursery: Nursery) -> AsyncIterator[Site]:
    """A site in a folder of its own, gone at the end of the block."""
    folder = _folder()
    try:
        site = Site(folder, nursery)
        try:
            await site.open()
            yield site
        finally:
            await site.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    """Not pytest's own: the database's account has to pass through."""
    folder = Path(tempfile.mkdtemp(prefix="escrowgrid-reliability-"))
    folder.chmod(0o711)
    return folder


def _at(url: str, port: int) -> str:
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))
