"""Live positions: first as they are, then every version once, each as of its event."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.context import Request, Services
from app.positions.model import State
from app.principal import Role
from tests import factories
from tests.conftest import Live, Run, eventually
from tests.factories import FUND, release
from tests.positions.conftest import Desk

FIELDS = """{ cursor heartbeat position { id state version held released currency holderReference updatedAt closedAt }
              event { positionVersion newState globalSequence } }"""
ONE = f"""
subscription ($id: ID!, $after: String, $heartbeat: Int) {{
  positionChanged(id: $id, after: $after, heartbeatSeconds: $heartbeat) {FIELDS}
}}
"""
MANY = f"""
subscription ($where: PositionWhere, $after: String, $heartbeat: Int) {{
  positionsChanged(where: $where, after: $after, heartbeatSeconds: $heartbeat) {FIELDS}
}}
"""
Message = dict[str, Any]
PARTS = [FUND, release("10.00"), release("20.00"), release("30.00"), release()]


async def take(results: Any, count: int) -> list[Message]:
    found = []
    for _ in range(count):
        result = await asyncio.wait_for(anext(results), timeout=5)
        assert not result.errors, result.errors
        (message,) = result.data.values()
        found.append(message)
    return found


async def quiet(results: Any) -> bool:
    """Whether nothing comes for a while; nothing can be taken afterwards."""
    waiting = asyncio.ensure_future(anext(results))
    await asyncio.sleep(0.05)
    silent = not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return silent


def told(messages: list[Message]) -> list[tuple[str, int]]:
    return [(message["position"]["state"], message["position"]["version"]) for message in messages]


async def test_a_position_is_told_as_it_is_and_then_once_for_every_version_none_conflated(
    desk: Desk, live: Live
) -> None:
    """All five moves have happened before the first of them is taken from the stream."""
    position = await desk.position()
    async with live(ONE, {"id": position.id}, principal=desk.place.admin) as results:
        (initial,) = await take(results, 1)
        assert told([initial]) == [("CREATED", 1)]
        assert initial["event"] is None
        assert initial["cursor"] == desk.services.tail.epochs.cursor(desk.place.institution.id, 1)
        for intent in PARTS:
            await desk.services.writer.submit(factories.move(desk.services, position, intent))
        messages = await take(results, 5)
        assert await quiet(results)
    assert told(messages) == [
        ("FUNDED", 2),
        ("PARTIALLY_RELEASED", 3),
        ("PARTIALLY_RELEASED", 4),
        ("PARTIALLY_RELEASED", 5),
        ("RELEASED", 6),
    ]
    assert [message["position"]["held"] for message in messages] == [
        "100.00",
        "90.00",
        "70.00",
        "40.00",
        "0.00",
    ]
    assert [message["position"]["released"] for message in messages] == [
        "0.00",
        "10.00",
        "30.00",
        "60.00",
        "100.00",
    ]
    assert [message["event"]["positionVersion"] for message in messages] == [2, 3, 4, 5, 6]
    assert [message["position"]["closedAt"] is None for message in messages] == [True] * 4 + [False]
    updated = [message["position"]["updatedAt"] for message in messages]
    assert updated == sorted(updated)


async def test_a_stream_that_waits_for_what_passes_holds_no_connection(desk: Desk, live: Live) -> None:
    """Else as many streams as there are connections would have everybody wait."""
    position = await desk.position()
    variables = {"where": {"id": {"eq": position.id}, "state": {"eq": "RELEASED"}}}
    async with live(MANY, variables, principal=desk.place.admin) as results:
        following = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0.1)
        await desk.services.writer.submit(factories.move(desk.services, position, FUND))

        async def read() -> bool:
            return desk.services.tail.position == await desk.owner.fetchval(
                "SELECT global_sequence FROM ledger_head"
            )

        await eventually(read)
        await asyncio.sleep(0.2)
        held = (
            "FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        )
        assert await desk.owner.fetchval(f"SELECT count(*) {held}") == 0
        assert not following.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_stream_resumes_after_every_message_also_after_the_first_picture(
    desk: Desk, live: Live
) -> None:
    position = await desk.position()
    variables = {"id": position.id}
    async with live(ONE, variables, principal=desk.place.admin) as results:
        messages = await take(results, 1)
        for intent in PARTS:
            await desk.services.writer.submit(factories.move(desk.services, position, intent))
        messages += await take(results, 5)
    for number, message in enumerate(messages, start=1):
        after = {**variables, "after": message["cursor"]}
        async with live(ONE, after, principal=desk.place.admin) as results:
            rest = await take(results, len(messages) - number)
        assert rest == messages[number:]
    request = Request("req_1", last_event_id=messages[2]["cursor"])
    async with live(ONE, variables, principal=desk.place.admin, request=request) as results:
        assert await take(results, 3) == messages[3:]


async def test_other_positions_do_not_disturb_and_the_heartbeat_passes_them(desk: Desk, live: Live) -> None:
    position = await desk.position()
    variables = {"id": position.id, "heartbeat": 1}
    async with live(ONE, variables, principal=desk.place.admin) as results:
        await take(results, 1)
        waiting = asyncio.ensure_future(take(results, 1))
        for _ in range(3):
            await desk.position()
        (beat,) = await waiting
    assert (beat["heartbeat"], beat["position"], beat["event"]) == (True, None, None)
    assert beat["cursor"] == desk.services.tail.epochs.cursor(desk.place.institution.id, 4)


async def test_what_happens_while_a_stream_begins_is_neither_missed_nor_repeated(
    desk: Desk, live: Live
) -> None:
    """Whatever version the first picture shows, the stream goes on with the next."""
    for _ in range(5):
        position = await desk.position(state=State.FUNDED)

        async def move(of: Any = position) -> None:
            for _ in range(10):
                await desk.services.writer.submit(factories.move(desk.services, of, release("1.00")))

        moving = asyncio.create_task(move())
        await asyncio.sleep(0.005)
        async with live(ONE, {"id": position.id}, principal=desk.place.admin) as results:
            (initial,) = await take(results, 1)
            version = initial["position"]["version"]
            rest = await take(results, 12 - version)
        await moving
        assert [message["position"]["version"] for message in rest] == list(range(version + 1, 13))


@pytest.mark.parametrize("kind", ["foreign", "unknown", "malformed", "NUL", "surrogate"])
async def test_a_position_that_is_not_there_is_an_error(desk: Desk, live: Live, kind: str) -> None:
    other = await factories.place(desk.services)
    ids = {
        "foreign": (await factories.position(desk.services, other.asset)).id,
        "unknown": desk.services.ids.new("pos"),
        "malformed": "nonsense",
        "NUL": "\x00",
        "surrogate": "\ud800",
    }
    async with live(ONE, {"id": ids[kind]}, principal=desk.place.admin) as results:
        result = await anext(results)
        assert [error.extensions["code"] for error in result.errors] == ["NOT_FOUND"]
        with pytest.raises(StopAsyncIteration):
            await anext(results)


async def test_all_positions_are_told_first_and_the_last_of_them_carries_the_cursor(
    desk: Desk, live: Live
) -> None:
    positions = [await desk.position() for _ in range(4)]
    async with live(MANY, principal=desk.place.admin) as results:
        initial = await take(results, 4)
        assert [message["position"]["id"] for message in initial] == [position.id for position in positions]
        assert [message["cursor"] for message in initial[:-1]] == [None] * 3
        assert initial[-1]["cursor"] == desk.services.tail.epochs.cursor(desk.place.institution.id, 4)
        await desk.services.writer.submit(factories.move(desk.services, positions[2], FUND))
        made = await desk.position()
        moved, opened = await take(results, 2)
    assert (moved["position"]["id"], moved["position"]["version"]) == (positions[2].id, 2)
    assert (opened["position"]["id"], opened["event"]["newState"]) == (made.id, "CREATED")


async def test_a_position_that_leaves_the_states_of_the_filter_is_told_once_more(
    desk: Desk, live: Live
) -> None:
    one, other = [await desk.position() for _ in range(2)]
    where = {"state": {"in": ["FUNDED", "PARTIALLY_RELEASED"]}}
    async with live(MANY, {"where": where}, principal=desk.place.admin) as results:
        waiting = asyncio.ensure_future(take(results, 4))
        await asyncio.sleep(0.05)
        for intent in (FUND, release("1.00"), release("1.00"), release()):
            await desk.services.writer.submit(factories.move(desk.services, one, intent))
        assert told(await waiting) == [
            ("FUNDED", 2),
            ("PARTIALLY_RELEASED", 3),
            ("PARTIALLY_RELEASED", 4),
            ("RELEASED", 5),
        ]
        await desk.services.writer.submit(
            factories.move(desk.services, other, factories.Intent(state=State.CANCELLED))
        )
        await desk.position()
        assert await quiet(results), "what neither was nor is in those states is not told"


async def test_stages_leave_as_states_do(desk: Desk, live: Live) -> None:
    position = await desk.position(state=State.FUNDED)
    where = {"stage": {"eq": "FUNDED"}}
    async with live(MANY, {"where": where}, principal=desk.place.admin) as results:
        assert told(await take(results, 1)) == [("FUNDED", 2)]
        await desk.services.writer.submit(factories.move(desk.services, position, release("1.00")))
        assert told(await take(results, 1)) == [("PARTIALLY_RELEASED", 3)]
        await desk.services.writer.submit(factories.move(desk.services, position, release("1.00")))
        assert await quiet(results)


async def test_a_filter_tells_of_the_same_positions_as_the_same_filter_of_the_list(
    desk: Desk, live: Live, run: Run
) -> None:
    """The first picture, and what is opened afterwards."""
    services, place = desk.services, desk.place
    euros = await factories.asset(
        services,
        await factories.template(services, place.institution.id, config={"currency": "EUR", "region": "US"}),
    )
    far = datetime(2126, 1, 1, tzinfo=UTC)

    async def some(number: int) -> None:
        for holder, asset in (("A%", place.asset), ("B_", euros)):
            await factories.position(
                services,
                asset,
                f"{number}.50",
                holder_reference=f"{holder} {number}",
                external_reference=f"{holder} {number}" if number % 2 else None,
                expires_at=far + timedelta(days=number) if number % 2 else None,
            )

    for number in (1, 2):
        await some(number)
    begun = datetime.now(UTC)
    cursor = services.tail.epochs.cursor(place.institution.id, 4)
    for number in (3, 4):
        await some(number)
    late = (far + timedelta(days=2)).isoformat()
    for where in (
        {},
        {"currency": {"eq": "EUR"}},
        {"currency": {"in": ["USD", "JPY"]}},
        {"assetId": {"eq": euros.id}},
        {"institutionId": {"eq": place.institution.id}},
        {"institutionId": {"eq": "inst_nonsense"}},
        {"holderReference": {"in": ["A% 1", "B_ 3", "nobody"]}},
        {"holderReference": {"eq": "B_ 4"}},
        {"externalReference": {"contains": "A"}},
        {"externalReference": {"in": ["A% 1", "A% 3", "A% 4"]}},
        {"amount": {"gte": "2.5", "lte": "3.500"}},
        {"amount": {"eq": "4.50"}},
        {"expiresAt": {"gte": late}},
        {"expiresAt": {"lte": late}},
        {"createdAt": {"gte": begun.isoformat()}},
        {"state": {"eq": "CREATED"}},
        {"state": {"eq": "FUNDED"}},
    ):
        listed = await run(
            "query ($where: PositionWhere) { positions(where: $where, orderBy: {field: CREATED, direction: ASC}) "
            "{ edges { node { id } } } }",
            {"where": where},
            principal=place.admin,
        )
        wanted = [edge["node"]["id"] for edge in listed.data["positions"]["edges"]]
        async with live(MANY, {"where": where}, principal=place.admin) as results:
            initial = [message["position"]["id"] for message in await take(results, len(wanted))]
        assert initial == wanted, where
        first_four = await desk.owner.fetch("SELECT position_id FROM ledger_events WHERE sequence <= 4")
        later = [id_ for id_ in wanted if id_ not in {row["position_id"] for row in first_four}]
        async with live(MANY, {"where": where, "after": cursor}, principal=place.admin) as results:
            streamed = [message["position"]["id"] for message in await take(results, len(later))]
        assert streamed == later, where


async def test_tenants_see_their_own_and_root_sees_all(desk: Desk, live: Live) -> None:
    other = await factories.place(desk.services)
    theirs = await factories.position(desk.services, other.asset)
    mine = await desk.position()
    reader = factories.principal(desk.place.institution.id, Role.READ_ONLY)
    async with live(MANY, principal=reader) as results:
        (initial,) = await take(results, 1)
        assert initial["position"]["id"] == mine.id
        for position in (theirs, mine):
            await desk.services.writer.submit(factories.move(desk.services, position, FUND))
        (message,) = await take(results, 1)
        assert message["position"]["id"] == mine.id
        assert message["event"]["globalSequence"] is None
    async with live(MANY) as results:
        initial_of_all = await take(results, 2)
        assert {message["position"]["id"] for message in initial_of_all} == {theirs.id, mine.id}
        await desk.services.writer.submit(factories.move(desk.services, theirs, release()))
        (message,) = await take(results, 1)
        assert message["event"]["globalSequence"] == 5


async def test_more_positions_than_a_first_picture_holds_are_refused_with_what_to_do(
    services: Services, desk: Desk, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.positions.live.INITIAL_MAX", 3)
    for _ in range(4):
        await desk.position()
    async with live(MANY, principal=desk.place.admin) as results:
        result = await anext(results)
    assert [error.extensions["code"] for error in result.errors] == ["BAD_REQUEST"]
    assert "ledgerHead" in result.errors[0].message


RESTORE = """
ALTER TABLE ledger_events DISABLE TRIGGER append_only;
DELETE FROM ledger_events WHERE global_sequence > 1;
ALTER TABLE ledger_events ENABLE ALWAYS TRIGGER append_only;
UPDATE ledger_head SET global_sequence = 1;
UPDATE institution_heads h SET sequence = e.sequence, hash = e.hash FROM ledger_events e WHERE e.global_sequence = 1;
"""


async def test_a_stream_over_a_ledger_that_is_restored_ends_with_cursor_invalid(
    desk: Desk, live: Live
) -> None:
    position = await desk.position(state=State.FUNDED)
    async with live(ONE, {"id": position.id}, principal=desk.place.admin) as results:
        await take(results, 1)
        waiting = asyncio.ensure_future(anext(results))
        await asyncio.sleep(0.02)
        await desk.owner.execute(RESTORE)
        result = await asyncio.wait_for(waiting, timeout=5)
    assert [error.extensions["code"] for error in result.errors] == ["CURSOR_INVALID"]
    assert "restored" in result.errors[0].message
