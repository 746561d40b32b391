"""A PostgreSQL of its own with a WAL archive, base backups of it, and restores to a point in time."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from app.main import Parts, assemble
from app.settings import Settings, StoreBackend
from app.storage import embedded
from app.storage.database import Address
from app.storage.embedded import RunningCluster
from app.storage.provide import LOGIN, _login_password, prepare, with_login
from tests.conftest import eventually

LEDGER = "escrowgrid"


@dataclass(frozen=True)
class Site:
    """Where the clusters, the archive and the backups of one disaster lie."""

    folder: Path

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    def archiving(self) -> dict[str, str]:
        """What docs/operations.md has the operator set."""
        return {
            "wal_level": "replica",
            "archive_mode": "on",
            # A file is there wholly or not at all.
            "archive_command": f"test ! -f {self.archive}/%f && cp %p {self.archive}/%f.part "
            f"&& mv {self.archive}/%f.part {self.archive}/%f",
            "max_wal_senders": "4",
        }

    def restoring(self, **target: str) -> dict[str, str]:
        """And what for a restore."""
        return {
            "restore_command": f"cp {self.archive}/%f %p",
            "recovery_target_action": "promote",
            **{f"recovery_target_{name}": value for name, value in target.items()},
        }


def lend(path: Path, like: Path) -> None:
    """Everything below belongs to whom `like` belongs to."""
    owner = like.stat()
    for one in (path, *path.rglob("*")):
        os.chown(one, owner.st_uid, owner.st_gid)


def base_backup(running: RunningCluster, into: Path, *options: str) -> None:
    """`pg_basebackup`, as docs/operations.md has it."""
    into.mkdir(mode=0o711)
    place = urlsplit(running.admin_url)
    subprocess.run(
        [
            running.bin_dir / "pg_basebackup",
            f"--pgdata={into / 'data'}",
            "--host=127.0.0.1",
            f"--port={running.port}",
            "--username=postgres",
            "--checkpoint=fast",
            *options,
        ],
        env={"PGPASSWORD": place.password or "", "PATH": os.defpath},
        check=True,
        capture_output=True,
    )
    # The embedded server's password, beside its data.
    shutil.copy(running.cluster.folder / "postgres.json", into / "postgres.json")
    lend(into / "data", running.cluster.data)


@pytest.fixture
def site() -> Iterator[Site]:
    """A folder that the embedded server's account reaches."""
    with TemporaryDirectory(prefix="escrowgrid-restore-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)
        yield Site(folder)


@dataclass
class Ledger:
    """A cluster with the ledger in it."""

    running: RunningCluster
    address: Address

    async def ask(self, query: str, *arguments: object) -> object:
        """One value, as the superuser."""
        connection = await asyncpg.connect(self.address.owner_url)
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()


@contextmanager
def begun(folder: Path, settings: dict[str, str]) -> Iterator[RunningCluster]:
    running = embedded.start(folder, durable=True, settings=settings)
    try:
        yield running
    finally:
        running.stop("immediate")


@asynccontextmanager
async def ledger(
    site: Site, name: str = "first", settings: dict[str, str] | None = None
) -> AsyncIterator[Ledger]:
    """The embedded server of that folder, ready for servers of ours."""
    with begun(site.folder / name, site.archiving() if settings is None else settings) as running:
        if not site.archive.exists():
            site.archive.mkdir()
            lend(site.archive, running.cluster.data)
        yield Ledger(running, await asyncio.to_thread(prepare, running.admin_url))


@asynccontextmanager
async def restored(site: Site, backup: str, **target: str) -> AsyncIterator[Ledger]:
    """The backup, brought to the target from the archive; nothing of ours has touched it yet."""
    data = site.folder / backup / "data"
    (data / "recovery.signal").touch()
    lend(data, data)
    with begun(site.folder / backup, site.restoring(**target)) as running:
        url = running.admin_url.rpartition("/")[0] + f"/{LEDGER}"
        found = Ledger(running, Address.of(_login(url), owner_url=url))

        async def writable() -> bool:
            return not await found.ask("SELECT pg_is_in_recovery()")

        await eventually(writable, seconds=30)
        yield found


def _login(url: str) -> str:
    return with_login(url, LOGIN, _login_password(url))


async def archived(found: Ledger, site: Site) -> None:
    """Waits until everything written so far is in the archive."""
    last = await found.ask("SELECT pg_walfile_name(pg_switch_wal())")

    async def kept() -> bool:
        return (site.archive / str(last)).exists()

    await eventually(kept, seconds=20)


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Impatient, with a key of its own for checkpoints."""
    changes = {"checkpoint_seconds": 0.1, "data_dir": tmp_path, "lease_seconds": 1.5, "tick_seconds": 0.1}
    return settings.model_copy(update=changes)


Serve = Callable[..., object]


@pytest.fixture
def serve(settings: Settings) -> Serve:
    """A server of ours on that ledger for the length of the block."""

    @asynccontextmanager
    async def run(address: Address) -> AsyncIterator[Parts]:
        made = assemble(settings, address)
        async with made.running():
            yield made

    return run


@pytest.fixture
def operators(settings: Settings) -> Callable[[Address], Settings]:
    """The settings of somebody at a terminal."""

    def of(address: Address) -> Settings:
        changes = {"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
        return settings.model_copy(update=changes)

    return of
