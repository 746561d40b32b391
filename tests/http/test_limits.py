"""What is bounded, added or told before any work is done; and what the log and the metrics keep of it."""

import asyncio
import gzip
import hashlib
import json
import logging
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from app.http import limits

from .conftest import AUTH, EVENTS, GRAPHQL, JSON, TENANT, Site, eventually


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    records = [record for record in caplog.records if record.name == "escrowgrid.access"]
    return [json.loads(record.getMessage()) for record in records]


@pytest.mark.parametrize("overrides", [{"body_bytes_max": 2048}])
async def test_a_large_body_is_refused_while_it_arrives(http: httpx.AsyncClient, site: Site) -> None:
    big = json.dumps({"query": "{ping} #" + "x" * 3000})
    told = await http.post("/graphql", content=big, headers={**AUTH, "Content-Type": JSON, "Accept": GRAPHQL})
    assert told.status_code == 413
    assert told.json()["errors"][0]["extensions"] == {
        "code": "PAYLOAD_TOO_LARGE",
        "limit": "body_bytes_max",
        "max": 2048,
    }
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 1024
            await asyncio.sleep(0.01)

    with_length = await http.post("/graphql", content=b"x" * 10_000_000, headers=AUTH)
    assert with_length.status_code == 413
    chunked = await http.post("/graphql", content=endless(), headers={**AUTH, "Content-Type": JSON})
    assert chunked.status_code == 413
    assert sent <= 100
    fits = json.dumps({"query": "{ping} #" + "x" * (2048 - 21)})
    assert len(fits) == 2048
    told = await http.post("/graphql", content=fits, headers={**AUTH, "Content-Type": JSON})
    assert told.status_code == 200


@pytest.mark.parametrize("overrides", [{"request_seconds_max": 0.2}])
async def test_a_body_that_does_not_arrive_is_given_up(http: httpx.AsyncClient) -> None:
    async def slow() -> Any:
        yield b'{"query":'
        await asyncio.sleep(0.6)
        yield b'"{ping}"}'

    told = await http.post("/graphql", content=slow(), headers={**AUTH, "Content-Type": JSON})
    assert (told.status_code, told.json()["errors"][0]["extensions"]["code"]) == (408, "REQUEST_TIMEOUT")


async def test_a_request_id_is_taken_when_it_is_plain_and_made_otherwise(http: httpx.AsyncClient) -> None:
    for given in ("abc", "A.b_c-9", "x" * 64):
        response = await http.get("/health", headers={"X-Request-Id": given})
        assert response.headers["x-request-id"] == given
    for bad in ("", "x" * 65, "a b", "a;b", "<script>", "é".encode(), '"'):
        response = await http.get("/health", headers={"X-Request-Id": bad})
        assert limits.REQUEST_ID.fullmatch(response.headers["x-request-id"])
        assert len(response.headers["x-request-id"]) == 24
    query = {"query": "{asker{requestId}}"}
    response = await http.post("/graphql", json=query, headers={**AUTH, "X-Request-Id": "mine"})
    assert response.json()["data"]["asker"]["requestId"] == "mine"


