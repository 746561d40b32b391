"""Money is conserved: the state machine of the positions' own tests, run for longer and from other seeds."""

import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.reliability.processes import end_with_parent
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Tally
from tests.serving import ROOT, plain_environment

MACHINE = ROOT / "tests" / "positions" / "test_machine.py"
EXAMPLES_FIRST = 20
EXAMPLES_MAX = 2_000


async def money_is_conserved(tally: Tally, limit: Limit, _site: Site) -> None:
    """Rounds of so many runs of the machine, each as long as fits the time that is left."""
    examples = EXAMPLES_FIRST
    while limit.more(tally.reached):
        began = time.monotonic()
        said = await pytest_said([MACHINE], ESCROWGRID_EXAMPLES=str(examples))
        if said:
            tally.violate(said)
            return
        tally.reached += examples
        a_second = examples / (time.monotonic() - began)
        fitting = int(a_second * (limit.until - time.monotonic()))
        examples = min(EXAMPLES_MAX, fitting)
        if examples < EXAMPLES_FIRST:
            return


async def pytest_said(files: Sequence[Path], **environment: str) -> str:
    """What pytest said at the end of a failed run; nothing when all was well."""
    command = ("-m", "pytest", *map(str, files), "-q", "-x", "--timeout=0", "-p", "no:cacheprovider")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        f"--hypothesis-seed={random.randrange(2**32)}",
        cwd=ROOT,
        env={**plain_environment(), "PYTHONPATH": str(ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=end_with_parent if os.name == "posix" else None,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return "" if process.returncode == 0 else said.decode(errors="replace")[-2_000:]
