"""Everything the README shows runs as it stands, in its order, against a real server.

`sh` blocks share one shell, `graphql` blocks are sent as they are, a block with `<!-- file: NAME -->` above it is saved
under that name, one with `<!-- until stopped -->` is stopped after a while, and a `json` block is what the `sh` block
before it answers.
"""

import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docs.blocks import Block, blocks
from tests.serving import ROOT, Bookkeeper, Server, free_port, plain_environment, process

README = ROOT / "README.md"
BLOCKS = blocks(README)
UNTIL_STOPPED = "until stopped"
ADDRESS = "127.0.0.1:8000"
SECONDS_UNTIL_STOPPED = 4
SECONDS_BETWEEN_EVENTS = 0.25
MAKE = re.compile(r"^(?:```sh\n)(make [^\n]+)\n```$|`(make run [^`]+)`", re.MULTILINE)

COMMANDS = [block for block in BLOCKS if block.language == "sh" and not block.text.startswith("make ")]
MAKES = [found[0] or found[1] for found in MAKE.findall(README.read_text())]


@dataclass(frozen=True)
class Walk:
    """A newcomer's folder after all commands were typed in it."""

    folder: Path
    environment: dict[str, str]
    address: str

    def said(self, block: Block) -> str:
        return (self.folder / f"{block.line}.out").read_text()

    def complained(self, block: Block) -> str:
        return (self.folder / f"{block.line}.err").read_text()

    def status(self, block: Block) -> str:
        return (self.folder / f"{block.line}.status").read_text().strip()

    def placed(self, text: str) -> str:
        """A block's text, meant for the server of the test."""
        return text.replace(ADDRESS, self.address)


@pytest.fixture(scope="module")
def walk(server: Server, books: Bookkeeper, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """All commands typed in a folder like a clone's, while positions move."""
    folder = tmp_path_factory.mktemp("clone")
    made = Walk(folder, plain_environment(), server.url.removeprefix("http://"))
    (folder / ".escrowgrid").mkdir()
    (folder / ".escrowgrid" / "root.key").write_text(server.root_key + "\n")
    (folder / ".venv").symlink_to(sys.prefix)
    for block in BLOCKS:
        if block.file is not None:
            (folder / block.file).write_text(made.placed(block.text))
    with moving(books):
        typed = "\n".join(_typed(made, block) for block in COMMANDS)
        subprocess.run(["bash", "-c", typed], cwd=folder, env=made.environment, check=False, timeout=150)
    return made


def _typed(walk: Walk, block: Block) -> str:
    text = walk.placed(block.text)
    if block.mark == UNTIL_STOPPED:
        # Afterwards some time passes, in which something happens that the next block must not miss.
        text = f"set -m\n{{\n{text}}} &\nsleep {SECONDS_UNTIL_STOPPED}\nkill -TERM -- -$!\nset +m\nsleep 1"
    return f"exec >{block.line}.out 2>{block.line}.err\n{text}\necho $? >{block.line}.status"


@contextmanager
def moving(books: Bookkeeper) -> Iterator[None]:
    """Something happens several times a second."""
    enough = threading.Event()

    def move() -> None:
        while not enough.wait(SECONDS_BETWEEN_EVENTS):
            books.open()

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def named(block: Block) -> str:
    return f"line {block.line}"


def only(text: str) -> Block:
    """The one command that holds this text."""
    found = [block for block in COMMANDS if text in block.text]
    assert len(found) == 1, f"{len(found)} blocks hold {text!r}"
    return found[0]


def sequences(lines: list[str]) -> list[int]:
    return [json.loads(line)["globalSequence"] for line in lines]


def streamed(text: str) -> list[int]:
    told = [
        json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")
    ]
    return [message["data"]["ledgerEvents"]["node"]["globalSequence"] for message in told]


def assert_unbroken(first: list[int], second: list[int]) -> None:
    """The second stream goes on where the first was stopped, and neither has a hole."""
    assert len(first) > 3
    assert len(second) > 3
    assert first + second == list(range(first[0], first[0] + len(first) + len(second)))


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    assert {block.language for block in BLOCKS} <= {"sh", "graphql", "json", "python"}
    assert all(block.file for block in BLOCKS if block.language == "python"), "programs are saved and run"
    assert all(block.mark in {"", UNTIL_STOPPED} or block.file for block in BLOCKS)


@pytest.mark.parametrize("block", COMMANDS, ids=named)
def test_a_command_does_what_it_is_shown_for(walk: Walk, block: Block) -> None:
    assert walk.status(block) == "0", walk.complained(block)
    assert "error" not in walk.complained(block).lower(), walk.complained(block)
    if block.mark == UNTIL_STOPPED:
        assert walk.said(block)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "graphql"], ids=named)
