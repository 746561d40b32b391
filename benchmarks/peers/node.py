"""Peers as processes of their own on a database of ours: PostGraphile and Mercurius on Node, and the naive server."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks.server import Served

FOLDER = Path(__file__).parent
INSTALL_SECONDS_MAX = 300
START_SECONDS_MAX = 60


def missing() -> str:
    """Why they cannot run; nothing when they can. Installs their pinned versions the first time."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Node is not installed"
    if not (FOLDER / "node_modules").is_dir():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        done = subprocess.run(command, cwd=FOLDER, check=False, timeout=INSTALL_SECONDS_MAX)
        if done.returncode != 0:
            return "npm could not install them"
    return ""


def versions() -> dict[str, str]:
    """Of the peers, and of Node."""
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {"node": node, **{name: wanted[name] for name in ("postgraphile", "mercurius")}}


@contextmanager
def peer(name: str, database_url: str, pool: int) -> Iterator[Served]:
    """A running peer."""
    with running(["node", str(FOLDER / f"{name}.mjs"), database_url], [str(pool)]) as served:
        yield served


@contextmanager
def naive(database_url: str) -> Iterator[Served]:
    """The naive server, running."""
    with running([sys.executable, "-m", "benchmarks.peers.naive", database_url], []) as served:
        yield served


@contextmanager
def running(before: list[str], after: list[str]) -> Iterator[Served]:
    """A command that is told a port, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*before, str(port), *after]
    # As their makers would have them run: graphql-js takes a slower way where this is not said.
    environment = {**os.environ, "NODE_ENV": "production"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        _await_ready(port, process)
        yield Served(port, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _await_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    asked = Request(
        f"http://127.0.0.1:{port}/graphql",
        data=b'{"query": "{ __typename }"}',
        headers={"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(asked, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the peer did not start")
