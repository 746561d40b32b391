"""Two server processes on one database are one ledger: live, resumed, and with one winner."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from app.storage.database import Address
from tests.conftest import eventually
from tests.serving import Bookkeeper, Server

from .conftest import EVENTS, Doomed, following, streaming

SSE = "subscription { ledgerEvents { cursor node { sequence globalSequence } } }"
HEAD = "{ ledgerHead { cursor sequence } }"
# A listener has said LISTEN, then only asks now and then whether it is still connected.
LISTENERS = """
SELECT {} FROM pg_stat_activity
WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = 'SELECT 1')
"""
FUND = """
mutation ($id: ID!, $version: Int) {
  fundPosition(input: {id: $id, expectedVersion: $version}) { position { version } userErrors { code } }
}
"""


@pytest.fixture
def book(pair: tuple[Server, Server]) -> Bookkeeper:
    """Writes at the first server."""
    return Bookkeeper(pair[0])


@pytest.fixture
async def owner(shared: Address) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(shared.owner_url)
    yield connection
    await connection.close()


async def write(book: Bookkeeper, count: int = 1) -> list[str]:
    """Opens positions, one event each, without holding up this test's own clients."""
    return [await asyncio.to_thread(book.open) for _ in range(count)]


def head(server: Server) -> int:
    return int(server.ask(HEAD)["ledgerHead"]["sequence"])


def number(data: Any) -> int:
    return int(data["ledgerEvents"]["node"]["globalSequence"])


async def test_a_write_at_one_is_live_at_the_other(pair: tuple[Server, Server], book: Bookkeeper) -> None:
    """Over a WebSocket and over SSE, from a cursor that the other server gave."""
    here, there = pair
    start = here.ask(HEAD)["ledgerHead"]
    async with (
        following(there, EVENTS, {"after": start["cursor"]}) as socket,
        streaming(there, SSE, last_event_id=start["cursor"]) as stream,
    ):
        for turn in range(1, 4):
            await write(book)
            data = await socket.next(5)
            assert number(data) == start["sequence"] + turn
            place, same = await stream.next(5)
            assert same == data
            assert place == data["ledgerEvents"]["cursor"], "one cursor, wherever the ledger is followed"


async def test_a_position_is_followed_at_the_other(pair: tuple[Server, Server], book: Bookkeeper) -> None:
    (position,) = await write(book)
    document = "subscription ($id: ID!) { positionChanged(id: $id) { cursor position { version state } event { newState } } }"
    async with following(pair[1], document, {"id": position}) as socket:
        first = (await socket.next(5))["positionChanged"]
        assert first["position"] == {"version": 1, "state": "CREATED"}
        await asyncio.to_thread(book.fund, position)
        second = (await socket.next(5))["positionChanged"]
        assert second["position"] == {"version": 2, "state": "FUNDED"}
        assert second["event"] == {"newState": "FUNDED"}


async def test_listeners_that_are_killed_lose_nothing(
    pair: tuple[Server, Server], book: Bookkeeper, owner: asyncpg.Connection
) -> None:
    """Each server's LISTEN connection, again and again; what is written meanwhile arrives, in order, once."""
    start = head(pair[0])
    async with following(pair[1], EVENTS) as remote, following(pair[0], EVENTS) as local:
        await write(book)
        seen = [number(await remote.next(5))]
        for _ in range(4):
            killed = await owner.fetchval(LISTENERS.format("count(pg_terminate_backend(pid))"))
            assert killed >= 2
            await write(book, 2)
            seen += [number(await remote.next(3)), number(await remote.next(3))]
            await _listening_again(owner)
        assert seen == list(range(start + 1, start + 10))
        assert [number(await local.next(5)) for _ in range(9)] == seen


