"""`ledgerEvents` as a live stream: past and live are one path, and each sees only its own."""

import asyncio
from typing import Any

import pytest

from app.context import Request, Services
from app.ledger.model import Event
from app.positions.model import State
from app.principal import Role
from app.settings import Settings
from tests import factories
from tests.conftest import Live, Run
from tests.factories import FUND, Place, release

STREAM = """
subscription ($after: String, $where: LedgerEventWhere, $heartbeat: Int) {
  ledgerEvents(after: $after, where: $where, heartbeatSeconds: $heartbeat) {
    cursor heartbeat node { id sequence globalSequence institutionId newState balancesAfter { held } }
  }
}
"""
HEAD = "{ ledgerHead { cursor sequence hash } }"


async def take(results: Any, count: int) -> list[dict[str, Any]]:
    """The next messages."""
    found = []
    for _ in range(count):
        result = await asyncio.wait_for(anext(results), timeout=5)
        assert not result.errors, result.errors
        found.append(result.data["ledgerEvents"])
    return found


async def quiet(results: Any) -> bool:
    """Whether nothing comes for a while; nothing can be taken afterwards."""
    waiting = asyncio.ensure_future(anext(results))
    await asyncio.sleep(0.05)
    silent = not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return silent


def sequences(messages: list[dict[str, Any]]) -> list[int]:
    return [message["node"]["sequence"] for message in messages]


async def test_what_follows_the_head_of_a_query_is_neither_missed_nor_repeated(
    services: Services, place: Place, run: Run, live: Live
) -> None:
    await factories.position(services, place.asset, state=State.FUNDED)
    head = (await run(HEAD, principal=place.admin)).data["ledgerHead"]
    assert head["sequence"] == 2
    made = [await factories.position(services, place.asset) for _ in range(3)]
    async with live(STREAM, {"after": head["cursor"]}, principal=place.admin) as results:
        assert sequences(await take(results, 3)) == [3, 4, 5]
        await services.writer.submit(factories.move(services, made[0], FUND))
        (message,) = await take(results, 1)
        assert message["node"]["newState"] == "FUNDED"
        assert message["node"]["balancesAfter"] == {"held": "100.00"}
        assert await quiet(results)


async def test_the_head_tells_the_hash_of_the_last_event_to_its_institution(
    services: Services, place: Place, run: Run
) -> None:
    empty = (await run(HEAD, principal=place.admin)).data["ledgerHead"]
    assert (empty["sequence"], empty["hash"]) == (0, "0" * 64)
    answer = await services.writer.submit(await factories.opening(services, place.asset))
    head = (await run(HEAD, principal=place.admin)).data["ledgerHead"]
    assert (head["sequence"], head["hash"]) == (1, answer.event.hash.hex())
    of_root = (await run(HEAD)).data["ledgerHead"]
    assert (of_root["sequence"], of_root["hash"]) == (1, None)
    assert of_root["cursor"] != head["cursor"]


async def test_a_stream_resumes_after_every_message(services: Services, place: Place, live: Live) -> None:
    await factories.position(services, place.asset, state=State.PARTIALLY_RELEASED)
    await factories.position(services, place.asset, state=State.CANCELLED)
    start = services.tail.epochs.cursor(place.institution.id, 0)
    async with live(STREAM, {"after": start}, principal=place.admin) as results:
        told = await take(results, 5)
    assert sequences(told) == [1, 2, 3, 4, 5]
    for place_, message in enumerate(told[:-1], start=1):
        async with live(STREAM, {"after": message["cursor"]}, principal=place.admin) as results:
            assert await take(results, 5 - place_) == told[place_:]


async def test_the_cursor_of_an_edge_a_payload_and_a_message_is_the_same(
    services: Services, place: Place, run: Run, live: Live
) -> None:
    created = await run(
        "mutation ($asset: ID!) { createPosition(input: "
        '{assetId: $asset, holderReference: "H", currency: "USD", amount: "1.00"}) { cursor event { id } } }',
        {"asset": place.asset.id},
        principal=place.admin,
    )
    payload = created.data["createPosition"]
    listed = await run(
        "{ ledgerEvents { edges { cursor } pageInfo { startCursor endCursor } } }", principal=place.admin
    )
    assert listed.data["ledgerEvents"]["edges"] == [{"cursor": payload["cursor"]}]
    assert set(listed.data["ledgerEvents"]["pageInfo"].values()) == {payload["cursor"]}
    start = services.tail.epochs.cursor(place.institution.id, 0)
    async with live(STREAM, {"after": start}, principal=place.admin) as results:
        (message,) = await take(results, 1)
    assert message["cursor"] == payload["cursor"]
    assert message["node"]["id"] == payload["event"]["id"]
    head = await run(HEAD, principal=place.admin)
    assert head.data["ledgerHead"]["cursor"] == payload["cursor"]


