"""Single answers: what comes back for a query or a mutation sent over HTTP, good or bad."""

import json
import re
from typing import Any

import httpx
import pytest

from .conftest import AUTH, AWAY, COST, EVENTS, GRAPHQL, JSON, ROOT, TENANT, Site, cost

SPELLED_COST = '"extensions":{"cost":{"requested":1,"actual":1,"available":null}}}'


@pytest.fixture
def http(direct: httpx.AsyncClient) -> httpx.AsyncClient:
    return direct


POST = {**AUTH, "Content-Type": JSON}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The one error of a refusal, in the one shape of every refusal."""
    assert response.headers["content-type"].split(";")[0] in {JSON, GRAPHQL}
    body = response.json()
    assert set(body) == {"errors"}
    (error,) = body["errors"]
    assert error["message"]
    assert "Traceback" not in response.text
    return error


def code_of(response: httpx.Response) -> str:
    return str(error_of(response)["extensions"]["code"])


async def ask(http: httpx.AsyncClient, query: str, accept: str = GRAPHQL, **more: Any) -> httpx.Response:
    return await http.post("/graphql", json={"query": query, **more}, headers={**AUTH, "Accept": accept})


async def test_a_query_and_a_mutation_are_answered(http: httpx.AsyncClient) -> None:
    assert (await ask(http, "{ping}")).json() == {"data": {"ping": "pong"}, **COST}
    headers = {**AUTH, "Idempotency-Key": "k-1"}
    response = await http.post("/graphql", json={"query": 'mutation { note(text: "a") }'}, headers=headers)
    assert response.json() == {"data": {"note": "a:k-1"}, **cost(10)}


async def test_every_way_to_bring_a_key(http: httpx.AsyncClient) -> None:
    for headers in (AUTH, {"Authorization": f"bearer  {TENANT}"}, {"X-API-Key": TENANT}):
        response = await http.post("/graphql", json={"query": "{asker{key}}"}, headers=headers)
        assert response.status_code == 200, headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nobody-has-this-key"},
        {"Authorization": f"Basic {ROOT}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer " + "x" * 5000},
        {"Authorization": f"Bearer {ROOT}\tx"},
        {"X-API-Key": ""},
        {"X-API-Key": "kéy".encode()},
        {"Authorization": "Bearer wrong", "X-API-Key": ROOT},
    ],
    ids=range(9),
)
async def test_without_a_valid_key_nothing_is_read(http: httpx.AsyncClient, headers: Any) -> None:
    response = await http.post("/graphql", content=b"not even json", headers=headers)
    assert response.status_code == 401
    assert code_of(response) == "UNAUTHENTICATED"
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_keys_that_cannot_be_looked_up_are_not_called_wrong(http: httpx.AsyncClient) -> None:
    response = await http.post("/graphql", json={"query": "{ping}"}, headers={"X-API-Key": AWAY})
    assert (response.status_code, code_of(response)) == (503, "UNAVAILABLE")
    assert response.headers["retry-after"] == "1"


BAD_BODIES = {
    "empty": b"",
    "not json": b"{query",
    "nul": b"\x00",
    "not utf-8": b'{"query":"\xff"}',
    "bom": b'\xef\xbb\xbf{"query":"{ping}"}',
    "utf-16": '{"query":"{ping}"}'.encode("utf-16"),
    "duplicate key": b'{"query":"{ping}","query":"{boom}"}',
    "lone surrogate": b'{"query":"{ping}","variables":{"a":"\\ud800"}}',
    "lone surrogate as a name": b'{"query":"{ping}","variables":{"\\udfff":1}}',
    "nan": b'{"query":"{ping}","variables":{"a":NaN}}',
    "infinity": b'{"query":"{ping}","variables":{"a":-Infinity}}',
    "huge exponent": b'{"query":"{ping}","variables":{"a":1e999999999}}',
    "endless exponent": b'{"query":"{ping}","variables":{"a":1e99999999999999999999}}',
    "huge number": b'{"query":"{ping}","variables":{"a":' + b"9" * 5000 + b"}}",
    "long number": b'{"query":"{ping}","variables":{"a":' + b"9" * 500 + b"}}",
    "deep": b'{"query":"{ping}","variables":{"a":' + b"[" * 500 + b"]" * 500 + b"}}",
    "very deep": b"[" * 100_000,
    "list": b'[{"query":"{ping}"}]',
    "null": b"null",
    "text": b'"{ping}"',
    "number": b"1",
    "no query": b"{}",
    "null query": b'{"query":null}',
    "empty query": b'{"query":""}',
    "query object": b'{"query":{"obj":"ect"}}',
    "query number": b'{"query":0}',
    "query boolean": b'{"query":false}',
    "query list": b'{"query":["array"]}',
    "variables text": b'{"query":"{ping}","variables":"string"}',
    "variables number": b'{"query":"{ping}","variables":7}',
    "variables boolean": b'{"query":"{ping}","variables":true}',
    "variables list": b'{"query":"{ping}","variables":["array"]}',
    "extensions text": b'{"query":"{ping}","extensions":"string"}',
    "extensions number": b'{"query":"{ping}","extensions":7}',
    "extensions boolean": b'{"query":"{ping}","extensions":true}',
    "extensions list": b'{"query":"{ping}","extensions":["array"]}',
    "operationName object": b'{"query":"{ping}","operationName":{"obj":"ect"}}',
    "operationName number": b'{"query":"{ping}","operationName":0}',
    "operationName boolean": b'{"query":"{ping}","operationName":false}',
    "operationName list": b'{"query":"{ping}","operationName":["array"]}',
    "long operationName": b'{"query":"{ping}","operationName":"' + b"x" * 300 + b'"}',
}


@pytest.mark.parametrize("accept", [GRAPHQL, JSON])
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_malformed_request_is_refused(http: httpx.AsyncClient, body: bytes, accept: str) -> None:
    response = await http.post("/graphql", content=body, headers={**POST, "Accept": accept})
    assert (response.status_code, code_of(response)) == (400, "BAD_REQUEST")
    assert response.headers["content-type"] == f"{accept}; charset=utf-8"


BAD_DOCUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "syntax": ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
    "blank": ({"query": "  # nothing\n"}, "GRAPHQL_PARSE_FAILED"),
    "nul": ({"query": "{ping\u0000}"}, "GRAPHQL_PARSE_FAILED"),
    "surrogate escape": ({"query": '{echo(text:"\\uD800")}'}, "GRAPHQL_PARSE_FAILED"),
    "unknown field": ({"query": "{nothing}"}, "GRAPHQL_VALIDATION_FAILED"),
    "schema document": ({"query": "type A { b: Int }"}, "BAD_REQUEST"),
    "fragments only": ({"query": "fragment F on Query {ping}"}, "BAD_REQUEST"),
    "fragment cycle": ({"query": "{...F} fragment F on Query {...F}"}, "GRAPHQL_VALIDATION_FAILED"),
    "bad literal": ({"query": "{echo(text: 1)}"}, "GRAPHQL_VALIDATION_FAILED"),
    "huge whole literal": (
        {"query": "{items(first: %s){number}}" % ("9" * 5000)},
        "GRAPHQL_VALIDATION_FAILED",
    ),
    "huge literal": ({"query": "{json(value:{a:1e999999999})}"}, "GRAPHQL_VALIDATION_FAILED"),
    "endless literal": ({"query": "{json(value:{a:1e%s})}" % ("9" * 5000)}, "GRAPHQL_VALIDATION_FAILED"),
    "long literal": ({"query": "{json(value:{a:%s})}" % ("9" * 500)}, "GRAPHQL_VALIDATION_FAILED"),
    "unknown operationName": ({"query": "query A {ping}", "operationName": "B"}, "BAD_REQUEST"),
    "empty operationName": ({"query": "query A {ping}", "operationName": ""}, "BAD_REQUEST"),
    "no operationName": ({"query": "query A {ping} query B {ping}"}, "BAD_REQUEST"),
    "missing variable": ({"query": "query($t: String!) {echo(text: $t)}"}, "BAD_USER_INPUT"),
    "wrong variable": (
        {"query": "query($t: String!) {echo(text: $t)}", "variables": {"t": 1}},
        "BAD_USER_INPUT",
    ),
    "null variable": (
        {"query": "query($t: String!) {echo(text: $t)}", "variables": {"t": None}},
        "BAD_USER_INPUT",
    ),
    "wrong input field": (
        {"query": "query($p: Pair!) {add(pair: $p)}", "variables": {"p": {"left": "x"}}},
        "BAD_USER_INPUT",
    ),
    "unknown input field": (
        {"query": "query($p: Pair!) {add(pair: $p)}", "variables": {"p": {"left": 1, "middle": 1}}},
        "BAD_USER_INPUT",
    ),
    "fraction for a whole number": (
        {"query": "query($p: Pair!) {add(pair: $p)}", "variables": {"p": {"left": 1.5}}},
        "BAD_USER_INPUT",
    ),
    "list for an object": (
        {"query": "query($v: JSONObject!) {json(value: $v)}", "variables": {"v": [1]}},
        "BAD_USER_INPUT",
    ),
}


@pytest.mark.parametrize(("asked", "code"), BAD_DOCUMENTS.values(), ids=BAD_DOCUMENTS)
async def test_what_cannot_be_executed_has_no_data(http: httpx.AsyncClient, asked: Any, code: str) -> None:
    for accept, status in ((GRAPHQL, 400), (JSON, 200)):
        response = await http.post("/graphql", json=asked, headers={**AUTH, "Accept": accept})
        assert response.status_code == status
        assert response.headers["content-type"] == f"{accept}; charset=utf-8"
        body = response.json()
        assert "data" not in body
        assert {error["extensions"]["code"] for error in body["errors"]} == {code}


async def test_refusals_of_resolvers_keep_their_code_and_the_rest_of_the_answer(
    http: httpx.AsyncClient,
) -> None:
    for kind, code, message, extra in (
        ("missing", "NOT_FOUND", "there is no such position", {"field": "id"}),
        ("forbidden", "FORBIDDEN", "this key may not do that", {}),
        ("overloaded", "OVERLOADED", "too much at once", {}),
        ("cursor", "CURSOR_INVALID", "the cursor is not one of ours", {}),
    ):
        response = await ask(http, f'{{ping refused(kind: "{kind}")}}')
        assert response.status_code == 200
        assert response.json() == {
            "data": {"ping": "pong", "refused": None},
            "errors": [
                {
                    "message": message,
                    "locations": [{"line": 1, "column": 7}],
                    "path": ["refused"],
                    "extensions": {"code": code, **extra},
                }
            ],
            **COST,
        }


async def test_an_argument_refused_while_running_is_the_callers_mistake(http: httpx.AsyncClient) -> None:
    query = "query($n: Int = 1) {ping add(pair: {left: $n})}"
    response = await ask(http, query, variables={"n": None})
    assert response.status_code == 200
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_the_unexpected_is_masked_and_logged_whole(
    http: httpx.AsyncClient, noisy: None, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {**AUTH, "X-Request-Id": "req-77", "Accept": GRAPHQL}
    response = await http.post("/graphql", json={"query": "{ping boom}"}, headers=headers)
    assert response.status_code == 200
    body = response.json()
    assert body["data"] == {"ping": "pong", "boom": None}
    (error,) = body["errors"]
    assert error["message"] == "something went wrong on our side; request id req-77"
    assert error["extensions"] == {"code": "INTERNAL", "requestId": "req-77"}
    assert "secret" not in response.text
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "req-77" in record.getMessage()
    assert isinstance(record.exc_info, tuple)
    assert str(record.exc_info[1]) == "the secret of the house"
    nothing = await ask(http, "{boomHard}")
    assert (nothing.status_code, nothing.json()["data"]) == (200, None)


async def test_numbers_keep_every_digit(http: httpx.AsyncClient) -> None:
    text = (
        '{"query":"query($v: JSONObject!) {json(value: $v)}","variables":{"v":{'
        '"a":100000000000000.12345678,"b":0.10,"c":123456789012345678901234567890,"d":1E+3,"e":-0.00000001,'
        '"f":[true,null,"\\ud83d\\ude00"]}}}'
    )
    response = await http.post("/graphql", content=text, headers=POST)
    assert response.text == (
        '{"data":{"json":{"a":100000000000000.12345678,"b":0.10,"c":123456789012345678901234567890,"d":1000,'
        '"e":-0.00000001,"f":[true,null,"😀"]}},' + SPELLED_COST
    )
    literal = await ask(http, "{json(value: {a: 0.10, b: 12345678901234567890})}", JSON)
    assert literal.text == '{"data":{"json":{"a":0.10,"b":12345678901234567890}},' + SPELLED_COST


async def test_get_serves_queries_and_nothing_else(http: httpx.AsyncClient) -> None:
    asked = {"query": "query A($t: String!) {echo(text: $t)} query B {ping}", "operationName": "A"}
    response = await http.get("/graphql", params={**asked, "variables": '{"t":"x"}'}, headers=AUTH)
    assert response.json() == {"data": {"echo": "x"}, **COST}
    assert response.headers["cache-control"] == "no-store"
    refused = await http.get("/graphql", params={"query": 'mutation {note(text:"x")}'}, headers=AUTH)
    assert (refused.status_code, code_of(refused)) == (405, "METHOD_NOT_ALLOWED")
    assert refused.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "address",
    [
        "/graphql",
        "/graphql?query=",
        "/graphql?query=%FF",
        "/graphql?query={ping}&query={ping}",
        "/graphql?query={ping}&variables={",
        "/graphql?query={ping}&variables=[1]",
        "/graphql?query={ping}&extensions=7",
        "/graphql?query={ping}&variables=%7B%22a%22:%22%5Cud800%22%7D",
        "/graphql?query={ping}" + "&a=1" * 30,
    ],
)
async def test_a_malformed_address_is_refused(http: httpx.AsyncClient, address: str) -> None:
    response = await http.get(address, headers={**AUTH, "Accept": GRAPHQL})
    assert (response.status_code, code_of(response)) == (400, "BAD_REQUEST")


async def test_other_methods_are_refused(http: httpx.AsyncClient) -> None:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        response = await http.request(method, "/graphql", headers=AUTH)
        assert (response.status_code, code_of(response)) == (405, "METHOD_NOT_ALLOWED"), method
        assert response.headers["allow"] == "GET, POST"
    assert (await http.head("/graphql", headers=AUTH)).status_code == 405


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/graphql",
        "application/json; charset=iso-8859-1",
        "application/jsonx",
    ],
)
async def test_only_json_is_taken(http: httpx.AsyncClient, content_type: str | None) -> None:
    headers = AUTH if content_type is None else {**AUTH, "Content-Type": content_type}
    response = await http.post("/graphql", content=b'{"query":"{ping}"}', headers=headers)
    assert (response.status_code, code_of(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_compressed_bodies_are_not_taken(http: httpx.AsyncClient) -> None:
    response = await http.post("/graphql", content=b"x", headers={**POST, "Content-Encoding": "gzip"})
    assert (response.status_code, code_of(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_extensions_reach_the_operation(http: httpx.AsyncClient) -> None:
    response = await ask(http, "{asker{extensions}}", extensions={"some": "value"})
    assert response.json()["data"]["asker"]["extensions"] == "{'some': 'value'}"


async def test_what_we_do_not_have_is_not_acceptable(http: httpx.AsyncClient) -> None:
    for accept in ("application/xml", "image/*", "application/json;q=0, text/csv", "text/html"):
        response = await http.post("/graphql", json={"query": "{ping}"}, headers={**AUTH, "Accept": accept})
        assert (response.status_code, code_of(response)) == (406, "NOT_ACCEPTABLE"), accept


async def test_a_subscription_needs_a_stream(http: httpx.AsyncClient) -> None:
    for accept in (JSON, GRAPHQL, "*/*"):
        response = await ask(http, "subscription {count}", accept)
        assert (response.status_code, code_of(response)) == (406, "NOT_ACCEPTABLE")


async def test_a_browser_gets_the_page_without_a_key(http: httpx.AsyncClient) -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    for address in ("/graphql", "/graphql?query={ping}"):
        response = await http.get(address, headers={"Accept": browser})
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in response.headers["content-security-policy"]


async def test_the_dashboard_is_one_page_at_each_of_its_addresses(http: httpx.AsyncClient) -> None:
    pages = [
        await http.get(path) for path in ("/", "/positions", "/positions/pos_1", "/live", "/administration")
    ]
    for page in pages:
        assert page.status_code == 200
        assert page.text == pages[0].text
        assert page.headers["cache-control"] == "no-cache"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    for name in re.findall(r'"(/dashboard/assets/[^"]+)"', pages[0].text):
        asset = await http.get(name)
        assert asset.status_code == 200
        assert "immutable" in asset.headers["cache-control"]
        assert asset.headers["content-security-policy"] == policy


async def test_unknown_paths_are_json_too(http: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/graphql/", "/graphiql/assets/../../secret", "/%00", "/graphiql/config.json"):
        response = await http.get(path)
        assert (response.status_code, code_of(response)) == (404, "NOT_FOUND"), path
    response = await http.post("/health")
    assert (response.status_code, code_of(response)) == (405, "METHOD_NOT_ALLOWED")


async def test_who_asks_for_a_page_is_told_in_one_that_there_is_none(http: httpx.AsyncClient) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    for path in ("/nothing", "/positions/pos_1/<script>", "/graphiql/config.json"):
        response = await http.get(path, headers=browser)
        assert response.status_code == 404
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "There is no such page" in response.text
        assert "script" not in response.text
    for accept in ("*/*", "application/json", "text/html;q=0.5, application/json", "image/avif,*/*;q=0.8"):
        response = await http.get("/nothing", headers={"Accept": accept})
        assert (response.status_code, code_of(response)) == (404, "NOT_FOUND"), accept


async def test_one_idempotency_key_serves_one_mutation(http: httpx.AsyncClient) -> None:
    headers = {**AUTH, "Idempotency-Key": "k-1", "Accept": GRAPHQL}
    two = 'mutation { a: note(text: "a") ...F } fragment F on Mutation { note(text: "b") }'
    response = await http.post("/graphql", json={"query": two}, headers=headers)
    assert (response.status_code, code_of(response)) == (400, "BAD_REQUEST")
    assert (await ask(http, two)).status_code == 200
    for bad in ("x" * 256, "é".encode(), "a\tb"):
        response = await http.post(
            "/graphql", json={"query": "{ping}"}, headers={**AUTH, "Idempotency-Key": bad}
        )
        assert (response.status_code, code_of(response)) == (400, "BAD_REQUEST")
    longest = {**AUTH, "Idempotency-Key": "x" * 255}
    response = await http.post("/graphql", json={"query": 'mutation {note(text: "")}'}, headers=longest)
    assert response.json()["data"]["note"] == ":" + "x" * 255


async def test_every_operation_has_a_context_of_its_own_closed_at_its_end(
    http: httpx.AsyncClient, inside: Site
) -> None:
    seen = {(await ask(http, "query Q {asker{context operation}}")).json()["data"]["asker"]["operation"]}
    assert seen == {"query Q"}
    for query in ("{ping}", "{nothing}", "{", '{refused(kind: "missing")}'):
        await ask(http, query)
    assert len(inside.closed) == 5
    assert len({id(context) for context in inside.closed}) == 5
    assert inside.sample("escrowgrid_operations_open", transport="http") == 0


async def test_json_is_the_default_and_the_precise_type_is_preferred(http: httpx.AsyncClient) -> None:
    for accept, expected in (
        (None, JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (GRAPHQL, GRAPHQL),
        (f"{JSON}, {GRAPHQL}", GRAPHQL),
        (f"{GRAPHQL};q=0.5, {JSON}", JSON),
        (f"{GRAPHQL}, {JSON};q=0.9, */*;q=0.1", GRAPHQL),
        (f"{JSON};q=nonsense, {GRAPHQL}", GRAPHQL),
        (f"{GRAPHQL}, {JSON}, {EVENTS}, multipart/mixed", GRAPHQL),
        (f"{JSON};charset=utf-8", JSON),
    ):
        headers = {**AUTH, "Accept": accept} if accept is not None else {**AUTH, "Accept": ""}
        response = await http.post("/graphql", json={"query": "{ping}"}, headers=headers)
        assert response.status_code == 200
        assert response.headers["content-type"] == f"{expected}; charset=utf-8", accept
        assert json.loads(response.content.decode("utf-8")) == {"data": {"ping": "pong"}, **COST}
