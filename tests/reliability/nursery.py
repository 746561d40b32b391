"""Starts `escrowgrid serve` processes as fast as they are killed: forks of a process that has imported it all already.

What runs in each is the command line itself; only the two seconds of importing are saved. It reads one request a line
(JSON: arguments, environment, log) and answers each with the number of the new process.
"""

import json
import os
import signal
import sys
from typing import Any

import app.dev  # noqa: F401 - what `serve` imports when it runs
from app import commands
from tests.reliability.processes import end_with_parent


def run(wanted: dict[str, Any]) -> None:
    """The command, in a process of its own; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end_with_parent()
    os.setsid()
    said = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    silence = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, silence), (1, said), (2, said)):
        os.dup2(file, number)
    os.environ.clear()
    os.environ |= wanted["environment"]
    commands.main(wanted["arguments"])


def main() -> None:
    """Until standard input ends, or whoever writes there does."""
    end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: they are watched by their number
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
