"""Makes the private cluster of a folder and brings its server up until it takes connections."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from app.storage import account, cluster
from app.storage.account import Account
from app.storage.cluster import Cluster, Held, NotStarted, State, Unusable

INITDB_SECONDS_MAX = 120
# A recovering server writes to its log every ten seconds, so a long recovery is waited for.
SILENCE_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
QUIT_SECONDS_MAX = 15
OWN_FORMER_SECONDS_MAX = 60
OTHER_FORMER_SECONDS_MAX = 5
PASSING_SECONDS_MAX = 60
PAUSE_SECONDS = 0.25
POLL_SECONDS = 0.01
LOG_BYTES_MAX = 1 << 20
LOG_LINES_TOLD = 20
# A port that somebody took meanwhile; backends of a killed server that finish their query first.
PASSING_TROUBLES = ("could not create any TCP/IP sockets", "is still in use")
OURS = frozenset({"listen_addresses", "port", "unix_socket_directories", "data_directory", "hba_file"})
DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "max_connections": "200",
        "shared_buffers": "256MB",
        "max_wal_size": "2GB",
        "min_wal_size": "128MB",
        "log_min_messages": "warning",
        "log_min_error_statement": "panic",  # a failing statement may carry a secret or a tenant's data
        "log_line_prefix": "%m [%p] ",
        "lc_messages": "C",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "jit": "off",
    }
)
Mode = Literal["smart", "fast", "immediate"]
SIGNALS: Mapping[Mode, signal.Signals] = MappingProxyType(
    {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
)


def launch(
    folder: Path, *, durable: bool, settings: Mapping[str, str]
) -> tuple[Cluster, subprocess.Popen[bytes]]:
    """The ready server of a folder that the caller holds; where it fails, nothing is left running."""
    assert threading.current_thread() is threading.main_thread(), "a server ends with its thread"
    assert not OURS & settings.keys(), "where a server listens and keeps its data is not a setting"
    data, state = cluster.data_directory(folder), cluster.remembered(folder)
    if state is None:
        if data.exists():
            raise Unusable(f"{folder / 'postgres.json'} with the password is gone: restore it from a backup")
        state = State(password=secrets.token_hex(24))
    runner = account.account_for(folder)
    _await_former(folder, state)
    for abandoned in folder.glob("making-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    if not data.exists():
        _make(folder, runner, state, durable=durable)
    runner.own(data)
    _bound_log(cluster.log_file(folder))
    chosen = {**SETTINGS, **dict.fromkeys(DURABILITY, "on" if durable else "off"), **settings}
    began = time.monotonic()
    while True:
        process, port, said = _serve(folder, runner, state, chosen)
        if process is not None:
            return Cluster(folder=folder, port=port, pid=process.pid, admin_url=state.url(port)), process
        passing = any(trouble in said for trouble in PASSING_TROUBLES)
        if not passing or time.monotonic() - began > PASSING_SECONDS_MAX:
            break
        time.sleep(PAUSE_SECONDS)
    raise NotStarted(f"PostgreSQL in {folder} did not start; its last words:\n{_last_lines(said)}")


def end(process: subprocess.Popen[bytes], mode: Mode) -> None:
    """Stops a server, harder where it does not heed."""
    tries: tuple[tuple[Mode, int], ...] = ((mode, STOP_SECONDS_MAX), ("immediate", QUIT_SECONDS_MAX))
    for name, seconds in tries:
        process.send_signal(SIGNALS[name])
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
    process.kill()
    process.wait()


def _await_former(folder: Path, state: State) -> None:
    """Sees the server of a dead process out; one that we did not start is not ours to stop."""
    former, began = cluster.postmaster(folder), time.monotonic()
    seconds_max = OTHER_FORMER_SECONDS_MAX
    if former is not None and former.pid == state.pid:
        seconds_max = OWN_FORMER_SECONDS_MAX
        with suppress(ProcessLookupError):
            os.kill(former.pid, signal.SIGINT)
    while former is not None:
        if time.monotonic() - began > seconds_max:
            raise Held(folder, former.pid)
        time.sleep(POLL_SECONDS)
        former = cluster.postmaster(folder)
    cluster.disown_stale_pid(folder)


def _make(folder: Path, runner: Account, state: State, *, durable: bool) -> None:
    """Makes the cluster beside its place and moves it there when it is whole."""
    cluster.remember(folder, state)
    # A name of its own: the initdb of a process killed just now may still be writing.
    making = Path(tempfile.mkdtemp(prefix="making-", dir=folder))
    draft, secret = making / "data", making / "password"
    try:
        draft.mkdir(mode=0o700)
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(state.password)
        runner.own(making)
        initdb: list[str | Path] = [cluster.binaries() / "initdb", "-D", draft, "-U", cluster.SUPERUSER]
        initdb += [f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums"]
        initdb += [] if durable else ["--no-sync"]
        said = ""
        for locale in ("C.UTF-8", "C"):
            fine, said = runner.run([*initdb, f"--locale={locale}"], INITDB_SECONDS_MAX)
            if fine:
                draft.rename(cluster.data_directory(folder))
                return
    finally:
        shutil.rmtree(making, ignore_errors=True)
    raise NotStarted(f"the database in {folder} could not be made:\n{_last_lines(said)}")


def _serve(
    folder: Path, runner: Account, state: State, settings: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes] | None, int, str]:
    """One try: the ready server and its port, or no server and what it said."""
    port = _free_port()
    where = {"listen_addresses": cluster.HOST, "port": str(port), "unix_socket_directories": ""}
    options = [f"--{name}={value}" for name, value in {**settings, **where}.items()]
    log = cluster.log_file(folder)
    with os.fdopen(os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
        before = file.seek(0, os.SEEK_END)
        data = cluster.data_directory(folder)
        process = runner.spawn([cluster.binaries() / "postgres", "-D", data, *options], file)
        try:
            cluster.remember(folder, replace(state, port=port, pid=process.pid))
            ready = _is_ready(folder, process)
        except BaseException:
            end(process, "immediate")
            raise
        if ready:
            return process, port, ""
        file.seek(before)
        return None, port, file.read(LOG_BYTES_MAX).decode(errors="replace")


def _is_ready(folder: Path, process: subprocess.Popen[bytes]) -> bool:
    """Waits as long as the server lives and has something to say; False where it ended."""
    log = cluster.log_file(folder)
    size, heard = -1, time.monotonic()
    while process.poll() is None:
        server = cluster.postmaster(folder)
        if server is not None and server.pid == process.pid and server.status == "ready":
            return True
        if (now := log.stat().st_size) != size:
            size, heard = now, time.monotonic()
        if time.monotonic() - heard > SILENCE_SECONDS_MAX:
            said = log.read_bytes()[-LOG_BYTES_MAX:].decode(errors="replace")
            raise NotStarted(f"PostgreSQL in {folder} fell silent; its last words:\n{_last_lines(said)}")
        time.sleep(POLL_SECONDS)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((cluster.HOST, 0))
        return int(probe.getsockname()[1])


def _bound_log(log: Path) -> None:
    """Keeps the end of a log that has grown, under another name."""
    if not log.exists() or log.stat().st_size <= LOG_BYTES_MAX:
        return
    with log.open("r+b") as file:
        file.seek(-LOG_BYTES_MAX, os.SEEK_END)
        older = log.with_suffix(".log.1")
        older.unlink(missing_ok=True)
        with os.fdopen(os.open(older, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as kept:
            shutil.copyfileobj(file, kept)
        file.truncate(0)


def _last_lines(said: str) -> str:
    return "\n".join(said.splitlines()[-LOG_LINES_TOLD:])
