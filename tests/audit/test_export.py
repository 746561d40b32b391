"""The audit as lines of JSON: all of the span, nothing of anybody else's, by HTTP and by command."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from app.audit import export
from app.audit.export import Span, line
from app.audit.model import AuditEvent
from app.commands import main
from app.context import Services
from app.http import export as served
from app.http.server import Server, config
from app.kit.clock import system_clock
from app.main import create_app
from app.principal import ALL_INSTITUTIONS, Role
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.conftest import ROOT_KEY, eventually

from .conftest import START, Noted, Opened, entry


async def lines(services: Services, scope: str, span: Span) -> list[str]:
    return [event.id async for page in export.pages(services.database, scope, span) for event in page]


async def test_the_whole_span_comes_oldest_first_in_pages(
    services: Services, opened: Opened, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE_SIZE", 3)
    owner = await opened()
    made = [row.id for row in await noted(owner, range(10))]
    till = START + timedelta(seconds=100)
    assert await lines(services, owner, Span(START, till)) == made
    assert await lines(services, owner, Span(START, START + timedelta(seconds=5))) == made[:5]
    assert await lines(services, owner, Span(START + timedelta(seconds=5), till)) == made[5:]
    assert await lines(services, owner, Span(till, START)) == []


async def test_a_scope_has_its_own_and_the_ledgers_events_are_among_them(
    services: Services, opened: Opened, noted: Noted
) -> None:
    mine, other = await opened("Mine"), await opened("Other")
    ours = [row.id for row in await noted(mine, [1])]
    theirs = [row.id for row in await noted(other, [2])]
    place = await factories.place(services)
    await factories.position(services, place.asset)
    end = system_clock() + timedelta(minutes=1)
    assert await lines(services, mine, Span(START, end)) == ours
    assert await lines(services, mine, Span(START, end, other)) == []
    assert await lines(services, ALL_INSTITUTIONS, Span(START, end, other)) == theirs
    found = await lines(services, place.institution.id, Span(None, end))
    assert [name.partition("_")[0] for name in found].count("evt") == 1
    everything = await lines(services, ALL_INSTITUTIONS, Span(None, end))
    assert set(ours + theirs + found) <= set(everything)
    assert len(everything) == len(set(everything))


def test_a_line_is_one_canonical_object() -> None:
    event = AuditEvent.of(entry(payload={"b": "ü\n\u2028", "a": [1]}), "aud_1", START)
    text = line(event)
    assert text.count(b"\n") == 1
    assert text.endswith(b"}\n")
    told = json.loads(text)
    assert told["occurredAt"] == "2026-03-01T00:00:00Z"
    assert told["payload"] == {"b": "ü\n\u2028", "a": [1]}
    assert set(told) == {
        "id",
        "occurredAt",
        "institutionId",
        "actorId",
        "actorRole",
        "operation",
        "action",
        "resourceType",
        "resourceId",
        "outcome",
        "code",
        "requestId",
        "clientAddress",
        "payload",
    }


class TestByHttp:
    """`GET /audit.ndjson`."""

    @pytest.fixture
    async def http(
        self, settings: Settings, address: Address, services: Services
    ) -> AsyncIterator[httpx.AsyncClient]:
        server = Server(config(create_app(settings, address), settings, port=0))
        with contextlib.ExitStack() as stack:
            server.capture_signals = lambda: stack  # type: ignore[method-assign]
            task = asyncio.create_task(server.serve())

            async def started() -> bool:
                return server.started

            await eventually(started)
            url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
                yield client
            server.should_exit = True
            await task

    @staticmethod
    def by(secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"}

    async def test_auditors_and_admins_take_their_institutions(
        self, http: httpx.AsyncClient, services: Services, opened: Opened, noted: Noted
    ) -> None:
        mine, other = await opened("Mine"), await opened("Other")
        ours = [row.id for row in await noted(mine, range(1200))]
        theirs = [row.id for row in await noted(other, range(3))]
        span = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00+01:00"}
        for role in (Role.AUDITOR, Role.ADMIN):
            key = await factories.key(services, mine, role)
            answer = await http.get("/audit.ndjson", params=span, headers=self.by(key.secret))
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/x-ndjson; charset=utf-8"
            assert answer.headers["cache-control"] == "no-store"
            assert [json.loads(one)["id"] for one in answer.text.splitlines()] == ours
            crossed = await http.get(
                "/audit.ndjson", params=span | {"institution": other}, headers=self.by(key.secret)
            )
            absent = await http.get(
                "/audit.ndjson",
                params=span | {"institution": services.ids.new("inst")},
                headers=self.by(key.secret),
            )
            assert (crossed.status_code, crossed.text) == (absent.status_code, absent.text) == (200, "")
        named = await http.get(
            "/audit.ndjson", params=span | {"institution": other}, headers=self.by(ROOT_KEY)
        )
        assert [json.loads(one)["id"] for one in named.text.splitlines()] == theirs

    @pytest.mark.parametrize("role", [Role.OPERATOR, Role.READ_ONLY])
    async def test_the_others_do_not_and_that_is_noted(
        self, http: httpx.AsyncClient, services: Services, opened: Opened, rows: Any, role: Role
    ) -> None:
        key = await factories.key(services, await opened(), role)
        answer = await http.get("/audit.ndjson", headers=self.by(key.secret))
        assert answer.status_code == 403
        (error,) = answer.json()["errors"]
        assert error["extensions"]["code"] == "FORBIDDEN"

        async def noted() -> bool:
            found: int = await rows(
                f"audit_events WHERE action = 'AUTH_FORBIDDEN' AND actor_id = '{key.key.id}'"
            )
            return found == 1

        await eventually(noted)

    async def test_nobody_gets_anything_without_a_key(self, http: httpx.AsyncClient) -> None:
        for headers in ({}, self.by("eg_" + "x" * 43), self.by("a.b.c")):
            answer = await http.get("/audit.ndjson", headers=headers)
            assert answer.status_code == 401
            (error,) = answer.json()["errors"]
            assert error["extensions"]["code"] == "UNAUTHENTICATED"

    @pytest.mark.parametrize(
        "query",
        [
            "from=yesterday",
            "to=2026-03-01",
            "from=2026-03-01T00:00:00",
            "format=csv",
            "from=a&from=b",
            "to=",
            "institution=%00",
            "institution=x",
            "from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z",
        ],
    )
    async def test_parameters_are_checked(self, http: httpx.AsyncClient, query: str) -> None:
        answer = await http.get(f"/audit.ndjson?{query}", headers=self.by(ROOT_KEY))
        assert answer.status_code == 400
        (error,) = answer.json()["errors"]
        assert error["extensions"]["code"] == "BAD_REQUEST"

    async def test_the_edges_of_time_are_no_errors(self, http: httpx.AsyncClient) -> None:
        for query in (
            "to=0001-01-01T00:00:00.000001Z",
            "from=9999-12-31T23:59:59Z",
            "from=0001-01-02T00:00:00Z",
        ):
            assert (await http.get(f"/audit.ndjson?{query}", headers=self.by(ROOT_KEY))).status_code == 200

    async def test_a_key_revoked_midway_breaks_it_off(
        self,
        http: httpx.AsyncClient,
        services: Services,
        opened: Opened,
        noted: Noted,
        monkeypatch: pytest.MonkeyPatch,
        run: Any,
    ) -> None:
        owner = await opened()
        await noted(owner, range(100))
        key = await factories.key(services, owner, Role.AUDITOR)
        good, sent = export.pages, 0

        async def slow(*given: Any) -> AsyncIterator[Any]:
            nonlocal sent
            async for page in good(*given):
                yield page
                sent += len(page)
                await asyncio.sleep(0.1)

        monkeypatch.setattr(export, "PAGE_SIZE", 5)
        monkeypatch.setattr(served.export, "pages", slow)
        words = "mutation ($id: ID!) { revokeApiKey(input: {id: $id}) { userErrors { code } } }"
        revoking = asyncio.get_running_loop().call_later(
            0.3, lambda: asyncio.ensure_future(run(words, {"id": key.key.id}))
        )
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/audit.ndjson", headers=self.by(key.secret))
        revoking.cancel()
        assert 0 < sent < 100


async def test_the_command_writes_a_file_or_the_terminal(
    address: Address,
    services: Services,
    opened: Opened,
    noted: Noted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, other = await opened("Mine"), await opened("Other")
    ours = [row.id for row in await noted(mine, range(5))]
    await noted(other, range(5))
    monkeypatch.setenv("STORE_BACKEND", "postgres")
    monkeypatch.setenv("DATABASE_URL", address.url)
    monkeypatch.setenv("DATABASE_OWNER_URL", address.owner_url)

    async def called(*arguments: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, main, ["audit", "export", *arguments])

    file = tmp_path / "audit.ndjson"
    wanted = ("--institution", mine, "--from", "2026-03-01")
    done = await called(*wanted, str(file))
    assert done.exit_code == 0, done.output
    assert [json.loads(text)["id"] for text in file.read_text().splitlines()] == ours
    done = await called(*wanted, "--to", "2026-03-01T00:00:03Z")
    assert [json.loads(text)["id"] for text in done.stdout.splitlines()] == ours[:3]
    assert "3 audit events" in done.stderr
    assert (await called("--from", "soon")).exit_code == 2
