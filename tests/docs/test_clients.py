"""The small clients of the examples as somebody runs them: bash and curl, Node, the analyst's notebook."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.relay import relay
from tests.serving import ROOT, Bookkeeper, Server, plain_environment

from .test_examples import Follower, events_after, happens, head, until

EXAMPLES = ROOT / "frontend-examples"
SCRIPT = EXAMPLES / "bash" / "escrowgrid.sh"
NODE = EXAMPLES / "node"
NO_SOCKETS = "--no-experimental-websocket"
NOTEBOOK = EXAMPLES / "notebook" / "held.ipynb"


def environment(server: Server, port: int | None = None) -> dict[str, str]:
    address = f"http://127.0.0.1:{port or server.port}/graphql"
    return plain_environment() | {"ESCROWGRID_KEY": server.root_key, "ESCROWGRID_ADDRESS": address}


def typed(server: Server, folder: Path, *words: str, refused: bool = False) -> Any:
    done = subprocess.run(
        ["bash", SCRIPT, *words],
        cwd=folder,
        env=environment(server),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == (1 if refused else 0), done.stderr
    return json.loads(done.stdout)["data"]


@asynccontextmanager
async def running(command: Sequence[str], folder: Path, told: dict[str, str]) -> AsyncIterator[Follower]:
    """A program that follows, killed with all that it started when the block ends."""
    started = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=told,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    follower = Follower(started)
    reading = asyncio.create_task(follower.reads())
    try:
        yield follower
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        await started.wait()
        await reading


def ids_in(follower: Follower) -> list[str]:
    """The events that it printed, as words or as JSON."""
    words = "".join(follower.lines).replace('"', " ").split()
    return [word for word in words if word.startswith("evt_")]


async def goes_on(
    command: Sequence[str], server: Server, books: Bookkeeper, folder: Path, *, url: bool
) -> None:
    """Through a connection that is cut, and after it was killed, no event is missing and none comes out of order."""
    start = head(server)
    (folder / "escrowgrid.cursor").write_text(start)
    seen: list[str] = []
    for _ in range(2):
        async with relay(server.port) as between:
            address = [f"ws://127.0.0.1:{between.port}/graphql"] if url else []
            async with running([*command, *address], folder, environment(server, between.port)) as program:
                first = await happens(server, books)
                await until(lambda told=first, of=program: told in ids_in(of))
                between.cut()
                second = await happens(server, books)
                await until(lambda told=second, of=program: told in ids_in(of))
                seen += ids_in(program)
        await happens(server, books)
    truth = events_after(server, start)
    kept = [*dict.fromkeys(seen)]
    assert kept == truth[: len(kept)]


def test_bash_asks_opens_and_funds(server: Server, books: Bookkeeper, tmp_path: Path) -> None:
    held = typed(server, tmp_path, "held")["positionSummary"]
    assert {"USD", "EUR"} <= {row["currency"] for row in held}
    opened = typed(server, tmp_path, "open", books.asset_id, 'O"Neil\\', "USD", "12.50")["createPosition"]
    assert opened["userErrors"] == []
    funded = typed(server, tmp_path, "fund", opened["position"]["id"])["fundPosition"]
    assert funded["position"]["state"] == "FUNDED"
    odd = typed(
        server, tmp_path, "open", books.asset_id, "two\twords\nand lines", "USD", "1.00", refused=True
    )["createPosition"]
    assert "control character" in odd["userErrors"][0]["message"], "spelled as JSON, and judged by the server"
    again = typed(server, tmp_path, "fund", opened["position"]["id"], refused=True)["fundPosition"]
    assert again["userErrors"][0]["code"] == "TRANSITION_NOT_ALLOWED"


@pytest.mark.parametrize("words", [(), ("open",), ("fund", "a", "b"), ("other",)], ids=str)
def test_bash_says_how_it_is_used(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["bash", SCRIPT, *words], cwd=tmp_path, env=plain_environment() | {"ESCROWGRID_KEY": "any"},
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"held | open" in done.stderr


async def test_bash_follows_and_goes_on(server: Server, books: Bookkeeper, tmp_path: Path) -> None:
    await goes_on(["bash", str(SCRIPT), "follow"], server, books, tmp_path, url=False)


@pytest.mark.parametrize(("key", "place"), [("wrong", ""), (None, "nonsense")], ids=["key", "cursor"])
def test_bash_follows_no_further_where_it_is_refused(
    server: Server, tmp_path: Path, key: str | None, place: str
) -> None:
    (tmp_path / "escrowgrid.cursor").write_text(place)
    told = environment(server) | {"ESCROWGRID_KEY": key or server.root_key}
    done = ran(["bash", str(SCRIPT), "follow"], told, tmp_path)
    assert done.returncode == 1
    assert ("CURSOR_INVALID" if place else "UNAUTHENTICATED") in done.stderr


def node() -> list[str]:
    """How to run it: before Node 22 a WebSocket of its own was an experiment."""
    version = subprocess.run(["node", "--version"], capture_output=True, check=True, text=True).stdout
    young = int(version[1:].partition(".")[0]) < 22
    return ["node", *(["--experimental-websocket"] if young else []), "follow.mjs"]


def ran(command: list[str], environment: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """A command that ends by itself."""
    known = plain_environment() | environment
    return subprocess.run(
        command, cwd=folder, env=known, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.skipif(not shutil.which("npm"), reason="there is no Node here")
async def test_node_follows_and_goes_on(server: Server, books: Bookkeeper, tmp_path: Path) -> None:
    for name in ("follow.mjs", "package.json", "package-lock.json"):
        shutil.copy(NODE / name, tmp_path)
    await asyncio.to_thread(
        subprocess.run,
        ["npm", "ci", "--no-audit", "--no-fund", "--silent"],
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    for command, environment, told in (
        (node(), {}, "set ESCROWGRID_KEY to an API key\n"),
        (["node", "follow.mjs"], {"ESCROWGRID_KEY": "x", "NODE_OPTIONS": NO_SOCKETS}, "Node 22 is needed"),
    ):
        done = ran(command, environment, tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith(told)
    refused = ran([*node(), f"ws://127.0.0.1:{server.port}/graphql"], {"ESCROWGRID_KEY": "wrong"}, tmp_path)
    assert refused.returncode == 1
    assert "no longer valid" in refused.stderr
    assert "trying again" not in refused.stderr
    await goes_on(node(), server, books, tmp_path, url=True)


def test_the_notebook_is_whole_and_keeps_no_output() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in {"markdown", "code"}
        assert cell.get("outputs", []) == []
    compile(code_of(notebook), str(NOTEBOOK), "exec")


def test_the_notebook_agrees_with_the_ledger(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("pandas", "matplotlib", "pyarrow"):
        pytest.importorskip(needed, reason="too heavy for every run: install it to run the notebook")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    known: dict[str, Any] = {}
    exec(compile(code_of(json.loads(NOTEBOOK.read_text())), str(NOTEBOOK), "exec"), known)
    assert all(isinstance(value, Decimal) for value in known["held"])
    assert {path.name for path in tmp_path.iterdir()} >= {"held.png", "events.csv", "events.parquet"}


def code_of(notebook: dict[str, Any]) -> str:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)
