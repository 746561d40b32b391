"""A server of its own for each benchmark: one process, its own durable PostgreSQL, in a folder that goes away."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from pydantic import SecretStr

from app.settings import Settings
from app.storage.database import Address
from app.storage.provide import provide

ROOT_KEY = "root-key-of-the-benchmarks"
# One database may be filled by one process and served by another: both open what is sealed.
PERSONAL_KEY = "5e" * 32
START_SECONDS_MAX = 60
BATCH_SIZES = "escrowgrid_writer_batch_size"


@dataclass(frozen=True)
class Served:
    """Where it listens, and its process."""

    port: int
    pid: int

    @property
    def cpu_seconds(self) -> float:
        """What the server process (not the database) has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def batches(self) -> tuple[float, float]:
        """How many commands its writer has written so far, in how many batches."""
        asked = Request(
            f"http://127.0.0.1:{self.port}/metrics", headers={"Authorization": f"Bearer {ROOT_KEY}"}
        )
        with urlopen(asked, timeout=5) as answer:
            lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line)
        return float(lines[f"{BATCH_SIZES}_sum"]), float(lines[f"{BATCH_SIZES}_count"])

    @property
    def memory_bytes(self) -> int:
        """Its resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def database() -> Iterator[Address]:
    """A durable PostgreSQL in a folder that goes away, for servers of ours and of others."""
    with tempfile.TemporaryDirectory(prefix="escrowgrid-bench-") as folder:
        Path(folder).chmod(0o711)
        with provide(Settings(data_dir=Path(folder), root_api_key=SecretStr(ROOT_KEY))) as address:
            yield address


@contextmanager
def serving(address: Address | None = None, **settings: str) -> Iterator[Served]:
    """A running server, on that database or on one of its own."""
    if address is not None:
        settings |= {"STORE_BACKEND": "postgres", "DATABASE_URL": address.url}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="escrowgrid-bench-") as folder:
        Path(folder).chmod(0o711)
        environment = {
            **os.environ,
            "DATA_DIR": folder,
            "ROOT_API_KEY": ROOT_KEY,
            "LOG_LEVEL": "WARNING",
            "PERSONAL_KEYS": PERSONAL_KEY,
            **settings,
        }
        command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port)]
        process = subprocess.Popen(command, env=environment)
        try:
            _await_ready(port)
            yield Served(port, process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def _await_ready(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            with urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start")
