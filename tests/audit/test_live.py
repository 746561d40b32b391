"""The audit as it happens: everything once, nothing of anybody else's, nothing missed, nothing without bound."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from app.audit import store, watch
from app.audit.model import Action, AuditEvent, Outcome
from app.audit.watch import Watch
from app.context import Services
from app.errors import Overloaded
from app.kit.clock import system_clock
from app.ledger.bell import Topic
from app.main import Parts, assemble
from app.principal import ALL_INSTITUTIONS, ROLE_SCOPES, Principal, Role
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.conftest import Live, Run, eventually

from .conftest import entry

FOLLOW = """
subscription ($where: AuditEventWhere, $beat: Int) {
  auditEvents(where: $where, heartbeatSeconds: $beat) {
    heartbeat node { id action outcome code institutionId actorId operation payload }
  }
}
"""
NOTE = 'mutation { createAsset(input: {templateId: "none", label: "x"}) { userErrors { code } } }'
Note = Callable[..., Awaitable[AuditEvent]]


def auditor(institution_id: str) -> Principal:
    return Principal("key_a", "auditor", Role.AUDITOR, institution_id, ROLE_SCOPES[Role.AUDITOR])


BEATING = {"beat": 1}


async def message(stream: Any) -> dict[str, Any]:
    result = await anext(stream)
    assert not result.errors, result.errors
    found: dict[str, Any] = result.data["auditEvents"]
    return found


async def told(stream: Any, seconds: float = 10) -> dict[str, Any]:
    """The next event."""
    async with asyncio.timeout(seconds):
        while not (found := await message(stream))["node"]:
            assert found["heartbeat"]
    node: dict[str, Any] = found["node"]
    return node


async def silent(stream: Any) -> None:
    """Two heartbeats after one another: whatever was there before the first would have been told."""
    async with asyncio.timeout(20):
        for _ in range(2):
            found = await message(stream)
            assert found["heartbeat"], found


async def begun(*streams: Any) -> None:
    """Waits until each really follows: it has no heartbeat before. What comes from now on is told."""
    async with asyncio.timeout(20):
        for stream in streams:
            assert (await message(stream))["heartbeat"]


@pytest.fixture
def note(services: Services) -> Note:
    """Writes a row of now, as a transaction of some server does."""

    async def write(institution_id: str | None, *, tell: bool = True, **changed: Any) -> AuditEvent:
        made = AuditEvent.of(
            entry(institution_id=institution_id, **changed), services.ids.new("aud"), system_clock()
        )
        async with services.database.writing(ALL_INSTITUTIONS) as connection:
            await store.add(connection, [made])
        if tell:
            services.tell(Topic.AUDIT)
        return made

    return write


async def test_refusals_mutations_and_ledger_events_are_one_stream(
    services: Services, live: Live, run: Run, note: Note
) -> None:
    place = await factories.place(services)
    async with live(FOLLOW, BEATING, principal=auditor(place.institution.id)) as stream:
        await begun(stream)
        refused = await run(NOTE, principal=place.admin)
        assert refused.data["createAsset"]["userErrors"]
        found = await told(stream)
        assert (found["action"], found["outcome"], found["code"]) == ("ASSET_CREATED", "FAILURE", "NOT_FOUND")
        label = 'mutation { createApiKey(input: {label: "l", role: READ_ONLY}) { apiKey { id } } }'
        made = (await run(label, principal=place.admin)).data["createApiKey"]["apiKey"]["id"]
        found = await told(stream)
        assert (found["action"], found["outcome"]) == ("API_KEY_CREATED", "SUCCESS")
        assert found["payload"]["role"] == "READ_ONLY"
        position = await factories.position(services, place.asset)
        found = await told(stream)
        assert found["action"] == "POSITION_CREATED"
        assert found["id"].startswith("evt_")
        await silent(stream)
        assert made
        assert position.id


async def test_it_begins_now(services: Services, live: Live, note: Note) -> None:
    owner = (await factories.institution(services)).id
    await note(owner, operation="before")
    async with live(FOLLOW, BEATING, principal=auditor(owner)) as stream:
        await begun(stream)
        await note(owner, operation="after")
        assert (await told(stream))["operation"] == "after"


async def test_filters_are_those_of_the_list(services: Services, live: Live, run: Run, note: Note) -> None:
    place = await factories.place(services)
    where = {"outcome": {"eq": "FAILURE"}, "action": {"in": ["RATE_LIMITED", "AUTH_FORBIDDEN"]}}
    async with live(FOLLOW, {"where": where, **BEATING}, principal=auditor(place.institution.id)) as stream:
        await begun(stream)
        await factories.position(services, place.asset)
        await note(place.institution.id, operation="other")
        await note(place.institution.id, action=Action.RATE_LIMITED, outcome=Outcome.SUCCESS)
        wanted = await note(place.institution.id, action=Action.AUTH_FORBIDDEN, code="FORBIDDEN")
        assert (await told(stream))["id"] == wanted.id
        await silent(stream)


async def test_nobody_hears_of_another_institution(services: Services, live: Live, note: Note) -> None:
    mine, other = [(await factories.place(services, name=name)) for name in ("Mine", "Other")]
    of_other = {"where": {"institutionId": {"eq": other.institution.id}}}
    async with (
        live(FOLLOW, BEATING, principal=auditor(mine.institution.id)) as stream,
        live(FOLLOW, {**of_other, **BEATING}, principal=mine.admin) as crossed,
        live(FOLLOW, BEATING) as everything,
    ):
        await begun(stream, crossed, everything)
        await note(other.institution.id, operation="theirs")
        await factories.position(services, other.asset)
        await note(None, operation="nobody's")
        await note(mine.institution.id, operation="ours")
        # Audit rows and events of the ledger come by ways of their own: which is told first is nobody's promise.
        found = [await told(everything) for _ in range(4)]
        assert {(one["operation"], one["institutionId"]) for one in found} == {
            ("theirs", other.institution.id),
            (None, other.institution.id),
            ("nobody's", None),
            ("ours", mine.institution.id),
        }
        assert (await told(stream))["operation"] == "ours"
        await silent(stream)
        await silent(crossed)


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.READ_ONLY])
async def test_only_auditors_and_admins_follow(services: Services, live: Live, role: Role) -> None:
    owner = (await factories.institution(services)).id
    async with live(FOLLOW, principal=factories.principal(owner, role)) as stream:
        result = await anext(stream)
        assert [error.extensions["code"] for error in result.errors] == ["FORBIDDEN"]


async def test_a_heartbeat_has_a_shortest(services: Services, live: Live) -> None:
    async with live(FOLLOW, {"beat": 0}) as stream:
        result = await anext(stream)
        assert [error.extensions["code"] for error in result.errors] == ["BAD_REQUEST"]


async def test_a_transaction_that_ends_late_is_not_missed(
    services: Services, live: Live, note: Note, owner: asyncpg.Connection
) -> None:
    """Its row has an earlier time of arrival than what was told before."""
    place = await factories.place(services)
    async with live(FOLLOW, BEATING, principal=auditor(place.institution.id)) as stream:
        await begun(stream)
        slow = owner.transaction()
        await slow.start()
        await owner.execute(
            "INSERT INTO audit_events (id, occurred_at, institution_id, actor_id, actor_role, operation, action, "
            "resource_type, outcome, request_id, payload) VALUES ('aud_slow', now(), $1, 'root', 'ROOT', 'slow', "
            "'ASSET_CREATED', 'asset', 'SUCCESS', 'req_1', '{}')",
            place.institution.id,
        )
        for number in range(3):
            await note(place.institution.id, operation=f"quick {number}")
        assert [(await told(stream))["operation"] for _ in range(3)] == ["quick 0", "quick 1", "quick 2"]
        await slow.commit()
        assert (await told(stream))["operation"] == "slow"
        await silent(stream)


@pytest.fixture
async def other(settings: Settings, address: Address) -> AsyncIterator[Parts]:
    """Another process on the same database."""
    made = assemble(settings.model_copy(update={"tick_seconds": 600.0}), address)
    async with made.running():
        yield made


async def test_the_bell_tells_other_processes(other: Parts, note: Note, services: Services) -> None:
    """The other one would look for itself in ten minutes only."""
    owner = (await factories.institution(services)).id
    async with other.services.watch.following() as number:
        await note(owner, operation="heard")
        await asyncio.wait_for(other.services.watch.wait(number), 3)
        assert [row.operation for row in other.services.watch.after(number)] == ["heard"]


async def test_without_a_bell_the_tick_finds_it(parts: Parts, note: Note, services: Services) -> None:
    owner = (await factories.institution(services)).id
    async with services.watch.following() as number:
        await note(owner, tell=False)
        await asyncio.wait_for(services.watch.wait(number), 3)


async def test_nothing_is_read_or_kept_while_nobody_follows(services: Services, note: Note) -> None:
    owner = (await factories.institution(services)).id
    async with services.watch.following() as number:
        async with services.watch.following() as second:
            await note(owner)
            await asyncio.wait_for(services.watch.wait(second), 3)
        assert services.watch.end == number + 1
        assert len(services.watch.after(number)) == 1
    await note(owner)
    await asyncio.sleep(0.5)
    assert services.watch.end == number + 1
    async with services.watch.following() as third:
        await note(owner, operation="again")
        await asyncio.wait_for(services.watch.wait(third), 3)
        assert [row.operation for row in services.watch.after(third)] == ["again"]


async def test_who_is_too_slow_is_told_so_and_memory_is_bounded(
    services: Services, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "ROWS_MAX", 5)
    owner = (await factories.institution(services)).id
    async with services.watch.following() as number:
        for _ in range(12):
            await note(owner)

        async def read() -> bool:
            return services.watch.end == number + 12

        await eventually(read)
        assert len(services.watch.after(number + 7)) == 5
        with pytest.raises(Overloaded):
            services.watch.after(number + 6)


async def test_heavy_rows_are_bounded_too(
    services: Services, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "BYTES_MAX", 100_000)
    owner = (await factories.institution(services)).id
    async with services.watch.following() as number:
        for _ in range(10):
            await note(owner, payload={"x": "y" * 20_000})

        async def read() -> bool:
            return services.watch.end == number + 10

        await eventually(read)
        assert len(services.watch.after(number + 8)) == 2
        with pytest.raises(Overloaded):
            services.watch.after(number)


async def test_a_broken_read_is_tried_again(
    services: Services, note: Note, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner = (await factories.institution(services)).id
    async with services.watch.following() as number:
        good, failures = store.arrived, [OSError("gone"), OSError("still gone")]

        async def flaky(*given: Any, **named: Any) -> Any:
            if failures:
                raise failures.pop()
            return await good(*given, **named)

        monkeypatch.setattr(store, "arrived", flaky)
        await note(owner)
        await asyncio.wait_for(services.watch.wait(number), 5)
    assert "trying again" in caplog.text


async def test_whoever_follows_is_told_even_when_what_reads_for_them_was_ended(
    services: Services, note: Note, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner = (await factories.institution(services)).id
    async with services.watch.following() as number:
        good = store.arrived

        async def taken_along(*given: Any, **named: Any) -> Any:
            monkeypatch.setattr(store, "arrived", good)
            raise asyncio.CancelledError

        monkeypatch.setattr(store, "arrived", taken_along)
        await note(owner)
        await asyncio.wait_for(services.watch.wait(number), 5)
    assert "audit-watch has stopped by itself" in caplog.text


async def test_many_rows_come_once_each(
    services: Services, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PAGE_SIZE", 7)
    monkeypatch.setattr(watch, "OVERLAP", timedelta(seconds=2))
    owner = (await factories.institution(services)).id
    async with services.watch.following() as number:
        made = []
        for _ in range(8):
            made += await asyncio.gather(*(note(owner) for _ in range(10)))
            await asyncio.sleep(0.4)

        async def read() -> bool:
            return services.watch.end >= number + 80

        await eventually(read)
        assert sorted(row.id for row in services.watch.after(number)) == sorted(row.id for row in made)


def test_a_watch_stands_still_until_somebody_follows(services: Services) -> None:
    assert isinstance(services.watch, Watch)
    assert services.watch.end == 0