async def _listening_again(owner: asyncpg.Connection) -> None:
    async def listening() -> bool:
        return int(await owner.fetchval(LISTENERS.format("count(*)"))) >= 2

    await eventually(listening, seconds=5)


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_a_client_of_a_killed_server_goes_on_at_another(
    pair: tuple[Server, Server], doomed: Doomed, book: Bookkeeper, transport: str
) -> None:
    """kill -9 of the server it follows: from its last cursor it misses nothing and meets nothing twice."""
    start = head(pair[0])
    seen: list[int] = []
    if transport == "websocket":
        async with following(doomed.server, EVENTS) as socket:
            await write(book, 3)
            for _ in range(3):
                data = await socket.next(5)
                seen.append(number(data))
            cursor = data["ledgerEvents"]["cursor"]
            doomed.kill()
    else:
        async with streaming(doomed.server, SSE) as stream:
            await write(book, 3)
            for _ in range(3):
                place, data = await stream.next(5)
                seen.append(number(data))
            assert place is not None
            cursor = place
            doomed.kill()
    await write(book, 3)
    if transport == "websocket":
        async with following(pair[1], EVENTS, {"after": cursor}) as socket:
            seen += [number(await socket.next(5)) for _ in range(3)]
            await write(book)
            seen.append(number(await socket.next(5)))
    else:
        async with streaming(pair[1], SSE, last_event_id=cursor) as stream:
            seen += [number((await stream.next(5))[1]) for _ in range(3)]
            await write(book)
            seen.append(number((await stream.next(5))[1]))
    assert seen == list(range(start + 1, start + 8))


async def test_what_a_killed_server_answered_is_there(
    pair: tuple[Server, Server], doomed: Doomed, owner: asyncpg.Connection
) -> None:
    """An answer is given after the commit: kill -9 in the midst of writing takes back nothing that was told."""
    book = Bookkeeper(doomed.server)
    told: list[str] = []

    async def write_on() -> None:
        while True:
            told.append(await asyncio.to_thread(book.open))

    writers = [asyncio.create_task(write_on()) for _ in range(4)]

    async def enough() -> bool:
        return len(told) >= 40

    await eventually(enough)
    doomed.kill()
    await asyncio.gather(*writers, return_exceptions=True)
    assert await owner.fetchval("SELECT count(*) FROM positions WHERE id = ANY($1::text[])", told) == len(
        told
    )
    assert await owner.fetchval("SELECT max(global_sequence) = count(*) FROM ledger_events")
    lone = [
        "positions p WHERE NOT EXISTS (SELECT FROM ledger_events e WHERE e.position_id = p.id AND e.position_version = p.version)",
        "ledger_events e WHERE NOT EXISTS (SELECT FROM positions p WHERE p.id = e.position_id)",
    ]
    for one in lone:
        assert await owner.fetchval(f"SELECT count(*) FROM {one}") == 0, (
            "a state without its event, or the other way"
        )
    # And the others write on.
    assert Bookkeeper(pair[1]).open()


async def test_of_two_writers_at_two_servers_one_wins(pair: tuple[Server, Server], book: Bookkeeper) -> None:
    for _ in range(5):
        (position,) = await write(book)
        values = {"id": position, "version": 1}
        answers = await asyncio.gather(*(asyncio.to_thread(server.post, FUND, values) for server in pair))
        outcomes = [answer["data"]["fundPosition"] for answer in answers]
        assert sorted(
            outcome["userErrors"][0]["code"] if outcome["userErrors"] else "" for outcome in outcomes
        ) == [
            "",
            "VERSION_CONFLICT",
        ]
        assert [outcome["position"]["version"] for outcome in outcomes if outcome["position"]] == [2]


async def test_a_key_revoked_at_one_opens_nothing_at_the_other(
    pair: tuple[Server, Server], book: Bookkeeper
) -> None:
    here, there = pair
    made = here.ask(
        'mutation ($id: ID!) { createApiKey(input: {label: "k", role: ADMIN, institutionId: $id}) '
        "{ secret apiKey { id } userErrors { code } } }",
        {"id": book.institution_id},
    )["createApiKey"]
    guest = Server(there.url, made["secret"])
    assert guest.ask("{ viewer { role } }") == {"viewer": {"role": "ADMIN"}}
    here.ask(
        "mutation ($id: ID!) { revokeApiKey(input: {id: $id}) { userErrors { code } } }",
        {"id": made["apiKey"]["id"]},
    )

    async def refused() -> bool:
        answer = await asyncio.to_thread(guest.post, "{ viewer { role } }")
        return [error["extensions"]["code"] for error in answer.get("errors", ())] == ["UNAUTHENTICATED"]

    await eventually(refused, seconds=3)