async def test_the_last_event_id_of_the_transport_resumes_even_where_after_is_given(
    services: Services, place: Place, live: Live
) -> None:
    """A browser's EventSource asks for the same `after` whenever it comes back."""
    for _ in range(3):
        await factories.position(services, place.asset)
    cursors = [services.tail.epochs.cursor(place.institution.id, number) for number in range(4)]
    request = Request("req_1", last_event_id=cursors[1])
    async with live(STREAM, principal=place.admin, request=request) as results:
        assert sequences(await take(results, 2)) == [2, 3]
    async with live(STREAM, {"after": cursors[0]}, principal=place.admin, request=request) as results:
        assert sequences(await take(results, 2)) == [2, 3]


async def test_a_tenant_sees_its_own_events_without_global_numbers_and_root_sees_all(
    services: Services, place: Place, elsewhere: Place, live: Live
) -> None:
    scopes = {place.institution.id: place.admin, elsewhere.institution.id: elsewhere.admin}
    for where in (place, elsewhere, place):
        await factories.position(services, where.asset)
    for institution_id, admin in scopes.items():
        start = services.tail.epochs.cursor(institution_id, 0)
        async with live(STREAM, {"after": start}, principal=admin) as results:
            for where in (elsewhere, place):
                await factories.position(services, where.asset)
            messages = await take(results, 3)
            assert {message["node"]["institutionId"] for message in messages} == {institution_id}
            assert {message["node"]["globalSequence"] for message in messages} == {None}
            assert sequences(messages) == [1, 2, 3]
    async with live(STREAM, {"after": services.tail.epochs.cursor("*", 0)}) as results:
        messages = await take(results, 7)
    assert [message["node"]["globalSequence"] for message in messages] == list(range(1, 8))
    assert {message["node"]["institutionId"] for message in messages} == set(scopes)


@pytest.mark.parametrize("role", [Role.READ_ONLY, Role.AUDITOR, Role.OPERATOR])
async def test_every_role_may_follow(services: Services, place: Place, live: Live, role: Role) -> None:
    reader = factories.principal(place.institution.id, role)
    async with live(STREAM, principal=reader) as results:
        waiting = asyncio.ensure_future(take(results, 1))
        await asyncio.sleep(0.05)
        await factories.position(services, place.asset)
        assert sequences(await waiting) == [1]


async def test_a_query_of_the_ledger_tells_no_global_numbers_to_tenants_either(
    services: Services, place: Place, run: Run
) -> None:
    await factories.position(services, place.asset)
    document = "{ ledgerEvents { edges { node { globalSequence } } } }"
    mine = await run(document, principal=place.admin)
    assert mine.data["ledgerEvents"]["edges"] == [{"node": {"globalSequence": None}}]
    all_of_it = await run(document)
    assert all_of_it.data["ledgerEvents"]["edges"] == [{"node": {"globalSequence": 1}}]


