"""What a dashboard asks, over HTTP: of us, of PostGraphile and of Mercurius, on the same rows."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from pydantic import SecretStr

from app.main import assemble
from app.positions.model import Position
from app.settings import Settings
from app.storage.database import Address
from benchmarks.answers import told
from benchmarks.client import Client
from benchmarks.machine import Row, median
from benchmarks.nested import filled
from benchmarks.peers import node
from benchmarks.questions import QUESTIONS, Question
from benchmarks.server import PERSONAL_KEY, ROOT_KEY, Served, database, serving

SECONDS_EACH = 1.5
CONNECTIONS = (1, 8)
POOL = 8


async def _rate(
    served: Served, question: Question, document: str, connections: int
) -> tuple[float, float, int]:
    """Answers a second, CPU milliseconds of the server for each, and how many were not as they should be."""
    clients = [await Client(served.port, ROOT_KEY).open() for _ in range(connections)]
    done = wrong = 0
    end = time.perf_counter() + SECONDS_EACH

    async def ask(client: Client) -> None:
        nonlocal done, wrong
        while time.perf_counter() < end:
            body = await client.page(document)
            done += 1
            wrong += body.count(question.marker) != question.times

    cpu, began = served.cpu_seconds, time.perf_counter()
    await asyncio.gather(*(ask(client) for client in clients))
    seconds = time.perf_counter() - began
    for client in clients:
        await client.close()
    return done / seconds, (served.cpu_seconds - cpu) / max(done, 1) * 1000, wrong


async def _once(served: Served, document: str) -> bytes:
    client = await Client(served.port, ROOT_KEY).open()
    body = await client.page(document)
    await client.close()
    return body


async def _measured(
    question: Question, servers: Mapping[str, tuple[Served, str]], runs: int
) -> dict[str, Any]:
    found: dict[str, Any] = {"errors": 0}
    answers = {name: told(await _once(served, document)) for name, (served, document) in servers.items()}
    for name, answer in answers.items():
        assert answer == answers["ours"], f"{name} answers {question.name} as we do"
    for run in range(runs + 1):
        for connections in CONNECTIONS:
            for name, (served, document) in servers.items():
                rate, cpu, wrong = await _rate(served, question, document, connections)
                # The first run only warms up.
                if run:
                    found.setdefault((name, connections, "rate"), []).append(rate)
                    found.setdefault((name, connections, "cpu"), []).append(cpu)
                    found["errors"] += wrong
    return found


async def _fill(settings: Settings, address: Address) -> Position:
    parts = assemble(settings, address)
    async with parts.running():
        return await filled(parts.services)


def rows(runs: int) -> list[Row]:
    """The rows of this benchmark."""
    why_not = node.missing()
    with ExitStack() as stack:
        address = stack.enter_context(database())
        keys = {"root_api_key": SecretStr(ROOT_KEY), "personal_keys": SecretStr(PERSONAL_KEY)}
        one = asyncio.run(_fill(Settings(**keys), address))
        servers = {"ours": stack.enter_context(serving(address, POOL_SIZE_MAX=str(POOL)))}
        if not why_not:
            for name in ("postgraphile", "mercurius"):
                servers[name] = stack.enter_context(node.peer(name, address.owner_url or address.url, POOL))
        return [_asked(question, servers, one, runs, why_not) for question in QUESTIONS]


def _asked(question: Question, servers: Mapping[str, Served], one: Position, runs: int, why_not: str) -> Row:
    words = {name: question.words(name, one.id, one.institution_id) for name in servers}
    asked = {name: (servers[name], document) for name, document in words.items()}
    return _row(question.name, asyncio.run(_measured(question, asked, runs)), list(asked), why_not)


def _row(question: str, found: dict[str, Any], names: Sequence[str], why_not: str) -> Row:
    most = CONNECTIONS[-1]
    figures = {}
    for name in names:
        label = "" if name == "ours" else f"{name}_"
        for connections in CONNECTIONS:
            figures[f"{label}per_second_{connections}"] = median(found[name, connections, "rate"])
        figures[f"{label}cpu_ms"] = median(found[name, most, "cpu"])
    for name in names[1:]:
        ratio = figures[f"per_second_{most}"] / figures[f"{name}_per_second_{most}"]
        figures[f"vs_{name}"] = round(ratio, 2)
    if why_not:
        note = f"without PostGraphile and Mercurius: {why_not}"
    else:
        note = ", ".join(f"{name} {version}" for name, version in node.versions().items())
    return Row(question, figures, found["errors"], note)
