"""Positions and their sums as they were."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from app.context import Services
from app.positions.model import State
from tests import factories
from tests.conftest import Run

POSITION = (
    "query($id: ID!, $asOf: AsOf) { position(id: $id, asOf: $asOf) { state version held released closedAt } }"
)
SUMMARY = (
    """query($asOf: AsOf) { positionSummary(groupBy: [STATE], asOf: $asOf) { state currency count held } }"""
)
HISTORY = "query($id: ID!) { position(id: $id) { events { edges { node { sequence recordedAt balancesAfter { held } newState } } } } }"


async def told(run: Run, services: Services) -> tuple[Any, Any, list[Any]]:
    """A position that was funded, released in part and then whole, with its events."""
    place = await factories.place(services)
    position = await factories.position(services, place.asset, "100.00", state=State.PARTIALLY_RELEASED)
    await services.writer.submit(factories.move(services, position, factories.release()))
    found = await run(HISTORY, {"id": position.id}, principal=place.admin)
    return place, position, [edge["node"] for edge in found.data["position"]["events"]["edges"]]


async def test_a_position_can_be_asked_for_as_of_every_sequence_and_time(
    run: Run, services: Services
) -> None:
    place, position, events = await told(run, services)
    assert [event["newState"] for event in events] == ["CREATED", "FUNDED", "PARTIALLY_RELEASED", "RELEASED"]
    for event in events:
        for as_of in ({"sequence": event["sequence"]}, {"time": event["recordedAt"]}):
            then = (await run(POSITION, {"id": position.id, "asOf": as_of}, principal=place.admin)).data[
                "position"
            ]
            assert (then["state"], then["held"]) == (event["newState"], event["balancesAfter"]["held"])
            assert (then["closedAt"] is not None) == (event["newState"] == "RELEASED")


async def test_the_history_of_a_position_as_it_was_ends_there(run: Run, services: Services) -> None:
    place, position, events = await told(run, services)
    for number, event in enumerate(events, start=1):
        for more in ("", "totalCount"):
            document = (
                "query($id: ID!, $asOf: AsOf) { position(id: $id, asOf: $asOf) "
                f"{{ version events {{ {more} edges {{ node {{ positionVersion }} }} }} }} }}"
            )
            asked = {"id": position.id, "asOf": {"sequence": event["sequence"]}}
            then = (await run(document, asked, principal=place.admin)).data["position"]
            found = [edge["node"]["positionVersion"] for edge in then["events"]["edges"]]
            assert found == list(range(1, number + 1)) == list(range(1, then["version"] + 1))
            assert then["events"].get("totalCount", number) == number


async def test_a_moment_is_answered_once_nothing_of_it_can_still_appear(
    run: Run, services: Services, owner_url: str
) -> None:
    """A batch has its time before it commits: asked meanwhile, the answer waits or is refused, and never changes."""
    place = await factories.place(services)
    position = await factories.position(services, place.asset, "100.00")
    async with connected(owner_url) as holder, holder.transaction():
        await holder.execute("SELECT FROM ledger_head FOR UPDATE")
        moving = asyncio.create_task(
            services.writer.submit(factories.move(services, position, factories.FUND))
        )
        moment = await holder.fetchval("SELECT clock_timestamp()")
        asked = {"id": position.id, "asOf": {"time": moment.isoformat()}}
        early = await run(POSITION, asked, principal=place.admin)
        assert early.codes == ["UNAVAILABLE"]
        waiting = asyncio.create_task(run(POSITION, asked, principal=place.admin))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    funded = (await moving).event.recorded_at
    assert funded > moment
    for answered in (await waiting, await run(POSITION, asked, principal=place.admin)):
        assert answered.codes or answered.data["position"]["state"] == "CREATED"
    later = asked | {"asOf": {"time": funded.isoformat()}}
    assert (await run(POSITION, later, principal=place.admin)).data["position"]["state"] == "FUNDED"


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_before_it_was_opened_a_position_is_not_there(run: Run, services: Services) -> None:
    place, position, _events = await told(run, services)
    answered = await run(POSITION, {"id": position.id, "asOf": {"sequence": 0}}, principal=place.admin)
    assert answered.data == {"position": None}
    assert not answered.errors


@pytest.mark.parametrize("as_of", [{"sequence": 5}, {"sequence": -1}, {"time": "2999-01-01T00:00:00Z"}])
async def test_what_is_not_known_is_an_error_and_never_an_empty_answer(
    run: Run, services: Services, as_of: dict[str, Any]
) -> None:
    place, position, _events = await told(run, services)
    for document, variables in ((POSITION, {"id": position.id}), (SUMMARY, {})):
        answered = await run(document, variables | {"asOf": as_of}, principal=place.admin)
        assert answered.codes == ["BAD_REQUEST"]


@pytest.mark.parametrize("as_of", [{}, {"sequence": 1, "time": "2026-01-01T00:00:00Z"}, {"sequence": None}])
async def test_exactly_one_point_has_to_be_named(run: Run, services: Services, as_of: dict[str, Any]) -> None:
    place, position, _events = await told(run, services)
    answered = await run(POSITION, {"id": position.id, "asOf": as_of}, principal=place.admin)
    assert len(answered.errors) == 1


async def test_a_variable_in_a_point_that_nobody_defined_is_told(run: Run, services: Services) -> None:
    place, position, _events = await told(run, services)
    document = f'{{ position(id: "{position.id}", asOf: {{sequence: $nothing}}) {{ state }} }}'
    answered = await run(document, principal=place.admin)
    assert answered.codes == ["GRAPHQL_VALIDATION_FAILED"]
    assert "'$nothing' is not defined" in answered.errors[0].message


async def test_a_point_may_be_given_in_a_fragment_that_stands_before_its_operation(
    run: Run, services: Services
) -> None:
    place, position, _events = await told(run, services)
    document = (
        f'fragment past on Query {{ position(id: "{position.id}", asOf: {{sequence: $at}}) {{ state }} }} '
        "query ($at: %s) { ...past }"
    )
    answered = await run(document % "Long!", {"at": 1}, principal=place.admin)
    assert answered.errors == []
    assert answered.data["position"]["state"] == "CREATED"
    refused = await run(document % "Long", {"at": None}, principal=place.admin)
    assert refused.codes == ["GRAPHQL_VALIDATION_FAILED"]


async def test_sums_as_of_a_point_are_those_of_the_positions_then(run: Run, services: Services) -> None:
    place = await factories.place(services)
    first = await factories.position(services, place.asset, "100.00", state=State.FUNDED)
    await factories.position(services, place.asset, "50.00", state=State.FUNDED)
    sequence = 4
    await services.writer.submit(factories.move(services, first, factories.release("40.00")))
    await factories.position(services, place.asset, "7.00")
    then = await run(SUMMARY, {"asOf": {"sequence": sequence}}, principal=place.admin)
    assert then.data["positionSummary"] == [
        {"state": "FUNDED", "currency": "USD", "count": 2, "held": "150.00"}
    ]
    now = await run(SUMMARY, {"asOf": {"sequence": 6}}, principal=place.admin)
    assert now.data == (await run(SUMMARY, {}, principal=place.admin)).data
    assert sum(Decimal(row["held"]) for row in now.data["positionSummary"]) == Decimal("110.00")


async def test_another_institutions_position_is_not_there_at_any_time(run: Run, services: Services) -> None:
    _place, position, _events = await told(run, services)
    other = await factories.place(services, name="Other")
    answered = await run(POSITION, {"id": position.id, "asOf": {"sequence": 0}}, principal=other.admin)
    assert answered.data == {"position": None}
