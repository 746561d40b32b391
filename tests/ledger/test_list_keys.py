"""One key names one list: of two lists, or of a list and a command, that come with it at once one is done."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.ledger.model import Event
from app.positions.model import Position, State
from app.principal import Principal, root
from tests import factories
from tests.factories import Place
from tests.ledger.conftest import HeadHeld, Ledger, taken

ROUNDS = 25
ERRORS = "userErrors { code field }"
MOVES = f"""mutation ($input: TransitionPositionsInput!) {{ transitionPositions(input: $input) {{
  results {{ replayed {ERRORS} }} {ERRORS} }} }}"""
OPENINGS = f"""mutation ($input: CreatePositionsInput!) {{ createPositions(input: $input) {{
  results {{ replayed {ERRORS} }} {ERRORS} }} }}"""
MOVE = f"""mutation ($input: TransitionPositionInput!) {{ transitionPosition(input: $input) {{ replayed {ERRORS} }} }}"""
OPENING = (
    f"""mutation ($input: CreatePositionInput!) {{ createPosition(input: $input) {{ replayed {ERRORS} }} }}"""
)
TAKEN = {"results": [], "userErrors": [{"code": "IDEMPOTENCY_CONFLICT", "field": None}]}
TAKEN_ONE = {
    "replayed": False,
    "userErrors": [{"code": "IDEMPOTENCY_CONFLICT", "field": "idempotencyKey"}],
}

Send = Callable[..., Awaitable[Any]]


@pytest.fixture
def send(built_schema: Schema, place: Place) -> Send:
    """The payload of one mutation that a server is sent with the header: `await send(server, document, input, key)`."""

    async def ask(
        server: Services, document: str, input_: dict[str, Any], key: str, principal: Principal | None = None
    ) -> Any:
        request = Request(server.ids.new("req"), idempotency_key=key)
        context = Context(server, principal or place.admin, request)
        try:
            found = await built_schema.execute(
                document, variable_values={"input": input_}, context_value=context
            )
        finally:
            await context.close()
        assert not found.errors, found.errors
        assert found.data is not None
        (payload,) = found.data.values()
        return payload

    return ask


def fund(*positions: Position) -> dict[str, Any]:
    return {"items": [{"id": position.id, "toState": "FUNDED"} for position in positions]}


def terms(place: Place, *amounts: str) -> dict[str, Any]:
    fixed = {"assetId": place.asset.id, "holderReference": "H", "currency": "USD"}
    return {"items": [{**fixed, "amount": amount} for amount in amounts]}


async def made(services: Services, place: Place, *states: State) -> list[Position]:
    return [await factories.position(services, place.asset, state=state) for state in states]


def accepted(payload: Any) -> list[bool]:
    return [not result["userErrors"] for result in payload["results"]]


def keys_of(events: Sequence[Event]) -> list[str]:
    return sorted(event.key.value for event in events if not event.key.value.startswith("auto"))


@pytest.mark.parametrize("is_held", [True, False], ids=["both decided before either commits", "as they come"])
async def test_two_lists_without_a_place_in_common_do_not_both_act(
    services: Services,
    second: Services,
    place: Place,
    ledger: Ledger,
    head_held: HeadHeld,
    send: Send,
    is_held: bool,
) -> None:
    """What either can do stands at another place, so that none of their items has the key of another's."""
    for number in range(ROUNDS):
        done, one, two = await made(services, place, State.RELEASED, State.CREATED, State.CREATED)
        before, key = len(await ledger()), f"list {number}"
        asked = [(services, fund(done, one)), (second, fund(two, done))]
        if is_held:
            async with head_held():
                tasks = [asyncio.create_task(send(server, MOVES, input_, key)) for server, input_ in asked]
                await asyncio.sleep(0.05)
                await asyncio.gather(*(taken(server.writer) for server in (services, second)))
            answers = [await task for task in tasks]
        else:
            answers = await asyncio.gather(*(send(server, MOVES, input_, key) for server, input_ in asked))
        events = (await ledger())[before:]
        assert len(events) == 1, answers
        assert keys_of(events) == [key]
        assert answers.count(TAKEN) == 1, answers
        winner = 1 if answers[0] == TAKEN else 0
        assert accepted(answers[winner]) == [winner == 1, winner == 0]
        # Neither a server that did it nor one that did not takes the other list, or does this one again.
        for server in (services, second):
            assert await send(server, MOVES, asked[1 - winner][1], key) == TAKEN
            again = await send(server, MOVES, asked[winner][1], key)
            assert [result["replayed"] for result in again["results"]] == [winner == 1, winner == 0]
        assert len(await ledger()) == before + 1


