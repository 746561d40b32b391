"""What callers are told of their limits, on every transport, by whole servers."""

import asyncio
import json
from typing import Any

import asyncpg
import httpx
import pytest

from app.institutions.model import NewKey
from app.settings import Settings
from tests.conftest import ROOT_KEY, eventually
from tests.factories import Place
from tests.http.conftest import EVENTS, GRAPHQL
from tests.limits.conftest import PAGE, VIEWER, Serve, Served

SMALL = {"cost_max": 100, "rate_capacity": 1000, "rate_refill_per_second": 0.01}
CREATE_KEY = (
    'mutation { createApiKey(input: {label: "x", role: READ_ONLY}) { apiKey { id } userErrors { code } } }'
)
CREATE_INSTITUTION = (
    'mutation { createInstitution(input: {name: "x", regions: [US]}) { userErrors { code } } }'
)
LIVE = "subscription { ledgerEvents(heartbeatSeconds: 1) { cursor } }"


def told(response: httpx.Response) -> dict[str, Any]:
    """The one error of an answer."""
    (error,) = response.json()["errors"]
    return dict(error["extensions"])


def cost_of(response: httpx.Response) -> dict[str, Any]:
    return dict(response.json()["extensions"]["cost"])


async def drained(server: Served, key: NewKey) -> None:
    """The key has nothing left: of pages that fail nothing is given back."""
    for cost in (100, 10, 1):
        query = f'{{positions(first: {cost}, after: "nonsense") {{edges {{node {{id}}}}}}}}'
        while (await server.ask(query, key=key.secret)).status_code != 429:
            pass


async def test_every_answer_tells_its_cost_and_what_is_left(serve: Serve, key: NewKey) -> None:
    async with serve(**SMALL) as server:
        response = await server.ask(VIEWER, key=key.secret)
        assert cost_of(response) == {"requested": 1, "actual": 1, "available": 999}
        assert response.headers["ratelimit-limit"] == "1000"
        assert response.headers["ratelimit-remaining"] == "999"
        assert response.headers["ratelimit-reset"] == "100"
        response = await server.ask(PAGE, {"n": 60}, key=key.secret)
        # Asked for sixty, got none: what was not needed is given back.
        assert cost_of(response) == {"requested": 60, "actual": 1, "available": 998}
        response = await server.ask("mutation { createApiKey", key=key.secret)
        assert "extensions" not in response.json()
        assert response.headers["ratelimit-remaining"] == "988"


async def test_the_cost_is_told_on_sockets_and_streams_too(serve: Serve, key: NewKey) -> None:
    async with serve(**SMALL) as server:
        peer = await server.dial(key.secret)
        await peer.subscribe("a", PAGE, variables={"n": 60})
        assert (await peer.until("next"))["payload"]["extensions"] == {
            "cost": {"requested": 60, "actual": 1, "available": 999}
        }
        await peer.subscribe("b", LIVE)
        first, second = await peer.until("next", "b"), await peer.until("next", "b")
        # A stream pays when it begins; its messages are free.
        for frame in (first, second):
            assert frame["payload"]["extensions"]["cost"] == {"requested": 11, "actual": 11, "available": 988}
        events = {"Accept": EVENTS, "Authorization": f"Bearer {key.secret}"}
        async with server.http.stream("POST", "/graphql", json={"query": LIVE}, headers=events) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    assert json.loads(line[6:])["extensions"]["cost"]["available"] == 977
                    break


async def test_who_has_nothing_left_is_told_when_to_come_back(serve: Serve, key: NewKey) -> None:
    async with serve(cost_max=100, rate_capacity=1000, rate_refill_per_second=2) as server:
        await drained(server, key)
        for accept in (GRAPHQL, "application/json"):
            response = await server.ask(PAGE, {"n": 50}, key=key.secret, Accept=accept)
            assert response.status_code == 429
            error = told(response)
            assert error.pop("retryAfter") == int(response.headers["retry-after"]) > 0
            assert error == {"code": "RATE_LIMITED", "limit": "rate_capacity", "max": 1000}
            assert response.headers["content-type"] == f"{accept}; charset=utf-8"
            assert int(response.headers["ratelimit-remaining"]) < 50
        await asyncio.sleep(1.2)
        assert (await server.ask(VIEWER, key=key.secret)).status_code == 200


async def test_a_key_that_asks_too_much_takes_nothing_from_others(
    serve: Serve, key: NewKey, other_key: NewKey
) -> None:
    async with serve(**SMALL) as server:
        await drained(server, key)
        response = await server.ask(VIEWER, key=other_key.secret)
        assert cost_of(response)["available"] == 999
        assert (await server.ask(VIEWER)).status_code == 200
        assert (await server.ask(VIEWER, key=key.secret)).status_code == 429


