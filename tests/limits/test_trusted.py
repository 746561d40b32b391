"""Trusted documents: added by an operator, asked for by their sha-256 on every transport."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from click.testing import CliRunner, Result

from app.commands import main
from app.documents import service
from app.documents.model import hash_in, hash_of
from app.documents.service import TrustedDocuments
from app.errors import Unavailable
from app.institutions.model import NewKey
from app.main import Parts
from app.storage.database import Address
from tests.conftest import ROOT_KEY, eventually
from tests.http.conftest import EVENTS, GRAPHQL
from tests.limits.conftest import VIEWER, Serve, Served

NAMED = "query Trusted($n: Int!) { institutions(first: $n) { edges { node { id } } } }\n"
LIVE = "subscription Live { ledgerEvents(heartbeatSeconds: 1) { cursor } }\n"
AUTH = {"Authorization": f"Bearer {ROOT_KEY}"}

Operate = Callable[..., Awaitable[Result]]


@pytest.fixture
def operate(address: Address, monkeypatch: pytest.MonkeyPatch) -> Operate:
    """Runs `escrowgrid documents …` as an operator does."""

    async def run(*arguments: object, **environment: str) -> Result:
        known = {"STORE_BACKEND": "postgres", "DATABASE_URL": address.url, "COLUMNS": "200", **environment}
        words = ["documents", *map(str, arguments)]
        return await asyncio.to_thread(CliRunner().invoke, main, words, env=known)

    return run


@pytest.fixture
async def added(operate: Operate, tmp_path: Path) -> dict[str, str]:
    """Two documents, by their texts their hashes."""
    for number, text in enumerate((NAMED, LIVE)):
        file = tmp_path / f"{number}.graphql"
        file.write_text(text)
        done = await operate("add", file)
        assert done.exit_code == 0, done.output
        assert done.output.startswith(f"sha256:{hash_of(text)}  added")
    return {text: hash_of(text) for text in (NAMED, LIVE)}


async def post(server: Served, body: Any, **headers: str) -> httpx.Response:
    return await server.http.post("/graphql", json=body, headers={**AUTH, "Accept": GRAPHQL, **headers})


def code_of(response: httpx.Response) -> str:
    (error,) = response.json()["errors"]
    return str(error["extensions"]["code"])


def ways(hash: str) -> list[dict[str, Any]]:
    return [
        {"documentId": hash},
        {"documentId": f"sha256:{hash}"},
        {"documentId": f"sha256:{hash.upper()}"},
        {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": hash}}},
    ]


async def test_every_spelling_of_an_id_is_understood_over_http(serve: Serve, added: dict[str, str]) -> None:
    async with serve() as server:
        for way in ways(added[NAMED]):
            response = await post(server, {**way, "variables": {"n": 2}})
            assert response.status_code == 200, way
            assert response.json()["data"] == {"institutions": {"edges": []}}
            params = {
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in {**way, "variables": {"n": 2}}.items()
            }
            response = await server.http.get("/graphql", params=params, headers=AUTH)
            assert response.json()["data"] == {"institutions": {"edges": []}}
        response = await post(server, {"documentId": added[NAMED], "variables": {"n": "x"}})
        assert code_of(response) == "BAD_USER_INPUT"


async def test_sockets_and_streams_take_ids_too(serve: Serve, added: dict[str, str]) -> None:
    async with serve(trusted_documents="only") as server:
        peer = await server.dial()
        for place, way in enumerate(ways(added[NAMED])):
            await peer.send(
                {"type": "subscribe", "id": f"{place}", "payload": {**way, "variables": {"n": 1}}}
            )
            frame = await peer.until("next", f"{place}")
            assert frame["payload"]["data"] == {"institutions": {"edges": []}}
        await peer.send({"type": "subscribe", "id": "live", "payload": {"documentId": added[LIVE]}})
        assert (await peer.until("next", "live"))["payload"]["data"]["ledgerEvents"]["cursor"]
        events = {**AUTH, "Accept": EVENTS}
        body = {"documentId": added[LIVE]}
        async with server.http.stream("POST", "/graphql", json=body, headers=events) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    assert json.loads(line[6:])["data"]["ledgerEvents"]["cursor"]
                    break


async def test_subscribers_of_one_trusted_document_share_its_execution(
    serve: Serve, added: dict[str, str]
) -> None:
    async with serve(trusted_documents="only") as server:
        peers = [await server.dial() for _ in range(3)]
        for peer in peers:
            await peer.send({"type": "subscribe", "id": "a", "payload": {"documentId": added[LIVE]}})
            await peer.until("next", "a")
            await peer.until("next", "a")
        graphql = next(route for route in server.app.routes if route.path == "/graphql")  # type: ignore[attr-defined]
        runner = graphql.app.runner  # type: ignore[attr-defined]
        assert len(runner.groups) == 1


async def test_only_these_and_no_others(serve: Serve, added: dict[str, str]) -> None:
    async with serve(trusted_documents="only") as server:
        for body in (
            {"query": VIEWER},
            {"query": NAMED + " "},
            {"query": "{__schema {types {name}}}"},
            {"query": "{"},
            {"query": 'mutation { revokeApiKey(input: {id: "x"}) { userErrors { code } } }'},
            {"documentId": "0" * 64},
        ):
            response = await post(server, body)
            assert (response.status_code, code_of(response)) == (400, "DOCUMENT_NOT_TRUSTED"), body
        # The text of one that is trusted is the one that is trusted.
        assert (await post(server, {"query": NAMED, "variables": {"n": 1}})).status_code == 200
        peer = await server.dial()
        await peer.subscribe("a", VIEWER)
        (error,) = (await peer.until("error", "a"))["payload"]
        assert error["extensions"]["code"] == "DOCUMENT_NOT_TRUSTED"
        stream = await server.http.post(
            "/graphql", json={"query": LIVE + " "}, headers={**AUTH, "Accept": EVENTS}
        )
        assert '"DOCUMENT_NOT_TRUSTED"' in stream.text
        assert stream.text.endswith("event: complete\ndata: \n\n")


async def test_others_are_allowed_where_they_are(serve: Serve, added: dict[str, str]) -> None:
    async with serve() as server:
        assert (await post(server, {"query": VIEWER})).status_code == 200
        # A client that always sends the hash beside the text, as Apollo's do.
        extensions = {"persistedQuery": {"version": 1, "sha256Hash": hash_of(VIEWER)}}
        assert (await post(server, {"query": VIEWER, "extensions": extensions})).status_code == 200
        assert code_of(await post(server, {"extensions": extensions})) == "DOCUMENT_NOT_TRUSTED"
        response = await post(server, {"query": VIEWER, "documentId": added[NAMED]})
        assert code_of(response) == "BAD_REQUEST"


async def test_off_means_that_ids_say_nothing(serve: Serve, added: dict[str, str]) -> None:
    async with serve(trusted_documents="off") as server:
        assert (
            code_of(await post(server, {"documentId": added[NAMED], "variables": {"n": 1}})) == "BAD_REQUEST"
        )
        assert (await post(server, {"query": VIEWER, "documentId": hash_of(VIEWER)})).status_code == 200


@pytest.mark.parametrize(
    "id", ["", "x" * 81, 7, None, [], "sha256:", "md5:" + "0" * 64, "0" * 63, "g" * 64, "é" * 64]
)
async def test_what_is_no_id_is_a_bad_request(serve: Serve, added: dict[str, str], id: Any) -> None:
    async with serve() as server:
        response = await post(server, {"documentId": id})
        assert (response.status_code, code_of(response)) == (400, "BAD_REQUEST")


async def test_limits_hold_for_trusted_documents_too(serve: Serve, added: dict[str, str]) -> None:
    async with serve(cost_max=100) as server:
        response = await post(server, {"documentId": added[NAMED], "variables": {"n": 101}})
        assert code_of(response) == "LIMIT_EXCEEDED"
        response = await post(server, {"documentId": added[NAMED], "variables": {"n": 100}})
        assert response.json()["extensions"]["cost"]["requested"] == 100


async def test_a_removal_is_seen_within_seconds_and_an_addition_too(
    serve: Serve, added: dict[str, str], operate: Operate, tmp_path: Path
) -> None:
    async with serve(trusted_documents="only") as server:
        body = {"documentId": added[NAMED], "variables": {"n": 1}}
        assert (await post(server, body)).status_code == 200
        assert (await operate("remove", f"sha256:{added[NAMED]}")).exit_code == 0

        async def refused() -> bool:
            return (await post(server, body)).status_code == 400

        await eventually(refused, seconds=4)
        file = tmp_path / "again.graphql"
        file.write_text(NAMED)
        assert (await operate("add", file)).exit_code == 0

        async def taken() -> bool:
            return (await post(server, body)).status_code == 200

        await eventually(taken, seconds=4)


async def test_the_document_is_parsed_and_judged_once(
    serve: Serve, added: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(trusted_documents="only") as server:
        body = {"documentId": added[NAMED], "variables": {"n": 1}}
        await post(server, body)

        def again(*_: Any, **__: Any) -> Any:
            raise AssertionError("it is known")

        for name in ("app.engine.limits.parse", "app.engine.limits.validate"):
            monkeypatch.setattr(name, again)
        for _ in range(5):
            assert (await post(server, body)).status_code == 200


async def test_what_could_not_run_is_not_added(
    operate: Operate, tmp_path: Path, owner: asyncpg.Connection
) -> None:
    good, bad, deep = (tmp_path / name for name in ("good.graphql", "bad.graphql", "deep.graphql"))
    good.write_text(NAMED)
    bad.write_text("{ nothing }")
    deep.write_text("{" + "a{" * 20 + "b" + "}" * 20 + "}")
    done = await operate("add", good, bad, deep)
    assert done.exit_code == 1
    assert "Cannot query field 'nothing'" in done.output
    assert "levels of fields" in done.output
    assert await owner.fetchval("SELECT count(*) FROM documents") == 0
    bad.write_text("{")
    assert "Syntax Error" in (await operate("add", bad)).output


async def test_a_manifest_is_added_as_a_whole(operate: Operate, tmp_path: Path) -> None:
    plain, apollo, wrong = (tmp_path / f"{name}.json" for name in ("plain", "apollo", "wrong"))
    plain.write_text(json.dumps({f"sha256:{hash_of(NAMED)}": NAMED}))
    apollo.write_text(json.dumps({"operations": [{"id": hash_of(LIVE), "body": LIVE, "name": "Live"}]}))
    wrong.write_text(json.dumps({hash_of(LIVE): NAMED}))
    assert (await operate("add", wrong)).exit_code == 1
    assert (await operate("add", plain, apollo)).exit_code == 0
    assert "was there" in (await operate("add", plain)).output
    listed = await operate("list")
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()] == [
        f"sha256:{hash_of(NAMED)}",
        f"sha256:{hash_of(LIVE)}",
    ]
    for id in ("nonsense", "0" * 64):
        assert (await operate("remove", id)).exit_code == 1


async def test_the_database_keeps_a_hash_to_its_document(owner: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute(
            "INSERT INTO documents (hash, document, added_by) VALUES ($1, '{a}', 'x')", "0" * 64
        )


def test_ids() -> None:
    hash = hash_of("{ping}")
    assert hash_in(hash) == hash_in(f"sha256:{hash}") == hash_in(hash.upper()) == hash
    assert hash_in(f" {hash}") is None
    assert hash_in(f"{hash}\n") is None


async def test_what_is_kept_is_bounded_and_the_unknown_is_asked_for_rarely(
    parts: Parts, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{{a{number:04} " + "b" * 93 + "}" for number in range(50)]
    for text in texts:
        await owner.execute(
            "INSERT INTO documents (hash, document, added_by) VALUES ($1, $2, 'x')", hash_of(text), text
        )
    documents = TrustedDocuments(parts.services.database, characters_max=1000)
    for text in texts:
        assert await documents.find(hash_of(text)) == text
    assert len(documents) <= 10
    asked: list[str] = []
    read = documents._read

    async def counting(hashes: Any) -> Any:
        asked.extend(hashes)
        return await read(hashes)

    monkeypatch.setattr(documents._reads, "_answer", counting)
    found = await documents.find(hash_of(texts[-1]))
    assert found is await documents.find(hash_of(texts[-1]))
    for _ in range(100):
        assert await documents.find("0" * 64) is None
    assert asked == ["0" * 64]
    monkeypatch.setattr(service, "UNKNOWN_MAX", 100)
    for number in range(500):
        await documents.find(f"{number:064}")
    assert len(documents._unknown) <= 101
    await documents.close()


async def test_without_the_database_what_is_unknown_is_not_called_untrusted(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = TrustedDocuments(parts.services.database)

    def lost(_role: object) -> Any:
        raise OSError("gone")

    monkeypatch.setattr(parts.services.database, "pool", lost)
    with pytest.raises(Unavailable):
        await documents.find("0" * 64)
    monkeypatch.undo()


async def test_keys_are_asked_for_before_documents(serve: Serve, added: dict[str, str], key: NewKey) -> None:
    async with serve(trusted_documents="only") as server:
        response = await server.http.post("/graphql", json={"documentId": added[NAMED]})
        assert response.status_code == 401
