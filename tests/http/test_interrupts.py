"""Ctrl-C while a server starts ends it, also where Python drops the exception that it raises."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from starlette.applications import Starlette

from app import dev
from app.http import server
from app.interrupts import Interrupts
from app.settings import Settings
from tests.serving import free_port


class Dropping:
    """Python drops whatever is raised where an object ends."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_is_remembered() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        interrupts.check()
        made = Dropping()
        del made
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_is_lost_while_the_loop_is_made_ends_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the last look and the server's own handling of signals; a server would run on that was told to end."""
    monkeypatch.setattr(server, "settle_memory", lambda: None)

    def listens() -> None:
        raise AssertionError("it has begun to listen")

    with Interrupts() as interrupts:

        def made(_config: object) -> None:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(server.Config, "get_loop_factory", made)
        with pytest.raises(KeyboardInterrupt):
            dev._serve(Starlette(), Settings(port=free_port()), interrupts, listens)


IMPORTING = """
import signal, sys

class Dropping:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            Dropping()

sys.meta_path.insert(0, Finder())
sys.argv = ["escrowgrid", "dev", "--memory", "--no-demo", "--port", sys.argv[1]]
from app.cli import main
main()
"""


def test_an_interrupt_that_is_lost_while_the_command_line_is_imported_ends_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, str(free_port())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "KeyboardInterrupt" in done.stderr, "Python tells that it dropped it"
    assert done.returncode == 130
    assert not done.stdout
    assert not list(tmp_path.iterdir())
