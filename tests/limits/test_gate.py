"""Strangers, limited by address before any work is done for them; crowds of connections; both told in the audit."""

import asyncio
import contextlib
import json
import time
import tracemalloc
from typing import Any

import asyncpg
import httpx
import pytest
from prometheus_client import CollectorRegistry
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.audit.model import Action, AuditEntry
from app.http import door as doors
from app.http import gate
from app.http.door import Door
from app.http.exchange import Exchange
from app.http.gate import Doorman, neighbourhood
from app.http.metrics import Metrics
from app.http.wire import RefusedError
from app.institutions.model import NewKey
from app.main import Parts
from app.principal import root
from app.settings import Settings
from tests.conftest import ROOT_KEY, eventually
from tests.http.conftest import EVENTS, PROTOCOL
from tests.limits.conftest import VIEWER, Serve

FEW = {"address_capacity": 5, "address_refill_per_second": 0.01, "trusted_proxies": ("127.0.0.1",)}
LIVE = "subscription { ledgerEvents(heartbeatSeconds: 1) { cursor } }"


def told(response: httpx.Response) -> dict[str, Any]:
    (error,) = response.json()["errors"]
    return dict(error["extensions"])


def from_(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


async def test_failed_look_ups_are_limited_by_address(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(**FEW) as server:
        graphql = next(route for route in server.app.routes if route.path == "/graphql")  # type: ignore[attr-defined]
        authenticator, asked = graphql.app.runner.authenticator, []  # type: ignore[attr-defined]
        real = authenticator.authenticate

        async def noting(secret: str) -> Any:
            asked.append(secret)
            return await real(secret)

        monkeypatch.setattr(authenticator, "authenticate", noting)
        there = {**from_("203.0.113.9")}
        statuses = [
            (await server.ask(VIEWER, key=f"eg_{'x' * 42}{number}", **there)).status_code
            for number in range(8)
        ]
        assert statuses == [401] * 5 + [429] * 3
        assert len(asked) == 5
        response = await server.ask(VIEWER, key=None, **there)
        error = told(response)
        assert error.pop("retryAfter") == int(response.headers["retry-after"]) > 50
        assert error == {"code": "RATE_LIMITED", "limit": "address_capacity", "max": 5}
        assert response.headers["ratelimit-limit"] == "5"
        # Others are not touched, be they next door.
        assert (await server.ask(VIEWER, key="wrong", **from_("203.0.113.10"))).status_code == 401


async def test_whoever_was_known_before_goes_on_behind_the_same_address(
    serve: Serve, key: NewKey, other_key: NewKey
) -> None:
    async with serve(**FEW) as server:
        there = from_("203.0.113.9")
        assert (await server.ask(VIEWER, key=key.secret, **there)).status_code == 200
        while (await server.ask(VIEWER, key="wrong", **there)).status_code != 429:
            pass
        for _ in range(20):
            assert (await server.ask(VIEWER, key=key.secret, **there)).status_code == 200
        # A key that nobody has brought yet cannot be told from a wrong one without a look-up.
        assert (await server.ask(VIEWER, key=other_key.secret, **there)).status_code == 429
        assert (await server.ask(VIEWER, key=other_key.secret, **from_("203.0.113.7"))).status_code == 200
        assert (await server.ask(VIEWER, key=other_key.secret, **there)).status_code == 200


async def test_good_keys_cost_their_address_nothing(serve: Serve, key: NewKey) -> None:
    async with serve(**FEW) as server:
        there = from_("203.0.113.9")
        for _ in range(30):
            assert (await server.ask(VIEWER, key=key.secret, **there)).status_code == 200
        statuses = [(await server.ask(VIEWER, key="wrong", **there)).status_code for _ in range(6)]
        assert statuses == [401] * 5 + [429]


async def test_a_revoked_key_makes_a_stranger_of_its_bringer(
    serve: Serve, key: NewKey, other_key: NewKey
) -> None:
    async with serve(**FEW) as server:
        there = from_("203.0.113.9")
        assert (await server.ask(VIEWER, key=other_key.secret, **there)).status_code == 200
        revoke = "mutation($id: ID!) { revokeApiKey(input: {id: $id}) { userErrors { code } } }"
        await server.ask(revoke, {"id": other_key.key.id}, key=key.secret)
        await asyncio.sleep(1.1)
        statuses = [(await server.ask(VIEWER, key=other_key.secret, **there)).status_code for _ in range(8)]
        assert statuses == [401] * 6 + [429] * 2


async def test_the_body_is_not_read_and_everything_else_counts_too(serve: Serve) -> None:
    async with serve(**FEW) as server:
        there = from_("203.0.113.9")
        for path in ("/", "/graphql", "/nothing", "/graphiql/operations.json", "/graphiql/assets/none.js"):
            assert (await server.http.get(path, headers={**there, "Accept": "text/html"})).status_code != 429
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(
            b"POST /graphql HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\nX-API-Key: wrong\r\n"
            b'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{"query":\r\n'
        )
        # The rest never comes, and nobody waits for it.
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 429")
        writer.close()
        await writer.wait_closed()
        for path in ("/", "/nothing", "/graphql"):
            assert (await server.http.get(path, headers=there)).status_code == 429
        assert (await server.http.get("/health", headers=there)).status_code == 200


async def test_handshakes_of_strangers_are_limited_too(serve: Serve) -> None:
    async with serve(**FEW) as server:
        place = server.url.replace("http", "ws", 1) + "/graphql"
        options: dict[str, Any] = {
            "subprotocols": [PROTOCOL],
            "proxy": None,
            "additional_headers": from_("203.0.113.9"),
        }
        for _ in range(5):
            async with connect(place, **options) as socket:
                await socket.send('{"type":"connection_init","payload":{"authorization":"Bearer wrong"}}')
                with contextlib.suppress(Exception):
                    await socket.recv()
        with pytest.raises(InvalidStatus) as refused:
            async with connect(place, **options):
                pass
        assert refused.value.response.status_code == 429
        assert refused.value.response.headers["retry-after"]
        # Whoever says who it is pays nothing.
        options["additional_headers"] = from_("203.0.113.7")
        for _ in range(12):
            async with connect(place, **options) as socket:
                payload = {"authorization": f"Bearer {ROOT_KEY}"}
                await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
                assert await socket.recv() == '{"type":"connection_ack"}'


def test_who_is_counted_as_one() -> None:
    assert neighbourhood("203.0.113.9") == "203.0.113.9"
    assert neighbourhood(None) == ""
    assert neighbourhood("2001:db8:1:2::1") == neighbourhood("2001:db8:1:2:ffff::9") == "20010db800010002/64"
    assert neighbourhood("2001:db8:1:3::1") != neighbourhood("2001:db8:1:2::1")
    assert neighbourhood("::ffff:203.0.113.9") == "203.0.113.9"
    assert neighbourhood("fe80::1%eth0") == neighbourhood("fe80::2")
    assert neighbourhood("non:sense") == "non:sense"


def doorman(**settings: Any) -> Doorman:
    return Doorman(Settings(**settings), Metrics(CollectorRegistry()))


async def test_a_flood_of_addresses_is_cheap_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "ADDRESSES_MAX", 5_000)
    monkeypatch.setattr(gate, "FAMILIAR_MAX", 1_000)
    man = doorman(address_capacity=3, address_refill_per_second=0.01)
    for number in range(10_000):
        man.admit(Exchange("r", f"10.1.{number >> 8}.{number & 255}"), None)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(50_000):
        known = Exchange("r", f"2001:db8:{number:x}::1")
        man.admit(known, f"secret {number}")
        man.welcome(known, f"secret {number}")
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(man) == 6_000
    assert grown < 3_000_000
    refused, began = 0, time.perf_counter()
    for _ in range(20_000):
        try:
            man.admit(Exchange("r", "203.0.113.9"), "wrong")
        except RefusedError:
            refused += 1
    assert refused == 20_000 - 3
    assert (time.perf_counter() - began) / 20_000 < 0.0005


async def test_each_key_and_each_address_has_its_share_of_connections(
    serve: Serve, key: NewKey, other_key: NewKey
) -> None:
    async with serve(connections_per_key_max=2, connections_per_address_max=4) as server:
        first, second = await server.dial(key.secret), await server.dial(key.secret)
        crowded = await server.dial(None)
        await crowded.send({"type": "connection_init", "payload": {"authorization": f"Bearer {key.secret}"}})
        code, reason = await crowded.closed()
        assert code == 1013
        assert reason.startswith("this key has 2 connections open")
        events = {"Accept": EVENTS, "Authorization": f"Bearer {key.secret}"}
        response = await server.http.post("/graphql", json={"query": LIVE}, headers=events)
        assert response.status_code == 429
        assert told(response) == {
            "code": "RATE_LIMITED",
            "limit": "connections_per_key_max",
            "max": 2,
            "retryAfter": 10,
        }
        third, fourth = await server.dial(other_key.secret), await server.dial(other_key.secret)
        with pytest.raises(InvalidStatus) as refused:
            await server.dial(ROOT_KEY)
        assert refused.value.response.status_code == 429
        response = await server.http.post(
            "/graphql", json={"query": LIVE}, headers={**events, "Authorization": f"Bearer {ROOT_KEY}"}
        )
        assert told(response)["limit"] == "connections_per_address_max"
        for peer in (first, second, third, fourth):
            await peer.socket.close()
        again = await server.dial(key.secret)
        await again.subscribe("a", VIEWER)
        await again.until("next", "a")
        async with server.http.stream("POST", "/graphql", json={"query": LIVE}, headers=events) as stream:
            assert stream.status_code == 200
        await again.socket.close()

        async def empty() -> bool:
            return len(server.app.state.live.crowd) == 0

        await eventually(empty)


class Rows:
    """Takes rows."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []

    def offer(self, entry: AuditEntry) -> None:
        self.entries.append(entry)


def stranger(address: str = "203.0.113.9", number: int = 0) -> Exchange:
    return Exchange(f"req_{number}", address, path="/graphql")


async def test_a_little_is_told_whole_and_much_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(doors, "ROWS_PER_SECOND", 20.0)
    rows, registry = Rows(), CollectorRegistry()
    door = Door(rows, Metrics(registry))
    for number in range(100):
        door.note(stranger(number=number), "UNAUTHENTICATED")
    assert [entry.payload for entry in rows.entries] == [{}, {}, {}]
    door.note(stranger("203.0.113.10"), "UNAUTHENTICATED")
    assert len(rows.entries) == 4
    await asyncio.sleep(0.06)
    door.note(stranger(), "UNAUTHENTICATED")
    assert rows.entries[-1].payload == {"leftOut": 97}
    assert rows.entries[-1].action is Action.AUTH_FAILED
    assert (rows.entries[-1].actor_id, rows.entries[-1].institution_id) == ("nobody", None)
    left_out = registry.get_sample_value("escrowgrid_audit_left_out_total", {"action": "AUTH_FAILED"})
    assert left_out == 97
    assert registry.get_sample_value("escrowgrid_turned_away_total", {"action": "AUTH_FAILED"}) == 102
    door.close()


async def test_when_a_flood_is_over_what_was_left_out_is_told_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doors, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(doors, "SUM_UP_SECONDS", 0.1)
    rows = Rows()
    door = Door(rows, Metrics(CollectorRegistry()))
    for number in range(50):
        door.note(stranger(number=number), "RATE_LIMITED")
    assert len(rows.entries) == 1
    await asyncio.sleep(0.2)
    assert [entry.payload for entry in rows.entries] == [{}, {"leftOut": 48}]
    assert rows.entries[-1].request_id == "req_49"
    door.close()


async def test_a_distributed_flood_is_bounded_in_rows_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "NAMES_MAX", 1_000)
    rows = Rows()
    door = Door(rows, Metrics(CollectorRegistry()))
    for number in range(20_000):
        door.note(stranger(f"10.{number >> 16}.{(number >> 8) & 255}.{number & 255}"), "UNAUTHENTICATED")
    assert len(rows.entries) <= doors.ALL_ROWS_AT_ONCE + 50
    assert len(door._left_out) <= 1_000
    door.close()
    assert len(rows.entries) <= doors.ALL_ROWS_AT_ONCE + 50 + doors.SUMMED_UP_MAX


async def test_what_is_no_refusal_of_the_door_is_not_told_by_it() -> None:
    rows = Rows()
    door = Door(rows, Metrics(CollectorRegistry()))
    known = stranger()
    known.principal = root()
    for code in ("NOT_FOUND", "INTERNAL", "FORBIDDEN", "UNAVAILABLE", "METHOD_NOT_ALLOWED"):
        door.note(known, code)
    assert rows.entries == []
    door.close()


async def test_the_door_tells_the_audit_who_was_turned_away_and_why(
    serve: Serve, key: NewKey, owner: asyncpg.Connection
) -> None:
    async with serve() as server:
        await server.ask(VIEWER, key="wrong", **{"X-Request-Id": "r-auth"})
        await server.ask("{nothing alsoNothing}", key=key.secret, **{"X-Request-Id": "r-doc"})
        peer = await server.dial(None)
        await peer.send({"type": "connection_init", "payload": {"authorization": "Bearer wrong"}})
        await peer.closed()

        async def written() -> bool:
            return await owner.fetchval("SELECT count(*) FROM audit_events WHERE outcome = 'FAILURE'") == 3

        await eventually(written)
        rows = await owner.fetch("SELECT * FROM audit_events WHERE outcome = 'FAILURE' ORDER BY occurred_at")
    first, second, third = rows
    assert (first["action"], first["code"], first["request_id"]) == (
        "AUTH_FAILED",
        "UNAUTHENTICATED",
        "r-auth",
    )
    assert (first["institution_id"], first["actor_id"], first["actor_role"]) == (None, "nobody", "")
    assert (first["operation"], first["client_address"]) == ("/graphql", "127.0.0.1")
    assert (second["action"], second["code"]) == ("VALIDATION_FAILED", "GRAPHQL_VALIDATION_FAILED")
    assert (second["actor_id"], second["institution_id"]) == (key.key.id, key.key.institution_id)
    assert third["action"] == "AUTH_FAILED"


async def test_a_flood_of_wrong_keys_writes_few_rows_and_leaves_money_alone(
    serve: Serve, key: NewKey, owner: asyncpg.Connection, parts: Parts
) -> None:
    async with serve(address_capacity=20, address_refill_per_second=1) as server:
        assert (await server.ask(VIEWER, key=key.secret)).status_code == 200

        async def flood() -> int:
            statuses = [(await server.ask(VIEWER, key="wrong")).status_code for _ in range(150)]
            return statuses.count(429)

        limited = sum(await asyncio.gather(*(flood() for _ in range(4))))
        assert limited > 500
        assert (await server.ask(VIEWER, key=key.secret)).status_code == 200
        text = await server.metrics()
        assert 'escrowgrid_rate_limited_total{by="address"}' in text
        assert 'escrowgrid_audit_left_out_total{action="RATE_LIMITED"}' in text

        async def written() -> bool:
            return bool(
                await owner.fetchval("SELECT count(*) FROM audit_events WHERE action = 'AUTH_FAILED'")
            )

        await eventually(written)
        assert await owner.fetchval("SELECT count(*) FROM audit_events") < 60
