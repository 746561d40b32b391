"""The Python example as somebody runs it: it asks, follows, and goes on where it was."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.relay import relay
from tests.serving import ROOT, Bookkeeper, Server, plain_environment

PROGRAM = ROOT / "frontend-examples" / "python" / "follow.py"
SEQUENCE = (
    "query ($after: String) { ledgerEvents(first: 500, after: $after) { edges { cursor node { id } } } }"
)
PATIENCE_SECONDS = 15
LOOK_EVERY_SECONDS = 0.02


@dataclass
class Follower:
    """A run of the program, and what it has printed."""

    running: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def reads(self) -> None:
        assert self.running.stdout
        async for line in self.running.stdout:
            self.lines.append(line.decode())

    @property
    def events(self) -> list[str]:
        return [word for line in self.lines for word in line.split() if word.startswith("evt_")]

    async def told(self, event_id: str) -> None:
        """Until it has printed that event."""
        await until(lambda: event_id in self.events)


@asynccontextmanager
async def following(
    folder: Path, server: Server, *, key: str | None = None, port: int | None = None
) -> AsyncIterator[Follower]:
    """The program, killed when the block ends."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        f"http://127.0.0.1:{port or server.port}/graphql",
        cwd=folder,
        env=plain_environment() | {"ESCROWGRID_KEY": key or server.root_key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    follower = Follower(running)
    reading = asyncio.create_task(follower.reads())
    try:
        yield follower
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()
        await reading


async def until(holds: Callable[[], bool]) -> None:
    """Looks again and again until it holds; fails when it never does."""
    for _ in range(int(PATIENCE_SECONDS / LOOK_EVERY_SECONDS)):
        if holds():
            return
        await asyncio.sleep(LOOK_EVERY_SECONDS)
    raise AssertionError("it did not happen in time")


def head(server: Server) -> str:
    cursor: str = server.ask("{ ledgerHead { cursor } }")["ledgerHead"]["cursor"]
    return cursor


def events_after(server: Server, cursor: str) -> list[str]:
    edges = server.ask(SEQUENCE, {"after": cursor})["ledgerEvents"]["edges"]
    return [edge["node"]["id"] for edge in edges]


async def happens(server: Server, books: Bookkeeper) -> str:
    """Make something happen; returns the newest event's id."""
    before = head(server)
    await asyncio.to_thread(books.open)
    return events_after(server, before)[-1]


async def test_it_prints_the_open_positions_and_then_what_happens(
    server: Server, books: Bookkeeper, tmp_path: Path
) -> None:
    async with following(tmp_path, server) as program:
        await until((tmp_path / "escrowgrid.cursor").exists)
        await program.told(await happens(server, books))
    assert any(line.startswith("pos_") and "Test site" in line for line in program.lines)


async def test_a_second_run_begins_where_the_first_was_killed(
    server: Server, books: Bookkeeper, tmp_path: Path
) -> None:
    start = head(server)
    (tmp_path / "escrowgrid.cursor").write_text(start)
    async with following(tmp_path, server) as first:
        await first.told(await happens(server, books))
    await happens(server, books)
    async with following(tmp_path, server) as second:
        last = await happens(server, books)
        await second.told(last)
    truth = events_after(server, start)
    overlap = set(first.events) & set(second.events)
    assert len(overlap) <= 1, "only the event in hand when it was killed may come twice"
    told = [*dict.fromkeys(first.events + second.events)]
    assert told == truth[: len(told)]


async def test_a_connection_that_is_cut_is_taken_up_again(
    server: Server, books: Bookkeeper, tmp_path: Path
) -> None:
    start = head(server)
    (tmp_path / "escrowgrid.cursor").write_text(start)
    async with relay(server.port) as between, following(tmp_path, server, port=between.port) as program:
        for _ in range(3):
            await program.told(await happens(server, books))
            between.cut()
            last = await happens(server, books)
        await program.told(last)
        assert between.connections >= 3
    assert program.events == events_after(server, start)[: len(program.events)], "each once, in order"


async def test_a_key_that_nobody_has_ends_it_with_the_reason(server: Server, tmp_path: Path) -> None:
    async with following(tmp_path, server, key="nobody-has-this-key") as program:
        assert program.running.stderr
        said = await asyncio.wait_for(program.running.stderr.read(), PATIENCE_SECONDS)
        await program.running.wait()
    assert program.running.returncode == 1
    assert b"UNAUTHENTICATED" in said
