"""GraphQL over Server-Sent Events on a real port."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from .conftest import AUTH, ENDED, EVENTS, GRAPHQL, JSON, QUICK, TENANT, Site, cost, eventually, served

SINGLE_COST = '{"cost":{"requested":1,"actual":1,"available":null}}}'
LIVE_COST = '"extensions":{"cost":{"requested":10,"actual":10,"available":null}}}'

STREAM = {**AUTH, "Accept": EVENTS}


@asynccontextmanager
async def stream(
    http: httpx.AsyncClient, query: str, method: str = "POST", headers: Any = None, **more: Any
) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[str]]]:
    sent = {**STREAM, **(headers or {})}
    asked = {"query": query, **more}
    place = {"params": asked} if method == "GET" else {"json": asked}
    async with http.stream(method, "/graphql", headers=sent, **place) as response:
        yield response, blocks(response)


async def blocks(response: httpx.Response) -> AsyncIterator[str]:
    """The blocks between empty lines."""
    waiting = ""
    async for text in response.aiter_text():
        waiting += text
        *whole, waiting = waiting.split("\n\n")
        for block in whole:
            yield block
    assert not waiting


async def whole(http: httpx.AsyncClient, query: str, **more: Any) -> list[str]:
    async with stream(http, query, **more) as (response, events):
        assert response.status_code == 200
        return [block async for block in events]


def data_of(block: str) -> Any:
    (line,) = [line for line in block.split("\n") if line.startswith("data: ")]
    return json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_subscription_streams_with_its_cursors(
    http: httpx.AsyncClient, site: Site, method: str
) -> None:
    async with stream(http, "subscription {count(to: 2)}", method) as (response, events):
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache, no-store, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"]
        assert [block async for block in events] == [
            "retry: 2000",
            'id: c1\nevent: next\ndata: {"data":{"count":1},' + LIVE_COST,
            'id: c2\nevent: next\ndata: {"data":{"count":2},' + LIVE_COST,
            "event: complete\ndata: ",
        ]
    await eventually(lambda: len(site.closed) == 1)


async def test_last_event_id_reaches_the_operation(http: httpx.AsyncClient) -> None:
    for headers, expected in (({"Last-Event-ID": "c7"}, "c7"), ({}, "None")):
        found = await whole(http, "subscription {resumed}", headers=headers)
        assert data_of(found[1]) == {"data": {"resumed": expected}, **cost(10)}
    response = await http.post(
        "/graphql",
        json={"query": "subscription {resumed}"},
        headers={**STREAM, "Last-Event-ID": "x" * 2000},
    )
    assert (response.status_code, response.json()["errors"][0]["extensions"]["code"]) == (
        400,
        "CURSOR_INVALID",
    )


async def test_queries_and_mutations_are_one_event(http: httpx.AsyncClient) -> None:
    assert await whole(http, "{ping}") == [
        "retry: 2000",
        'event: next\ndata: {"data":{"ping":"pong"},"extensions":' + SINGLE_COST,
        "event: complete\ndata: ",
    ]
    found = await whole(http, 'mutation {note(text: "a")}', headers={"Idempotency-Key": "k"})
    assert data_of(found[1]) == {"data": {"note": "a:k"}, **cost(10)}


async def test_text_never_breaks_out_of_its_line(http: httpx.AsyncClient) -> None:
    found = await whole(
        http, "query($t: String!) {echo(text: $t)}", variables={"t": "a\r\n\nevent: complete\u2028"}
    )
    assert len(found) == 3
    assert data_of(found[1])["data"]["echo"] == "a\r\n\nevent: complete\u2028"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{nothing}", "GRAPHQL_VALIDATION_FAILED"),
        ("query A {ping} query B {ping}", "BAD_REQUEST"),
        ("query($t: String!) {echo(text: $t)}", "BAD_USER_INPUT"),
        ('subscription {count(to: "x")}', "GRAPHQL_VALIDATION_FAILED"),
    ],
)
async def test_what_cannot_run_is_told_in_the_stream(http: httpx.AsyncClient, query: str, code: str) -> None:
    found = await whole(http, query)
    body = data_of(found[1])
    assert "data" not in body
    assert {error["extensions"]["code"] for error in body["errors"]} == {code}
    assert found[2] == "event: complete\ndata: "


async def test_a_mutation_cannot_come_by_get(http: httpx.AsyncClient) -> None:
    async with stream(http, 'mutation {note(text: "x")}', "GET") as (_, events):
        found = [block async for block in events]
    assert data_of(found[1])["errors"][0]["extensions"]["code"] == "BAD_REQUEST"


async def test_malformed_requests_are_refused_before_the_stream(http: httpx.AsyncClient) -> None:
    for content, headers, status in (
        (b"{", STREAM, 400),
        (b'{"query":"{ping}"}', {"Accept": EVENTS}, 401),
        (b'{"query":7}', STREAM, 400),
    ):
        response = await http.post("/graphql", content=content, headers={**headers, "Content-Type": JSON})
        assert response.status_code == status
        assert response.headers["content-type"] == f"{JSON}; charset=utf-8"
        assert response.json()["errors"]


async def test_who_takes_both_gets_what_fits_the_operation(http: httpx.AsyncClient) -> None:
    both = {**AUTH, "Accept": f"{GRAPHQL}, {JSON}, {EVENTS}, multipart/mixed"}
    single = await http.post("/graphql", json={"query": "{ping}"}, headers=both)
    assert single.headers["content-type"].startswith(GRAPHQL)
    streamed = await http.post("/graphql", json={"query": "subscription {count(to: 1)}"}, headers=both)
    assert streamed.headers["content-type"].startswith(EVENTS)
    assert streamed.text.count("event: next") == 1


@pytest.mark.parametrize("pace", [QUICK])
async def test_an_idle_stream_is_kept_alive(http: httpx.AsyncClient, site: Site) -> None:
    async with stream(http, "subscription {silent}") as (_, events):
        assert await anext(events) == "retry: 2000"
        for _number in range(3):
            assert await asyncio.wait_for(anext(events), 2) == ": keep-alive"
        assert site.sample("escrowgrid_live_connections", transport="sse") == 1
        await events.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: ENDED == ["silent"] and len(site.closed) == 1)
    await eventually(lambda: site.sample("escrowgrid_live_connections", transport="sse") == 0)


async def test_a_client_that_goes_away_ends_the_source_at_once(http: httpx.AsyncClient, site: Site) -> None:
    async with stream(http, "subscription {silent}") as (_, events):
        assert await anext(events) == "retry: 2000"
        await eventually(lambda: site.sample("escrowgrid_operations_open", transport="sse") == 1)
        await events.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: ENDED == ["silent"] and len(site.closed) == 1)
    assert site.sample("escrowgrid_operations_open", transport="sse") == 0


async def test_a_source_that_breaks_ends_its_stream(http: httpx.AsyncClient, noisy: None) -> None:
    found = await whole(http, "subscription {breaks}", headers={"X-Request-Id": "s1"})
    assert data_of(found[1]) == {"data": {"breaks": 1}, **cost(10)}
    (error,) = data_of(found[2])["errors"]
    assert error["message"] == "something went wrong on our side; request id s1"
    assert found[3] == "event: complete\ndata: "


@pytest.mark.parametrize("pace", [QUICK])
async def test_a_revoked_key_completes_its_streams(http: httpx.AsyncClient, site: Site) -> None:
    headers = {"X-API-Key": TENANT, "Authorization": f"Bearer {TENANT}"}
    async with stream(http, "subscription {count(to: 1, every: 60)}", headers=headers) as (_, events):
        assert await anext(events) == "retry: 2000"
        assert data_of(await anext(events)) == {"data": {"count": 1}, **cost(10)}
        del site.keys.known[TENANT]
        rest = [block async for block in events if not block.startswith(":")]
    assert data_of(rest[0])["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert rest[1:] == ["event: complete\ndata: "]
    assert ENDED == ["count"]


async def test_a_server_that_goes_ends_its_streams_for_them_to_return(site: Site) -> None:
    async with served(site) as server:
        async with httpx.AsyncClient(base_url=site.url, trust_env=False) as http:
            async with stream(http, "subscription {count(to: 1, every: 60)}") as (_, events):
                await anext(events)
                await anext(events)
                server.should_exit = True
                assert [block async for block in events] == [": the server restarts"]
    assert ENDED == ["count"]


@pytest.mark.parametrize("pace", [QUICK])
async def test_a_stream_that_takes_nothing_is_dropped(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    raw.setblocking(False)
    port = int(site.url.rpartition(":")[2])
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    _, writer = await asyncio.open_connection(sock=raw, limit=1024)
    body = json.dumps({"query": "subscription {flood}"})
    head = "".join(f"{name}: {value}\r\n" for name, value in STREAM.items())
    writer.write(
        f"POST /graphql HTTP/1.1\r\nHost: x\r\n{head}Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    await eventually(lambda: site.sample("escrowgrid_live_connections", transport="sse") == 1)
    await eventually(lambda: site.sample("escrowgrid_live_connections", transport="sse") == 0, 10)
    await eventually(lambda: len(site.closed) == 1)
    await eventually(lambda: any(record.name == "escrowgrid.access" for record in caplog.records))
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