async def test_a_filter_of_the_stream_passes_what_the_same_filter_of_the_query_passes(
    services: Services, place: Place, elsewhere: Place, live: Live, run: Run
) -> None:
    eur = await factories.place(services, currency="EUR")
    events: list[Event] = []
    for where, state in (
        (place, State.RELEASED),
        (elsewhere, State.PARTIALLY_RELEASED),
        (eur, State.CANCELLED),
    ):
        created = await services.writer.submit(await factories.opening(services, where.asset, by=where.admin))
        events.append(created.event)
        for intent in factories.PATHS[state]:
            events.append(
                (await services.writer.submit(factories.move(services, created.row.position, intent))).event
            )
    third = events[2]
    instant = third.recorded_at.isoformat()
    wheres: list[dict[str, Any]] = [
        {},
        {"id": {"eq": third.id}},
        {"id": {"in": [third.id, events[0].id]}},
        {"id": {"in": []}},
        {"institutionId": {"eq": place.institution.id}},
        {"institutionId": {"in": [place.institution.id, eur.institution.id]}},
        {"positionId": {"eq": third.position_id}},
        {"kind": {"eq": "POSITION_CREATED"}},
        {"kind": {"in": ["POSITION_CREATED", "POSITION_STATE_CHANGED"]}},
        {"newState": {"eq": "FUNDED"}},
        {"newState": {"in": ["CREATED", "CANCELLED"]}},
        {"currency": {"eq": "EUR"}},
        {"actorId": {"eq": "key_of_admin"}},
        {"actorId": {"eq": "root"}},
        {"recordedAt": {"eq": instant}},
        {"recordedAt": {"gte": instant}},
        {"recordedAt": {"lte": instant}},
        {"occurredAt": {"gte": instant, "lte": instant}},
        {"kind": {"eq": "POSITION_STATE_CHANGED"}, "currency": {"eq": "USD"}},
        {"kind": None, "currency": None},
    ]
    passed = set()
    for where in wheres:
        listed = await run(
            "query ($where: LedgerEventWhere) { ledgerEvents(where: $where) { totalCount edges { cursor node { id } } } }",
            {"where": where},
        )
        assert not listed.errors, where
        wanted = [edge["node"]["id"] for edge in listed.data["ledgerEvents"]["edges"]]
        assert listed.data["ledgerEvents"]["totalCount"] == len(wanted)
        passed.add(len(wanted))
        variables = {"after": services.tail.epochs.cursor("*", 0), "where": where}
        async with live(STREAM, variables) as results:
            told = [message["node"]["id"] for message in await take(results, len(wanted))]
            assert told == wanted, where
            if len(wanted) < len(events):
                assert await quiet(results)
    assert {0, 1, len(events)} <= passed, "the test has teeth"


async def test_what_a_filter_leaves_out_is_passed_by_the_cursor_of_the_next_message(
    services: Services, place: Place, live: Live
) -> None:
    where = {"kind": {"eq": "POSITION_STATE_CHANGED"}}
    position = await factories.position(services, place.asset)
    start = services.tail.epochs.cursor(place.institution.id, 0)
    async with live(STREAM, {"after": start, "where": where}, principal=place.admin) as results:
        await services.writer.submit(factories.move(services, position, FUND))
        (message,) = await take(results, 1)
    assert message["cursor"] == services.tail.epochs.cursor(place.institution.id, 2)


async def test_a_heartbeat_tells_the_cursor_past_what_was_filtered_out(
    services: Services, place: Place, live: Live
) -> None:
    where = {"currency": {"eq": "EUR"}}
    async with live(STREAM, {"where": where, "heartbeat": 1}, principal=place.admin) as results:
        waiting = asyncio.ensure_future(take(results, 1))
        await asyncio.sleep(0.1)
        for _ in range(3):
            await factories.position(services, place.asset)
        (message,) = await waiting
    assert (message["heartbeat"], message["node"]) == (True, None)
    assert message["cursor"] == services.tail.epochs.cursor(place.institution.id, 3)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_heartbeat_has_a_least_interval(place: Place, live: Live, seconds: int) -> None:
    async with live(STREAM, {"heartbeat": seconds}, principal=place.admin) as results:
        told = await anext(results)
    assert [error.extensions["code"] for error in told.errors] == ["BAD_REQUEST"]
    assert "every 1 seconds" in told.errors[0].message


async def test_nested_fields_are_read_anew_for_each_message(
    services: Services, place: Place, live: Live
) -> None:
    """`position` is as it is now; the event itself is as of then."""
    position = await factories.position(services, place.asset)
    document = """
    subscription ($after: String) {
      ledgerEvents(after: $after) { node { newState position { state version } institution { name } } }
    }
    """
    start = services.tail.epochs.cursor(place.institution.id, 1)
    async with live(document, {"after": start}, principal=place.admin) as results:
        for number, intent in enumerate([FUND, release("1.00"), release()], start=2):
            answer = await services.writer.submit(factories.move(services, position, intent))
            ((message),) = await take(results, 1)
            assert message["node"] == {
                "newState": answer.event.new_state,
                "position": {"state": answer.row.position.state, "version": number},
                "institution": {"name": "Acme Trust"},
            }


class TestWithASmallRing:
    """Through GraphQL, too, a slow subscriber misses nothing."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"ring_bytes_max": 65_536, "tail_page_size": 7})

    async def test_a_slow_subscriber_misses_nothing(
        self, services: Services, place: Place, live: Live
    ) -> None:
        async with live(STREAM, principal=place.admin) as results:
            waiting = asyncio.ensure_future(take(results, 1))
            await asyncio.sleep(0.05)
            for _ in range(6):
                await asyncio.gather(
                    *[
                        services.writer.submit(await factories.opening(services, place.asset))
                        for _ in range(10)
                    ]
                )
            assert sequences(await waiting) + sequences(await take(results, 59)) == list(range(1, 61))
