"""The audits of graphql-http (its ids in brackets), by hand, against a real port.

The tool itself is for Node; run against this application (graphql-http 1.23.1) it says 61 of 61.
"""

from typing import Any

import httpx
import pytest

from .conftest import AUTH, COST, GRAPHQL, JSON

TYPENAME = "{ __typename }"


@pytest.fixture
async def post(http: httpx.AsyncClient) -> Any:
    async def send(body: Any, accept: str | None = None, **headers: str) -> httpx.Response:
        sent = {**AUTH, **({"Accept": accept} if accept else {}), **headers}
        return await http.post("/graphql", json=body, headers=sent)

    return send


def bad_parameters() -> list[dict[str, Any]]:
    kinds: dict[str, list[Any]] = {
        "query": [{"obj": "ect"}, 0, False, ["array"]],
        "operationName": [{"obj": "ect"}, 0, False, ["array"]],
        "variables": ["string", 0, False, ["array"]],
        "extensions": ["string", 0, False, ["array"]],
    }
    return [{"query": TYPENAME, name: bad} for name, values in kinds.items() for bad in values]


async def test_content_negotiation(post: Any) -> None:
    for accept, expected in (
        (GRAPHQL, GRAPHQL),  # 22EB
        (JSON, JSON),  # 4655
        ("*/*", JSON),  # 47DE
    ):
        response = await post({"query": TYPENAME}, accept)
        assert response.status_code == 200
        assert response.headers["content-type"] == f"{expected}; charset=utf-8"  # 82A3
        assert response.content.decode("utf-8")


async def test_accept_may_be_missing(http: httpx.AsyncClient) -> None:
    request = http.build_request("POST", "/graphql", json={"query": TYPENAME}, headers=AUTH)
    del request.headers["accept"]
    response = await http.send(request)
    assert response.headers["content-type"] == f"{JSON}; charset=utf-8"  # 80D8


async def test_utf_8_is_read_and_assumed(http: httpx.AsyncClient) -> None:
    body = '{"query": "{ echo(text: \\"grün\\") }"}'.encode()
    for content_type in (f"{JSON}; charset=utf-8", JSON, f'{JSON};charset="UTF-8"'):  # BF61, 78D5
        headers = {**AUTH, "Content-Type": content_type}
        response = await http.post("/graphql", content=body, headers=headers)
        assert response.json() == {"data": {"echo": "grün"}, **COST}


async def test_methods_and_bodies(http: httpx.AsyncClient, post: Any) -> None:
    assert (await post({"query": TYPENAME})).status_code == 200  # 2C94, 03D4
    got = await http.get("/graphql", params={"query": TYPENAME}, headers=AUTH)  # 5A70
    assert got.json() == {"data": {"__typename": "Query"}, **COST}
    got = await http.get("/graphql", params={"query": "mutation { __typename }"}, headers=AUTH)  # 9C48
    assert got.status_code == 405
    request = http.build_request("POST", "/graphql", content=b'{"query":"{__typename}"}', headers=AUTH)
    assert 400 <= (await http.send(request)).status_code < 500  # 9ABE
    empty = await http.post("/graphql", headers={**AUTH, "Content-Type": JSON})
    assert empty.status_code == 400  # A5BF


@pytest.mark.parametrize("accept", [GRAPHQL, JSON])
async def test_well_formed_parameters(post: Any, accept: str) -> None:
    for body in (
        {"query": TYPENAME},  # 34A2, 13EE
        {"query": "query Q { __typename }", "operationName": "Q"},  # 8161, B8B3
        {"query": TYPENAME, "variables": None, "operationName": None, "extensions": None},  # 94B0.., 0220..
        {"query": "query T($t: String!) { echo(text: $t) }", "variables": {"t": "x"}},  # 2EA1, 28B9
        {"query": TYPENAME, "extensions": {"some": "value"}},  # 428F, 1B7A, 39AA
    ):
        response = await post(body, accept)
        assert response.status_code == 200, body
        assert "errors" not in response.json()


@pytest.mark.parametrize("accept", [GRAPHQL, JSON])
async def test_variables_of_a_get_are_url_encoded_json(http: httpx.AsyncClient, accept: str) -> None:
    params = {"query": "query T($t: String!) { echo(text: $t) }", "variables": '{"t": "x"}'}  # 6A70, D6D5
    response = await http.get("/graphql", params=params, headers={**AUTH, "Accept": accept})
    assert response.json() == {"data": {"echo": "x"}, **COST}


@pytest.mark.parametrize("accept", [GRAPHQL, JSON])
async def test_malformed_parameters(http: httpx.AsyncClient, post: Any, accept: str) -> None:
    assert (await post({"notquery": TYPENAME}, accept)).status_code == 400  # 423L
    for body in bad_parameters():  # LKJ0-3, 6C00-3, 4760-3, 58B0-3, 8764, 3E3A
        assert (await post(body, accept)).status_code == 400, body
    headers = {**AUTH, "Content-Type": JSON, "Accept": accept}
    assert (
        await http.post("/graphql", content=b'{ "not a JSON', headers=headers)
    ).status_code == 400  # B6DC, BCF8


@pytest.mark.parametrize(
    "body",
    [
        {"query": "{"},  # 572B; 865D, 556A, D586
        {"query": "{ 8f31403dfe404bccbb0e835f2629c6a7 }"},  # FDE2; 51FE, 74FF, 5E5B
        {"query": "query C($t: String!) { echo(text: $t) }", "variables": {"t": 1}},  # 7B9B; 86EE
    ],
    ids=["parsing", "validation", "coercion"],
)
async def test_what_was_not_executed(post: Any, body: Any) -> None:
    plain, precise = await post(body, JSON), await post(body, GRAPHQL)
    assert (plain.status_code, precise.status_code) == (200, 400)
    assert "data" not in precise.json()
    assert precise.json()["errors"]