async def test_of_many_lists_at_two_servers_at_once_one_is_done(
    services: Services, second: Services, place: Place, ledger: Ledger, send: Send
) -> None:
    lists = [terms(place, *amounts) for amounts in (["1.00"], ["1.00", "2.00"], ["0.001", "3.00"], ["4.00"])]
    for number in range(ROUNDS):
        before, key = len(await ledger()), f"list {number}"
        asked = [(server, input_) for input_ in lists for server in (services, second)] * 2
        answers = await asyncio.gather(*(send(server, OPENINGS, input_, key) for server, input_ in asked))
        made_of = {str(input_) for (_, input_), answer in zip(asked, answers, strict=True) if answer != TAKEN}
        assert len(made_of) == 1, answers
        events = (await ledger())[before:]
        done = next(answer for answer in answers if answer != TAKEN)
        assert len(events) == accepted(done).count(True) > 0
        assert key in keys_of(events)


@pytest.mark.parametrize("is_atomic", [False, True])
async def test_a_list_and_a_command_at_once_are_not_both_done(
    services: Services, second: Services, place: Place, ledger: Ledger, send: Send, is_atomic: bool
) -> None:
    for number in range(ROUNDS):
        one, two, three = await made(services, place, *[State.CREATED] * 3)
        before, key = len(await ledger()), f"key {number}"
        listed, single = await asyncio.gather(
            send(services, MOVES, fund(one, two) | {"atomic": is_atomic}, key),
            send(second, MOVE, fund(three)["items"][0], key),
        )
        events = (await ledger())[before:]
        if listed == TAKEN:
            assert single == {"replayed": False, "userErrors": []}
            assert [event.position_id for event in events] == [three.id]
        else:
            assert single == TAKEN_ONE
            assert accepted(listed) == [True, True]
            assert sorted(event.position_id for event in events) == sorted([one.id, two.id])


async def test_the_key_of_a_list_names_no_single_command_and_nothing_is_written(
    services: Services, second: Services, place: Place, owner: asyncpg.Connection, send: Send
) -> None:
    """Also where only an item far in the list was accepted."""
    done, one, other = await made(services, place, State.RELEASED, State.CREATED, State.CREATED)
    assert accepted(await send(services, MOVES, fund(done, done, one), "of moves")) == [False, False, True]
    assert accepted(await send(services, OPENINGS, terms(place, "1.00"), "of openings")) == [True]
    before = await factories.footprint(owner)
    for server in (services, second):
        for key in ("of moves", "of openings"):
            assert await send(server, MOVE, fund(other)["items"][0], key) == TAKEN_ONE
            assert await send(server, OPENING, terms(place, "1.00")["items"][0], key) == TAKEN_ONE
        assert await send(server, MOVES, fund(other), "of openings") == TAKEN
        assert await send(server, OPENINGS, terms(place, "1.00"), "of moves") == TAKEN
    # The very item that carries the list's key, and the very move that it was, are not that list.
    assert await send(services, MOVE, fund(one)["items"][0], "of moves") == TAKEN_ONE
    assert await send(services, OPENING, terms(place, "1.00")["items"][0], "of openings") == TAKEN_ONE
    assert await factories.footprint(owner) == before


async def test_the_key_of_a_command_names_no_list(
    services: Services, second: Services, place: Place, owner: asyncpg.Connection, send: Send
) -> None:
    one, two = await made(services, place, State.CREATED, State.CREATED)
    assert not (await send(services, MOVE, fund(one)["items"][0], "k"))["userErrors"]
    before = await factories.footprint(owner)
    for server in (services, second):
        for input_ in (fund(one), fund(two), fund(one, two), fund(one, two) | {"atomic": True}):
            assert await send(server, MOVES, input_, "k") == TAKEN
    assert await factories.footprint(owner) == before


async def test_a_key_of_roots_names_one_list_whatever_institution_it_is_about(
    services: Services, second: Services, place: Place, elsewhere: Place, ledger: Ledger, send: Send
) -> None:
    (ours,) = await made(services, place, State.CREATED)
    (theirs,) = await made(services, elsewhere, State.CREATED)
    assert accepted(await send(services, MOVES, fund(ours), "k", root())) == [True]
    count = len(await ledger())
    for server in (services, second):
        assert await send(server, MOVES, fund(theirs), "k", root()) == TAKEN
        assert await send(server, MOVE, fund(theirs)["items"][0], "k", root()) == TAKEN_ONE
    assert len(await ledger()) == count
    # An institution's keys are its own.
    assert accepted(await send(second, MOVES, fund(theirs), "k", elsewhere.admin)) == [True]


async def test_equal_lists_at_two_servers_at_once_act_once_item_by_item(
    services: Services, second: Services, place: Place, ledger: Ledger, send: Send
) -> None:
    for number in range(ROUNDS):
        done, *ready = await made(services, place, State.RELEASED, *[State.CREATED] * 3)
        before, input_ = len(await ledger()), fund(done, *ready)
        answers = await asyncio.gather(
            *(send(server, MOVES, input_, f"list {number}") for server in [services, second] * 4)
        )
        assert [accepted(answer) for answer in answers] == [[False, True, True, True]] * 8
        for place_ in (1, 2, 3):
            assert [answer["results"][place_]["replayed"] for answer in answers].count(False) == 1
        assert len(await ledger()) == before + 3
