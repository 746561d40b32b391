"""Who follows a stream is asked for ever anew: what they see goes with what their key is at the moment."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import asyncpg
from websockets.exceptions import ConnectionClosed

from app.institutions import service
from app.institutions.model import KeyDraft, NewKey
from app.main import Parts
from app.principal import Role
from tests import factories
from tests.conftest import eventually
from tests.factories import Place
from tests.http.conftest import Peer

from .conftest import Serve, Served

EVENTS = "subscription ($after: String) { ledgerEvents(after: $after) { cursor node { sequence } } }"
AUDIT = "subscription { auditEvents(heartbeatSeconds: 1) { heartbeat node { id } } }"
REVOKE = "mutation ($id: ID!) { revokeApiKey(input: {id: $id}) { userErrors { code } } }"
ROTATE = """mutation ($id: ID!, $seconds: Int!) {
  rotateApiKey(input: {id: $id, overlapSeconds: $seconds}) { secret userErrors { code } } }"""
FUND = "mutation ($id: ID!) { fundPosition(input: {id: $id}) { userErrors { code } } }"
WITHDRAWN = "the key is no longer valid, or no longer for the same"


class Reader:
    """Follows the ledger with one secret, and keeps what it was told until it was sent away."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.numbers: list[int] = []
        self.cursor: str | None = None

    @classmethod
    async def begin(cls, server: Served, secret: str, after: str | None = None) -> "Reader":
        made = cls(await server.dial(secret))
        await made.peer.subscribe("a", EVENTS, variables={"after": after})
        return made

    async def next(self) -> int:
        told = (await self.peer.until("next"))["payload"]["data"]["ledgerEvents"]
        self.numbers.append(told["node"]["sequence"])
        self.cursor = told["cursor"]
        return self.numbers[-1]

    async def until_closed(self) -> tuple[int, str]:
        with suppress(ConnectionClosed):
            while True:
                await self.next()
        socket = self.peer.socket
        return socket.close_code or 0, socket.close_reason or ""


async def ask(server: Served, query: str, key: str | None = None, **variables: object) -> Any:
    answer = (await server.ask(query, variables, **({"key": key} if key else {}))).json()
    assert "errors" not in answer, answer
    return answer["data"]


class Writing:
    """Opens position after position beside the test."""

    def __init__(self, parts: Parts, place: Place) -> None:
        self._parts, self._place = parts, place
        self.written = 0

    async def __aenter__(self) -> "Writing":
        self._task = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            await asyncio.shield(factories.position(self._parts.services, self._place.asset))
            self.written += 1
            await asyncio.sleep(0.02)


async def test_a_revoked_key_is_told_nothing_more_and_another_goes_on_where_it_was(
    serve: Serve, parts: Parts, place: Place, key: NewKey, other_key: NewKey
) -> None:
    async with serve() as server, Writing(parts, place) as writing:
        reader = await Reader.begin(server, key.secret)
        await reader.next()
        await ask(server, REVOKE, id=key.key.id)
        written = writing.written
        code, reason = await asyncio.wait_for(reader.until_closed(), 2)
        assert (code, reason.startswith("the key is no longer valid")) == (4403, True)
        assert len(reader.numbers) <= written + 100, "nothing was made up"
        assert reason.endswith(f"cursor={reader.cursor}")
        heir = await Reader.begin(server, other_key.secret, reader.cursor)
        for _ in range(20):
            await heir.next()
    told = reader.numbers + heir.numbers
    assert told == list(range(told[0], told[0] + len(told))), "nothing is missing, nothing comes twice"


async def test_a_rotated_key_goes_on_until_its_overlap_ends(
    serve: Serve, parts: Parts, place: Place, key: NewKey
) -> None:
    """Nobody is cut off by the rotation itself; after the overlap the old secret is told nothing, not for a moment."""
    async with serve() as server, Writing(parts, place):
        reader = await Reader.begin(server, key.secret)
        await reader.next()
        fresh = (await ask(server, ROTATE, id=key.key.id, seconds=2))["rotateApiKey"]["secret"]
        ends = asyncio.get_running_loop().time() + 2
        while asyncio.get_running_loop().time() < ends - 0.3:
            await reader.next()
        code, reason = await asyncio.wait_for(reader.until_closed(), 2)
        assert code == 4403
        assert reason.startswith(("the token has expired", "cursor="))
        assert asyncio.get_running_loop().time() < ends + 0.5, "the next event ends it, not the next look"
        heir = await Reader.begin(server, fresh, reader.cursor)
        assert await heir.next() == reader.numbers[-1] + 1


async def test_a_key_that_expires_is_told_nothing_afterwards(
    serve: Serve, parts: Parts, place: Place, key: NewKey
) -> None:
    services = parts.services
    expires = services.clock() + timedelta(seconds=1.5)
    async with factories.working(services, place.institution.id) as work:
        draft = KeyDraft("short", Role.READ_ONLY, expires_at=expires)
        short = await service.create_api_key(work, place.institution.id, draft)
    async with serve() as server, Writing(parts, place):
        reader = await Reader.begin(server, short.secret)
        code, _ = await asyncio.wait_for(reader.until_closed(), 4)
        assert code == 4403
        assert (services.clock() - expires).total_seconds() < 0.5
    assert reader.numbers


async def test_a_lesser_role_ends_a_stream_that_it_may_not_have(
    serve: Serve, key: NewKey, owner: asyncpg.Connection
) -> None:
    """The audit is an admin's; whose key is made READ_ONLY meanwhile sees it no more, and is refused anew."""
    async with serve() as server:
        peer = await server.dial(key.secret)
        await peer.subscribe("a", AUDIT)
        await peer.until("next")
        await owner.execute(
            "UPDATE api_keys SET role = 'READ_ONLY', scopes = ARRAY['read'] WHERE id = $1", key.key.id
        )
        assert await peer.closed(2) == (4403, WITHDRAWN)
        again = await server.dial(key.secret)
        await again.subscribe("a", AUDIT)
        told = await again.next()
        errors = told["payload"] if told["type"] == "error" else told["payload"]["errors"]
        assert errors[0]["extensions"]["code"] == "FORBIDDEN"


async def test_an_open_socket_of_a_revoked_key_writes_nothing(
    serve: Serve, parts: Parts, place: Place, key: NewKey, owner: asyncpg.Connection
) -> None:
    """What comes on a socket is judged by what the key is now, not by what it was when the socket was opened."""
    position = await factories.position(parts.services, place.asset)
    async with serve() as server:
        peers = [await server.dial(key.secret) for _ in range(5)]
        before = await owner.fetchval("SELECT count(*) FROM ledger_events")
        await ask(server, REVOKE, id=key.key.id)
        for peer in peers:
            await peer.subscribe("a", FUND, variables={"id": position.id})
        for peer in peers:
            code, _ = await peer.closed(2)
            assert code == 4403
        assert await owner.fetchval("SELECT count(*) FROM ledger_events") == before


async def test_a_storm_of_changes_of_keys_costs_no_connection(serve: Serve, key: NewKey) -> None:
    async with serve() as server:
        peer = await server.dial(key.secret)
        await peer.subscribe("a", AUDIT)
        live = server.app.state.live
        for _ in range(500):
            live.look()
            await asyncio.sleep(0.001)
        for _ in range(2):
            await peer.until("next")

        async def quiet() -> bool:
            return not live._keys_changed.is_set()

        await eventually(quiet, seconds=3)