async def test_root_has_a_bucket_of_its_own(serve: Serve) -> None:
    async with serve(cost_max=100, root_rate_capacity=200, root_rate_refill_per_second=0.01) as server:
        response = await server.ask(VIEWER)
        assert response.headers["ratelimit-limit"] == "200"
        statuses = [(await server.ask(VIEWER)).status_code for _ in range(201)]
        assert statuses.count(429) == 2
        assert told(await server.ask(VIEWER))["limit"] == "root_rate_capacity"


async def test_two_servers_share_the_bucket_of_a_key(serve: Serve, key: NewKey) -> None:
    async with serve(**SMALL) as one, serve(**SMALL) as two:
        fine = 0
        query = '{positions(first: 20, after: "nonsense") {edges {node {id}}}}'
        for number in range(60):
            response = await (one, two)[number % 2].ask(query, key=key.secret)
            fine += response.status_code == 200
        # A few may be lost between the two, never gained.
        assert 45 <= fine <= 50


async def test_health_and_metrics_are_never_limited(serve: Serve, key: NewKey) -> None:
    async with serve(**SMALL, address_capacity=3, address_refill_per_second=0.01) as server:
        await drained(server, key)
        for _ in range(10):
            for path in ("/health", "/ready", "/metrics"):
                assert (await server.http.get(path)).status_code == 200


async def test_zero_switches_it_off(serve: Serve, key: NewKey) -> None:
    async with serve(
        rate_capacity=0, root_rate_capacity=0, sensitive_capacity=0, address_capacity=0
    ) as server:
        for secret in (key.secret, ROOT_KEY):
            response = await server.ask(VIEWER, key=secret)
            assert cost_of(response) == {"requested": 1, "actual": 1, "available": None}
            assert "ratelimit-limit" not in response.headers
        assert (await server.ask(CREATE_KEY, key=key.secret)).status_code == 200
        for _ in range(20):
            assert (await server.ask(VIEWER, key="wrong")).status_code == 401


async def test_a_document_that_is_refused_costs_something(serve: Serve, key: NewKey) -> None:
    async with serve(**SMALL) as server:
        for bad in ("{", "{nothing}", PAGE.replace("$n: Int!", "$n: String!")):
            before = int((await server.ask(VIEWER, key=key.secret)).headers["ratelimit-remaining"])
            await server.ask(bad, key=key.secret)
            after = int((await server.ask(VIEWER, key=key.secret)).headers["ratelimit-remaining"])
            assert before - after == 11, bad


async def test_what_fails_half_way_gives_nothing_back(serve: Serve, key: NewKey) -> None:
    async with serve(**SMALL) as server:
        query = '{positions(first: 50, after: "nonsense") {edges {node {id}}}}'
        response = await server.ask(query, key=key.secret)
        assert told(response)["code"] == "CURSOR_INVALID"
        assert cost_of(response)["available"] == 950


async def test_sensitive_mutations_have_buckets_of_their_own(
    serve: Serve, key: NewKey, other_key: NewKey
) -> None:
    async with serve(sensitive_capacity=3, sensitive_refill_per_second=0.001) as server:
        for _ in range(3):
            assert (await server.ask(CREATE_KEY, key=key.secret)).json()["data"]["createApiKey"]["apiKey"]
        response = await server.ask(CREATE_KEY, key=key.secret)
        assert response.status_code == 429
        error = told(response)
        assert (error["limit"], error["max"]) == ("sensitive_capacity", 3)
        assert error["retryAfter"] > 900
        # Neither another key of the same institution nor root is locked out by it, nor anything else of this key.
        assert (await server.ask(CREATE_KEY, key=other_key.secret)).status_code == 200
        assert (await server.ask(CREATE_INSTITUTION)).status_code == 200
        assert (await server.ask(VIEWER, key=key.secret)).status_code == 200


async def test_many_of_them_in_one_document_are_as_many(serve: Serve, key: NewKey) -> None:
    async with serve(sensitive_capacity=3, sensitive_refill_per_second=0.001) as server:
        body = 'createApiKey(input: {label: "x", role: READ_ONLY}) { apiKey { id } }'
        four = "mutation { ...F ...G } fragment F on Mutation { a: %s b: %s } fragment G on Mutation { c: %s d: %s }"
        response = await server.ask(four % ((body,) * 4), key=key.secret)
        error = told(response)
        assert (error["code"], error["limit"], error["found"]) == ("LIMIT_EXCEEDED", "sensitive_capacity", 4)
        three = "mutation { a: %s b: %s c: %s }" % ((body,) * 3)
        assert (await server.ask(three, key=key.secret)).status_code == 200
        assert (await server.ask(CREATE_KEY, key=key.secret)).status_code == 429


