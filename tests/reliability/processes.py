"""Processes that never outlive the test that started them."""

import ctypes
import os
import signal
import sys
from pathlib import Path

KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def end_with_parent() -> None:
    """Called in a new process: whatever becomes of the one that made it, this one goes with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)


def exists(pid: int) -> bool:
    """Whether that process still is there."""
    if sys.platform == "linux":
        return Path(f"/proc/{pid}").exists()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
