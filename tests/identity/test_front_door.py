"""Tokens at the front door: one answer for every bad one, and live connections that end when a token does."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.http.server import Server, config
from app.institutions.model import Institution
from app.kit.ids import Ids
from app.main import create_app
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.conftest import eventually

from .provider import Provider, SigningKey, forged

ENDED_WITHIN_SECONDS = 2.0
MAKE = """
mutation {
  createApiKey(input: {label: "x", role: READ_ONLY%s}) { secret userErrors { code field } }
}
"""


@pytest.fixture
async def url(settings: Settings, address: Address) -> AsyncIterator[str]:
    """The whole application on a real port."""
    server = Server(config(create_app(settings, address), settings, port=0))
    with contextlib.ExitStack() as stack:
        server.capture_signals = lambda: stack  # type: ignore[method-assign]
        task = asyncio.create_task(server.serve())

        async def started() -> bool:
            return server.started

        await eventually(started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        await task


async def post(
    url: str, token: str, document: str = "{ viewer { id role expiresAt institution { id } } }"
) -> Any:
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {token}"}
        return await client.post(f"{url}/graphql", json={"query": document}, headers=headers)


async def test_a_token_is_a_viewer_with_an_end(
    url: str, provider: Provider, institution: Institution
) -> None:
    answer = await post(
        url, provider.token(institution_id=institution.id, role="auditor", exp=int(time.time()) + 60)
    )
    viewer = answer.json()["data"]["viewer"]
    assert viewer["id"] == "oidc:somebody"
    assert viewer["role"] == "AUDITOR"
    assert viewer["institution"] == {"id": institution.id}
    assert viewer["expiresAt"].endswith("Z")
    padded = await post(url, provider.token(institution_id=institution.id, groups=["g" * 20] * 200))
    assert padded.status_code == 200, "long tokens are usual"


async def test_every_bad_token_gets_the_same_answer(
    url: str, provider: Provider, institution: Institution, owner: asyncpg.Connection
) -> None:
    before = await factories.footprint(owner)
    good = provider.claims() | {"institution_id": institution.id}
    bad = {
        "none": forged({"alg": "none", "kid": "k1"}, good),
        "confused": forged({"alg": "HS256", "kid": "k1"}, good, b"x" * 32),
        "issuer": provider.token(**good | {"iss": "https://another.example"}),
        "audience": provider.token(**good | {"aud": "another"}),
        "expired": provider.token(**good | {"exp": time.time() - 60, "iat": time.time() - 90}),
        "early": provider.token(**good | {"nbf": time.time() + 60}),
        "foreign": provider.token(**good | {"institution_id": Ids().new("inst")}),
        "role": provider.token(**good | {"role": "owner"}),
        "root": provider.token(**good | {"role": "root"}),
        "stranger": provider.token(SigningKey.new("k1"), **good),
        "unknown key": provider.token(SigningKey.new("k7"), **good),
        "no token": "a.b.c",
        "no key": "eg_" + "x" * 43,
    }
    mutation = 'mutation { createAsset(input: {templateId: "x", label: "y"}) { userErrors { code } } }'
    told = set()
    for token in bad.values():
        for document in ("{ viewer { id } }", mutation):
            answer = await post(url, token, document)
            assert answer.status_code == 401
            (error,) = answer.json()["errors"]
            assert error["extensions"]["code"] == "UNAUTHENTICATED"
            told.add((json.dumps(answer.json(), sort_keys=True), answer.headers["www-authenticate"]))
    assert len(told) == 1, told
    assert await factories.footprint(owner) == before


INIT = "connection_init"
LIVE = "subscription { ledgerEvents(heartbeatSeconds: 1) { cursor heartbeat } }"


@contextlib.asynccontextmanager
async def socket(url: str, token: str, document: str = LIVE) -> AsyncIterator[ClientConnection]:
    address = url.replace("http", "ws", 1) + "/graphql"
    async with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")], proxy=None) as made:
        await made.send(json.dumps({"type": INIT, "payload": {"authorization": f"Bearer {token}"}}))
        assert json.loads(await made.recv())["type"] == "connection_ack"
        await made.send(json.dumps({"type": "subscribe", "id": "a", "payload": {"query": document}}))
        yield made


async def closed(peer: ClientConnection) -> tuple[int, float]:
    """The code that the server closes with, and when it did."""
    try:
        async with asyncio.timeout(10):
            while True:
                await peer.recv()
    except ConnectionClosed as gone:
        # 1006: without a close frame.
        return (gone.rcvd.code if gone.rcvd else 1006), time.time()


async def test_a_socket_ends_with_its_token(url: str, provider: Provider, institution: Institution) -> None:
    ends = time.time() + 2.5
    short = provider.token(institution_id=institution.id, exp=ends)
    lasting = provider.token(institution_id=institution.id, sub="another")
    async with socket(url, short) as peer, socket(url, lasting) as other:
        assert json.loads(await peer.recv())["type"] == "next", "a heartbeat"
        code, at = await closed(peer)
        assert code in (4401, 4403)
        assert ends <= at <= ends + ENDED_WITHIN_SECONDS
        assert json.loads(await other.recv())["type"] == "next", "only that one"


async def test_a_socket_ends_when_the_provider_is_away_too(
    url: str, provider: Provider, institution: Institution
) -> None:
    ends = time.time() + 2.5
    async with socket(url, provider.token(institution_id=institution.id, exp=ends)) as peer:
        provider.delay, provider.status = 30.0, 503
        code, at = await closed(peer)
        assert code in (4401, 4403)
        assert at <= ends + ENDED_WITHIN_SECONDS


class TestWithdrawn:
    """A key that the provider withdraws takes its tokens' sockets along, once that is known."""

    @pytest.fixture
    def changes(self) -> dict[str, Any]:
        return {"oidc_jwks_seconds": 0.2}

    async def test_sockets_of_a_withdrawn_key_end(
        self, url: str, provider: Provider, institution: Institution
    ) -> None:
        async with socket(url, provider.token(institution_id=institution.id)) as peer:
            await peer.recv()
            await provider.publish(SigningKey.new("k2"))
            began = time.time()
            code, at = await closed(peer)
            assert code in (4401, 4403)
            assert at - began < 4