async def test_a_key_that_has_spent_everything_can_still_be_revoked_with_itself(
    serve: Serve, key: NewKey, other_key: NewKey
) -> None:
    async with serve(**SMALL) as server:
        await drained(server, key)
        revoke = "mutation($id: ID!) { revokeApiKey(input: {id: $id}) { apiKey { revokedAt } userErrors { code } } }"
        response = await server.ask(revoke, {"id": other_key.key.id}, key=key.secret)
        assert response.json()["data"]["revokeApiKey"]["apiKey"]["revokedAt"]
        # Its name in a comment is no way around the limit.
        for _ in range(3):
            assert (await server.ask(VIEWER + " # revokeApiKey", key=key.secret)).status_code == 429


async def test_who_has_spent_everything_is_not_even_parsed_or_read(
    serve: Serve, key: NewKey, monkeypatch: Any
) -> None:
    async with serve(**SMALL) as server:
        await drained(server, key)

        def parsing(*_: Any, **__: Any) -> Any:
            raise AssertionError("nothing is parsed")

        monkeypatch.setattr("app.engine.limits.parse", parsing)
        monkeypatch.setattr("app.http.likeness.parse", parsing)
        assert told(await server.ask("{new {document}}", key=key.secret))["code"] == "RATE_LIMITED"
        large = "{viewer {id}} #" + "x" * 100_000
        response = await server.ask(large, key=key.secret)
        assert (response.status_code, told(response)["code"]) == (429, "RATE_LIMITED")
        peer = await server.dial(key.secret)
        await peer.subscribe("a", "subscription { new }")
        (error,) = (await peer.until("error"))["payload"]
        assert error["extensions"]["code"] == "RATE_LIMITED"


async def test_sockets_and_streams_are_refused_too_and_live_on(serve: Serve, key: NewKey) -> None:
    async with serve(**SMALL) as server:
        peer = await server.dial(key.secret)
        await peer.subscribe("live", LIVE)
        await peer.until("next", "live")
        await drained(server, key)
        await peer.subscribe("more", VIEWER)
        (error,) = (await peer.until("error", "more"))["payload"]
        assert error["extensions"]["code"] == "RATE_LIMITED"
        assert error["extensions"]["retryAfter"] > 0
        # What runs goes on.
        await peer.until("next", "live")
        events = {"Accept": EVENTS, "Authorization": f"Bearer {key.secret}"}
        async with server.http.stream("POST", "/graphql", json={"query": LIVE}, headers=events) as stream:
            text = (await stream.aread()).decode()
        assert '"RATE_LIMITED"' in text
        assert text.endswith("event: complete\ndata: \n\n")


async def test_what_was_limited_is_counted(serve: Serve, key: NewKey) -> None:
    async with serve(**SMALL) as server:
        await drained(server, key)
        text = await server.metrics()
        assert 'escrowgrid_rate_limited_total{by="key"}' in text
        assert 'escrowgrid_errors_total{code="RATE_LIMITED"}' in text


async def test_positions_cost_what_they_are(serve: Serve, key: NewKey, place: Place) -> None:
    async with serve() as server:
        item = {"assetId": place.asset.id, "holderReference": "h", "currency": "USD", "amount": "1"}
        made = await server.ask(
            "mutation($i: CreatePositionsInput!) { createPositions(input: $i) "
            "{ results { position { id } userErrors { code } } } }",
            {"i": {"items": [item] * 20}},
            key=key.secret,
        )
        # 200 for twenty commands, the payload, and for each its result and its position; its errors might be ten.
        assert cost_of(made)["requested"] == 200 + 1 + 20 * (1 + 1 + 10)
        assert cost_of(made)["actual"] == 200 + 1 + 20 * 2
        page = await server.ask(
            "{positions(first: 50) {edges {node {id asset {id} events(first: 10) {edges {node {id}}}}} totalCount}}",
            key=key.secret,
        )
        assert cost_of(page)["requested"] == 50 * (1 + 1 + 10) + 10
        assert cost_of(page)["actual"] == 20 * (1 + 1 + 1) + 10
        summary = await server.ask("{positionSummary(groupBy: [STATE]) {count}}", key=key.secret)
        assert cost_of(summary) | {"available": 0} == {"requested": 110, "actual": 101, "available": 0}


def test_capacities_below_the_dearest_document_are_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="RATE_CAPACITY"):
        Settings(cost_max=1000, rate_capacity=10)


async def test_being_limited_is_in_the_audit(serve: Serve, key: NewKey, owner: asyncpg.Connection) -> None:
    async with serve(**SMALL) as server:
        await drained(server, key)

        async def written() -> bool:
            found = await owner.fetchrow("SELECT * FROM audit_events WHERE action = 'RATE_LIMITED' LIMIT 1")
            return found is not None and found["actor_id"] == key.key.id and found["code"] == "RATE_LIMITED"

        await eventually(written)