def test_a_document_is_answered(server: Server, block: Block) -> None:
    answered = server.ask(block.text)
    assert all(answered.values()), "and not with nothing"


def test_the_first_query_finds_demo_data(walk: Walk) -> None:
    groups = json.loads(walk.said(only("positionSummary")))["data"]["positionSummary"]
    assert len({group["state"] for group in groups}) >= 4


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=named)
def test_an_answer_is_the_one_that_is_shown(walk: Walk, block: Block) -> None:
    before = max((command for command in COMMANDS if command.line < block.line), key=lambda b: b.line)
    said = json.loads(walk.said(before))
    assert said.pop("extensions")["cost"]["actual"] > 0, "every answer tells its cost; the page leaves it out"
    assert said == json.loads(block.text)


def test_the_websocket_program_goes_on_where_it_was_stopped(walk: Walk, books: Bookkeeper) -> None:
    command = only("follow.py")
    first = sequences(walk.said(command).splitlines())
    books.open()
    key = (walk.folder / ".escrowgrid" / "root.key").read_text().strip()
    with moving(books), pytest.raises(subprocess.TimeoutExpired) as stopped:
        subprocess.run(
            shlex.split(command.text),
            cwd=walk.folder,
            env=walk.environment | {"KEY": key},
            check=False,
            timeout=SECONDS_UNTIL_STOPPED,
            capture_output=True,
        )
    assert_unbroken(first, sequences((stopped.value.stdout or b"").decode().splitlines()))


def test_the_event_stream_goes_on_after_the_last_event_id(walk: Walk) -> None:
    first, second = walk.said(only("tee events.txt")), walk.said(only("Last-Event-ID"))
    assert_unbroken(streamed(first), streamed(second))


def test_both_make_commands_are_shown() -> None:
    assert {"make run", "make test"} <= set(MAKES)


@pytest.mark.parametrize("command", [m for m in MAKES if m.startswith("make run")])
def test_make_run_starts_a_server(command: str, tmp_path: Path) -> None:
    server = Server(f"http://127.0.0.1:{free_port()}", "")
    data = tmp_path / "a folder"
    here = re.sub(r"PORT=\d+", f"PORT={server.port}", command)
    # Everything is installed already, or these tests would not run.
    argv = (*shlex.split(here), "-o", ".venv/installed", f"RUN={shlex.quote(sys.executable)} -m")
    with process(argv, server, settings={"PORT": str(server.port), "DATA_DIR": str(data)}):
        page = httpx.get(server.graphql, headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert "text/html" in page.headers["content-type"]
        offered: dict[str, Any] = httpx.get(f"{server.url}/graphiql/config.json").json()
        key = offered["developmentKeys"][0]["key"]
        assert Server(server.url, key).ask("{ viewer { role } }") == {"viewer": {"role": "ROOT"}}
        keeps = "--memory" not in command
        assert (data / "root.key").exists() is keeps
        assert not keeps or (data / "root.key").read_text().strip() == key


def test_make_test_runs_the_tests() -> None:
    argv = ("make", "--dry-run", "-o", ".venv/installed-dev", "test")
    shown = subprocess.run(
        argv, cwd=ROOT, env=plain_environment(), check=True, capture_output=True, text=True
    )
    assert "-m pytest" in shown.stdout