async def test_an_event_stream_ends_with_its_token(
    url: str, provider: Provider, institution: Institution
) -> None:
    ends = time.time() + 2.5
    token = provider.token(institution_id=institution.id, exp=ends)
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(trust_env=False, timeout=10) as client,
        client.stream("POST", f"{url}/graphql", json={"query": LIVE}, headers=headers) as answer,
    ):
        text = (await answer.aread()).decode()
    assert ends <= time.time() <= ends + ENDED_WITHIN_SECONDS
    assert text.count("UNAUTHENTICATED") == 1
    assert text.endswith("event: complete\ndata: \n\n")


async def test_a_token_makes_no_key_that_never_ends(
    url: str, provider: Provider, institution: Institution, owner: asyncpg.Connection, settings: Settings
) -> None:
    ends = datetime.fromtimestamp(int(time.time()) + 60, UTC)
    token = provider.token(institution_id=institution.id, role="admin", exp=int(ends.timestamp()))
    latest = ends + timedelta(days=settings.oidc_key_days_max)
    for expiry in ("", f', expiresAt: "{(latest + timedelta(seconds=1)).isoformat()}"'):
        answer = (await post(url, token, MAKE % expiry)).json()["data"]["createApiKey"]
        assert [error["code"] for error in answer["userErrors"]] == ["ROLE_REFUSED"]
        assert answer["secret"] is None
    assert await owner.fetchval("SELECT count(*) FROM api_keys") == 0
    made = (await post(url, token, MAKE % f', expiresAt: "{latest.isoformat()}"')).json()["data"][
        "createApiKey"
    ]
    assert made["secret"]
    assert (await post(url, made["secret"])).json()["data"]["viewer"]["role"] == "READ_ONLY"
