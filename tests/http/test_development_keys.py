"""The development key is told to a page of this server on this very machine, and to nobody else."""

import httpx
import pytest
from starlette.applications import Starlette

from app.http import graphiql
from app.http.graphiql import DevelopmentKey

KEY = DevelopmentKey("Root", "egroot_of-the-tests")
HERE = "http://127.0.0.1:8000"


async def told(
    *,
    host: str = "127.0.0.1",
    peer: str = "127.0.0.1",
    url: str = HERE,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    app = Starlette(routes=graphiql.routes([KEY], host=host))
    transport = httpx.ASGITransport(app, client=(peer, 4711))
    async with httpx.AsyncClient(transport=transport, base_url=url, headers=headers) as client:
        return await client.get("/graphiql/config.json")


@pytest.mark.parametrize("url", [HERE, "http://localhost:8000", "http://[::1]:8000", "http://127.0.0.2"])
async def test_a_page_of_this_machine_is_told_the_key(url: str) -> None:
    for peer, host in (("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "localhost")):
        for headers in ({}, {"Sec-Fetch-Site": "same-origin", "Origin": url}):
            answered = await told(url=url, peer=peer, host=host, headers=headers)
            assert answered.json() == {"developmentKeys": [{"label": "Root", "key": KEY.key}]}
            assert answered.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "ledger.example", ""])
async def test_a_server_that_others_can_reach_tells_no_key(host: str) -> None:
    answered = await told(host=host)
    assert (answered.status_code, KEY.key in answered.text) == (404, False)


@pytest.mark.parametrize(
    "url", ["http://evil.example:8000", "http://192.0.2.7:8000", "http://localhost.evil.example"]
)
async def test_a_name_that_was_made_to_lead_here_is_told_no_key(url: str) -> None:
    answered = await told(url=url, headers={"Sec-Fetch-Site": "same-origin", "Origin": url})
    assert (answered.status_code, KEY.key in answered.text) == (404, False)


@pytest.mark.parametrize("peer", ["203.0.113.9", "10.0.0.2", "fe80::1"])
async def test_another_machine_is_told_no_key(peer: str) -> None:
    answered = await told(peer=peer)
    assert (answered.status_code, KEY.key in answered.text) == (404, False)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "null"},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Host": ""},
        {"Host": "[::1"},
    ],
    ids=str,
)
async def test_other_sites_and_proxies_are_told_no_key(headers: dict[str, str]) -> None:
    answered = await told(headers=headers)
    assert (answered.status_code, KEY.key in answered.text) == (404, False)