async def test_every_answer_has_the_security_headers(http: httpx.AsyncClient) -> None:
    for path in ("/graphql", "/health", "/nothing", "/metrics"):
        response = await http.get(path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert "server" not in response.headers


def forwarded(peer: str | None, header: str | None, *trusted: str, more: str | None = None) -> str | None:
    raw = [(b"x-forwarded-for", value.encode()) for value in (header, more) if value is not None]
    scope = {"type": "http", "client": None if peer is None else (peer, 1), "headers": raw}
    return limits.client_address(scope, Headers(raw=raw), limits.networks(trusted))


def test_a_forwarded_address_is_believed_from_proxies_only() -> None:
    assert forwarded("9.9.9.9", None) == "9.9.9.9"
    assert forwarded("9.9.9.9", "1.1.1.1") == "9.9.9.9"
    assert forwarded("10.0.0.1", "1.1.1.1", "10.0.0.1") == "1.1.1.1"
    assert forwarded("10.0.0.1", "6.6.6.6, 1.1.1.1", "10.0.0.1") == "1.1.1.1"
    assert forwarded("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "10.0.0.0/8") == "1.1.1.1"
    assert forwarded("10.0.0.1", "6.6.6.6", "10.0.0.0/8", more="1.1.1.1, 10.0.0.2") == "1.1.1.1"
    assert forwarded("10.0.0.1", "1.1.1.1, nonsense", "10.0.0.1") == "10.0.0.1"
    assert forwarded("10.0.0.1", "nonsense, 10.0.0.2", "10.0.0.0/8") == "10.0.0.2"
    assert forwarded("10.0.0.1", "", "10.0.0.1") == "10.0.0.1"
    assert forwarded("10.0.0.1", "1.1.1.1:8080", "10.0.0.1") == "1.1.1.1"
    assert forwarded("::1", "[2001:db8::7]:99", "::1") == "2001:db8::7"
    assert forwarded("::ffff:10.0.0.1", "1.1.1.1", "10.0.0.1") == "1.1.1.1"
    assert forwarded("10.0.0.1", "10.0.0.9, 10.0.0.8", "10.0.0.0/8") == "10.0.0.9"
    assert forwarded(None, "1.1.1.1", "10.0.0.1") is None
    with pytest.raises(ValueError, match="nonsense"):
        limits.networks(["nonsense"])


@pytest.mark.parametrize("overrides", [{"trusted_proxies": "127.0.0.1"}])
async def test_the_address_reaches_the_operation_and_the_log(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {**AUTH, "X-Forwarded-For": "6.6.6.6, 203.0.113.7"}
    response = await http.post("/graphql", json={"query": "{asker{clientAddress}}"}, headers=headers)
    assert response.json()["data"]["asker"]["clientAddress"] == "203.0.113.7"
    assert lines(caplog)[-1]["client"] == "203.0.113.7"


@pytest.mark.parametrize("overrides", [{"cors_origins": "https://app.example.com"}])
async def test_browsers_of_allowed_origins_may_ask_and_read_refusals(direct: httpx.AsyncClient) -> None:
    preflight = await direct.options(
        "/graphql",
        headers={
            "Origin": "https://app.example.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,last-event-id",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
    for headers in ({}, AUTH):
        response = await direct.post(
            "/graphql", json={"query": "{ping}"}, headers={**headers, "Origin": "https://app.example.com"}
        )
        assert response.status_code == (200 if headers else 401)
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "X-Request-Id" in response.headers["access-control-expose-headers"]
    foreign = await direct.post(
        "/graphql", json={"query": "{ping}"}, headers={**AUTH, "Origin": "https://evil.example"}
    )
    assert "access-control-allow-origin" not in foreign.headers


async def test_big_answers_are_compressed_and_small_ones_and_streams_are_not(http: httpx.AsyncClient) -> None:
    asked = {**AUTH, "Accept-Encoding": "gzip"}
    big = json.dumps({"query": '{echo(text: "%s")}' % ("x" * 20_000)})
    request = http.build_request(
        "POST", "/graphql", content=big, headers={**asked, "Content-Type": JSON, "Accept": JSON}
    )
    response = await http.send(request, stream=True)
    raw = b"".join([chunk async for chunk in response.aiter_raw()])
    assert response.headers["content-encoding"] == "gzip"
    assert len(raw) < 1000
    assert json.loads(gzip.decompress(raw))["data"]["echo"] == "x" * 20_000
    small = await http.post("/graphql", json={"query": "{ping}"}, headers=asked)
    assert "content-encoding" not in small.headers
    streamed = await http.post(
        "/graphql",
        content=json.dumps({"query": "subscription {count(to: 1)}"}),
        headers={**asked, "Content-Type": JSON, "Accept": EVENTS},
    )
    assert "content-encoding" not in streamed.headers
    page = await http.get("/graphql", headers={"Accept": "text/html", "Accept-Encoding": "identity"})
    for name in [part.split('"')[1] for part in page.text.split("src=")[1:]]:
        asset = await http.get(name.replace("./", "/"), headers={"Accept-Encoding": "gzip"})
        assert asset.status_code == 200
        assert asset.headers.get("content-encoding") == "gzip" or len(asset.content) < 4096


async def test_one_line_of_json_a_request(http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    query = 'query Seen {refused(kind: "missing")}'
    headers = {"X-API-Key": TENANT, "X-Request-Id": "r1"}
    await http.post("/graphql?token=never", json={"query": query}, headers=headers)
    await http.post(
        "/graphql", json={"query": "{ping}"}, headers={"X-API-Key": "wrong", "X-Request-Id": "r2"}
    )
    await http.get("/noth%0aing", headers={"X-Request-Id": "r3"})
    first, second, third = lines(caplog)
    assert first.pop("duration_ms") > 0
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "status": 200,
        "method": "POST",
        "path": "/graphql",
        "kind": "query",
        "operation": "Seen",
        "document": hashlib.sha256(query.encode()).hexdigest()[:16],
        "cost": 1,
        "rows": 0,
        "operations": 1,
        "outcome": "FAILED",
        "refusals": [],
        "key_id": "key_1",
        "role": "ADMIN",
        "institution_id": "inst_1",
        "request_id": "r1",
        "client": "127.0.0.1",
        "errors": ["NOT_FOUND"],
    }
    assert (second["status"], second["errors"], second["key_id"]) == (401, ["UNAUTHENTICATED"], None)
    assert (third["status"], third["path"], third["errors"]) == (404, "/noth\ning", ["NOT_FOUND"])
    ours = " ".join(record.getMessage() for record in caplog.records if record.name.startswith("escrowgrid"))
    assert "wrong" not in ours
    assert "never" not in ours


async def test_metrics_count_what_was_answered(direct: httpx.AsyncClient, inside: Site) -> None:
    for query in ("query A {ping}", "query A {ping}", 'query B {refused(kind: "missing")}', "{nothing}"):
        await direct.post("/graphql", json={"query": query}, headers=AUTH)
    await direct.get("/nothing")
    sample = inside.sample
    requests = "escrowgrid_http_requests_total"
    assert sample(requests, method="POST", status="200", operation="A") == 2
    assert sample(requests, method="POST", status="200", operation="B") == 1
    assert sample(requests, method="GET", status="404", operation="") == 1
    assert sample("escrowgrid_errors_total", code="NOT_FOUND") == 2
    assert sample("escrowgrid_operations_total", transport="http", kind="query") == 3
    assert sample("escrowgrid_operations_total", transport="http", kind="refused") == 1
    assert sample("escrowgrid_http_request_seconds_count", method="POST") == 4
    response = await direct.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'escrowgrid_http_requests_total{method="POST",operation="A",status="200"} 2.0' in response.text


async def test_names_that_clients_choose_do_not_fill_the_metrics(
    direct: httpx.AsyncClient, inside: Site
) -> None:
    for number in range(110):
        await direct.post("/graphql", json={"query": f"query Q{number} {{ping}}"}, headers=AUTH)
    await direct.post("/graphql", json={"query": f"query {'Q' * 65} {{ping}}"}, headers=AUTH)
    await direct.request("BREW", "/graphql")
    requests = "escrowgrid_http_requests_total"
    assert inside.sample(requests, method="POST", status="200", operation="other") == 11
    assert inside.sample(requests, method="other", status="405", operation="") == 1


async def test_alive_and_ready(direct: httpx.AsyncClient, inside: Site) -> None:
    alive = await direct.get("/health")
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    ready = await direct.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "checks": {"database": True, "tail": True, "accepting": True}}
    inside.checks["tail"] = False
    assert (await direct.get("/ready")).status_code == 200  # asked at most once a second
    await asyncio.sleep(1.05)
    unready = await direct.get("/ready")
    assert unready.status_code == 503
    assert unready.json() == {
        "ready": False,
        "checks": {"database": True, "tail": False, "accepting": True},
        "reasons": ["the tail has stopped by itself: the log says why; start this process again"],
    }


async def test_a_process_that_goes_is_not_ready(direct: httpx.AsyncClient, inside: Site) -> None:
    await inside.app.state.live.drain()
    unready = await direct.get("/ready")
    assert (unready.status_code, unready.json()["checks"]["accepting"]) == (503, False)
    stream = await direct.post(
        "/graphql", json={"query": "subscription {count}"}, headers={**AUTH, "Accept": EVENTS}
    )
    assert (stream.status_code, stream.json()["errors"][0]["extensions"]["code"]) == (503, "UNAVAILABLE")


async def test_a_client_that_goes_away_is_logged_as_gone(
    http: httpx.AsyncClient, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]))
    writer.write(
        b"POST /graphql HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nContent-Type: application/json\r\n"
        b'Content-Length: 100\r\n\r\n{"query":' % TENANT.encode()
    )
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()
    await writer.wait_closed()
    del reader
    await eventually(lambda: bool(lines(caplog)))
    assert lines(caplog)[0]["status"] == 499


async def test_what_breaks_inside_is_json(
    direct: httpx.AsyncClient, inside: Site, noisy: None, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    async def broken(_: str) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(inside.keys, "authenticate", broken)
    caplog.set_level(logging.INFO)
    response = await direct.post("/graphql", json={"query": "{ping}"}, headers={**AUTH, "X-Request-Id": "r9"})
    assert response.status_code == 500
    assert response.json()["errors"][0] == {
        "message": "something went wrong on our side; request id r9",
        "extensions": {"code": "INTERNAL", "requestId": "r9"},
    }
    assert lines(caplog)[-1]["errors"] == ["INTERNAL"]
    assert len([record for record in caplog.records if record.exc_info]) == 1
