"""What was there when a server began is not looked through for garbage; what came later and goes is given back."""

import ctypes
import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from app.http import server
from tests.serving import ROOT

# Of a fresh process: the bytes that it keeps of 16 blocks of a mebibyte after it freed them. The large block before them
# is what has glibc raise its thresholds.
KEEPS = """
import os, sys
from app.http import server
if sys.argv[1] == "returning":
    server.settle_memory()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

large = b"x" * (24 * 2**20)
del large
before = resident()
blocks = [bytes([number]) * 2**20 for number in range(16)]
del blocks
print(resident() - before)
"""


class Ring:
    """Holds itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def settled() -> Iterator[None]:
    before = gc.get_threshold()
    server.settle_memory()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("settled")
def test_what_was_there_at_the_start_is_not_looked_through() -> None:
    assert gc.get_freeze_count() > 10_000


@pytest.mark.usefixtures("settled")
def test_a_ring_of_objects_that_nobody_holds_goes_by_itself() -> None:
    gone = weakref.ref(Ring())
    kept: list[list[int]] = [[] for _ in range(2 * server.COLLECTING[0])]
    assert gone() is None, f"after {len(kept)} new objects"


def kept(mode: str) -> int:
    run = subprocess.run([sys.executable, "-c", KEEPS, mode], cwd=ROOT, capture_output=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc keeps so much")
def test_what_a_server_frees_goes_back_to_the_machine() -> None:
    assert kept("as it is") > 12 * 2**20, "nothing to be seen here: glibc has changed"
    assert kept("returning") < 6 * 2**20


def test_a_libc_that_cannot_be_told_to_return_memory_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert server.return_memory() is False
