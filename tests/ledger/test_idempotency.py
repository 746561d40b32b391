"""A retry is not a second act: keys, replays and conflicts."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from app.context import Services
from app.errors import ErrorCode, Refusal
from app.ledger.writer import Answer, Command
from app.positions.lifecycle import Intent
from app.positions.model import State
from app.principal import Role, root
from tests import factories
from tests.factories import FUND, Place, release
from tests.ledger.conftest import Gathering, Ledger

EQUAL = 50
TERMS: dict[str, Any] = {
    "external_reference": "INV-1",
    "reason": "agreed",
    "metadata": {"a": [1, Decimal("1.50")]},
    "expires_at": datetime(2126, 1, 1, tzinfo=UTC),
    "idempotency_key": "once",
}


async def refusal(services: Services, command: Command, owner: asyncpg.Connection) -> Refusal:
    """How the command was refused; nothing was written."""
    before = await factories.footprint(owner)
    with pytest.raises(Refusal) as refused:
        await services.writer.submit(command)
    assert await factories.footprint(owner) == before
    return refused.value


def check_equal(answers: list[Answer]) -> None:
    """One effect, the same answer for all, and one of them was the first."""
    assert len({answer.event.id for answer in answers}) == 1
    assert all(answer.event == answers[0].event for answer in answers)
    assert all(answer.row == answers[0].row for answer in answers)
    assert [answer.replayed for answer in answers].count(False) == 1


async def test_fifty_equal_creations_at_once_make_one_position_and_fifty_equal_answers(
    services: Services, place: Place, ledger: Ledger
) -> None:
    commands = [await factories.opening(services, place.asset, **TERMS) for _ in range(EQUAL)]
    check_equal(await asyncio.gather(*(services.writer.submit(command) for command in commands)))
    assert len(await ledger()) == 1


async def test_fifty_equal_commands_in_one_batch_act_once(
    services: Services, place: Place, gathered: Gathering, ledger: Ledger
) -> None:
    commands = [await factories.opening(services, place.asset, **TERMS) for _ in range(EQUAL)]
    async with gathered(commands) as tasks:
        pass
    check_equal(await asyncio.gather(*tasks))
    assert len(await ledger()) == 2


@pytest.mark.parametrize("what", ["creation", "move"])
async def test_fifty_equal_commands_in_two_processes_act_once(
    services: Services, second: Services, place: Place, ledger: Ledger, what: str
) -> None:
    position = await factories.position(services, place.asset)
    before = len(await ledger())

    async def make(server: Services) -> Command:
        if what == "creation":
            return await factories.opening(server, place.asset, **TERMS)
        return factories.move(server, position, FUND, reason="paid", idempotency_key="once")

    servers = [services, second] * (EQUAL // 2)
    commands = [(server, await make(server)) for server in servers]
    answers = await asyncio.gather(*(server.writer.submit(command) for server, command in commands))
    check_equal(answers)
    assert len(await ledger()) == before + 1


async def test_a_replay_tells_the_position_as_of_its_event_even_after_later_ones(
    services: Services, second: Services, place: Place
) -> None:
    create = await factories.opening(services, place.asset, **TERMS)
    created = await services.writer.submit(create)
    position = created.row.position
    moves = [
        factories.move(services, position, intent, idempotency_key=f"step {number}")
        for number, intent in enumerate([FUND, release("40.00"), release()])
    ]
    first = [created, *[await services.writer.submit(move) for move in moves]]
    assert [answer.row.position.state for answer in first] == [
        State.CREATED,
        State.FUNDED,
        State.PARTIALLY_RELEASED,
        State.RELEASED,
    ]
    for command, told in zip([create, *moves], first, strict=True):
        for server in (services, second):
            again = await server.writer.submit(command)
            assert again.replayed
            assert (again.event, again.row) == (told.event, told.row)


OTHER_TERMS: list[dict[str, Any]] = [
    {"amount": "100.01"},
    {"external_reference": "INV-2"},
    {"external_reference": None},
    {"expires_at": None},
    {"expires_at": datetime(2126, 1, 1, 0, 0, 0, 1, tzinfo=UTC)},
    {"occurred_at": datetime(2020, 1, 1, tzinfo=UTC)},
    {"holder_reference": "HOLDER-2"},
    {"reason": "agreed "},
    {"reason": None},
    {"metadata": None},
    {"metadata": {"a": [1, Decimal("1.51")]}},
    {"metadata": {"a": [1, Decimal("1.50")], "b": None}},
]

SEALED = {"holder_reference", "reason", "metadata"}


@pytest.mark.parametrize("other", OTHER_TERMS, ids=str)
async def test_the_same_key_with_another_creation_is_a_conflict(
    services: Services, place: Place, owner: asyncpg.Connection, other: dict[str, Any]
) -> None:
    await services.writer.submit(await factories.opening(services, place.asset, **TERMS))
    terms = {**TERMS, **other}
    found = await refusal(services, await factories.opening(services, place.asset, **terms), owner)
    assert (found.code, found.field) == (ErrorCode.IDEMPOTENCY_CONFLICT, "idempotencyKey")
    assert ("sealed" in str(found)) == (other.keys() <= SEALED)
    assert "send" in str(found)
    assert "new key" in str(found)


async def test_a_conflict_tells_no_sealed_text_nor_which_of_them_differs(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    await services.writer.submit(await factories.opening(services, place.asset, **TERMS))
    told = set()
    for other in OTHER_TERMS:
        if other.keys() <= SEALED:
            terms = {**TERMS, **other}
            found = await refusal(services, await factories.opening(services, place.asset, **terms), owner)
            told.add(str(found))
    (only,) = told
    assert not any(text in only for text in ("HOLDER", "agreed", "1.5"))


async def test_the_same_key_on_another_asset_is_a_conflict(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    await services.writer.submit(await factories.opening(services, place.asset, idempotency_key="once"))
    other = await factories.asset(services, place.template)
    found = await refusal(services, await factories.opening(services, other, idempotency_key="once"), owner)
    assert found.code is ErrorCode.IDEMPOTENCY_CONFLICT


async def test_the_same_metadata_written_otherwise_is_the_same(services: Services, place: Place) -> None:
    await services.writer.submit(
        await factories.opening(
            services, place.asset, metadata={"b": Decimal("1.0"), "a": "x"}, idempotency_key="once"
        )
    )
    again = await services.writer.submit(
        await factories.opening(services, place.asset, metadata={"a": "x", "b": 1}, idempotency_key="once")
    )
    assert again.replayed


OTHER_MOVES: list[dict[str, Any]] = [
    {"intent": release("40.01")},
    {"intent": release()},
    {"intent": Intent(state=State.CANCELLED)},
    {"expected_version": 2},
    {"occurred_at": datetime(2020, 1, 1, tzinfo=UTC)},
    {"reason": "why"},
    {"metadata": {}},
]


@pytest.mark.parametrize("other", OTHER_MOVES, ids=str)
async def test_the_same_key_with_another_move_is_a_conflict(
    services: Services, place: Place, owner: asyncpg.Connection, other: dict[str, Any]
) -> None:
    position = await factories.position(services, place.asset, state=State.FUNDED)
    await services.writer.submit(factories.move(services, position, release("40.00"), idempotency_key="once"))
    wanted: dict[str, Any] = {"intent": release("40.00"), **other}
    found = await refusal(
        services, factories.move(services, position, idempotency_key="once", **wanted), owner
    )
    assert found.code is ErrorCode.IDEMPOTENCY_CONFLICT
    assert ("sealed" in str(found)) == (other.keys() <= SEALED)


async def test_the_same_amount_written_otherwise_is_the_same(services: Services, place: Place) -> None:
    position = await factories.position(services, place.asset, state=State.FUNDED)
    await services.writer.submit(factories.move(services, position, release("40.00"), idempotency_key="once"))
    again = await services.writer.submit(
        factories.move(services, position, release("40"), idempotency_key="once")
    )
    assert again.replayed


async def test_the_key_of_one_position_cannot_be_used_for_another(
    services: Services, second: Services, place: Place, owner: asyncpg.Connection
) -> None:
    one, two = [await factories.position(services, place.asset) for _ in range(2)]
    await services.writer.submit(factories.move(services, one, FUND, idempotency_key="once"))
    for server in (services, second):
        found = await refusal(server, factories.move(server, two, FUND, idempotency_key="once"), owner)
        assert found.code is ErrorCode.IDEMPOTENCY_CONFLICT


async def test_two_processes_that_use_one_key_for_two_positions_at_once_act_once(
    services: Services, second: Services, place: Place, ledger: Ledger
) -> None:
    for number in range(5):
        one, two = [await factories.position(services, place.asset) for _ in range(2)]
        before = len(await ledger())
        key = f"once {number}"
        results = await asyncio.gather(
            services.writer.submit(factories.move(services, one, FUND, idempotency_key=key)),
            second.writer.submit(factories.move(second, two, FUND, idempotency_key=key)),
            return_exceptions=True,
        )
        (lost,) = (result for result in results if isinstance(result, Refusal))
        assert lost.code is ErrorCode.IDEMPOTENCY_CONFLICT
        assert len(await ledger()) == before + 1


async def test_a_refusal_consumes_no_key(services: Services, place: Place, owner: asyncpg.Connection) -> None:
    position = await factories.position(services, place.asset)
    early = factories.move(services, position, release("40.00"), idempotency_key="mine")
    for _ in range(2):
        assert (await refusal(services, early, owner)).code is ErrorCode.TRANSITION_NOT_ALLOWED
    await services.writer.submit(factories.move(services, position, FUND))
    answer = await services.writer.submit(early)
    assert not answer.replayed
    assert answer.row.position.state is State.PARTIALLY_RELEASED
    assert (await services.writer.submit(early)).replayed


async def test_a_key_belongs_to_the_institution_that_asks(
    services: Services, place: Place, elsewhere: Place, ledger: Ledger
) -> None:
    for where in (place, elsewhere):
        answer = await services.writer.submit(
            await factories.opening(services, where.asset, idempotency_key="once")
        )
        assert not answer.replayed
    as_root = await factories.opening(services, place.asset, by=root(), idempotency_key="once")
    assert not (await services.writer.submit(as_root)).replayed
    assert len(await ledger()) == 3


async def test_a_key_is_shared_by_all_keys_of_an_institution(services: Services, place: Place) -> None:
    first = await services.writer.submit(
        await factories.opening(services, place.asset, idempotency_key="once")
    )
    operator = factories.principal(place.institution.id, Role.OPERATOR)
    again = await services.writer.submit(
        await factories.opening(services, place.asset, by=operator, idempotency_key="once")
    )
    assert again.replayed
    assert again.event.actor == first.event.actor


async def test_root_counts_as_one_asker_across_all_institutions(
    services: Services, second: Services, place: Place, elsewhere: Place, owner: asyncpg.Connection
) -> None:
    """Its key is taken although the position it moved lies outside of the batch's scope."""
    await services.writer.submit(
        await factories.opening(services, place.asset, by=root(), idempotency_key="once", reason="r")
    )
    for server in (services, second):
        other = await factories.opening(server, elsewhere.asset, by=root(), idempotency_key="once")
        assert (await refusal(server, other, owner)).code is ErrorCode.IDEMPOTENCY_CONFLICT


async def test_a_conflict_of_roots_key_takes_no_neighbour_down(
    services: Services, place: Place, elsewhere: Place, gathered: Gathering
) -> None:
    await services.writer.submit(
        await factories.opening(services, elsewhere.asset, by=root(), idempotency_key="once")
    )
    position = await factories.position(services, place.asset)
    commands: list[Command] = [
        factories.move(services, position, FUND, by=root(), idempotency_key="once"),
        await factories.opening(services, place.asset),
    ]
    async with gathered(commands) as tasks:
        pass
    conflict, neighbour = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(conflict, Refusal)
    assert conflict.code is ErrorCode.IDEMPOTENCY_CONFLICT
    assert isinstance(neighbour, Answer)


@pytest.mark.parametrize("length", [1, 255])
async def test_a_key_has_up_to_255_characters(services: Services, place: Place, length: int) -> None:
    key = "é" * length
    answer = await services.writer.submit(await factories.opening(services, place.asset, idempotency_key=key))
    assert answer.event.key.value == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00b", "\ud800"])
async def test_a_key_that_cannot_be_kept_is_refused(services: Services, place: Place, key: str) -> None:
    with pytest.raises(Refusal) as refused:
        await factories.opening(services, place.asset, idempotency_key=key)
    assert (refused.value.code, refused.value.field) == (ErrorCode.VALIDATION_FAILED, "idempotencyKey")


async def test_without_a_key_each_command_is_its_own(services: Services, place: Place) -> None:
    answers = [await services.writer.submit(await factories.opening(services, place.asset)) for _ in range(2)]
    assert len({answer.event.key.value for answer in answers}) == 2
    assert all(answer.event.key.value.startswith("auto_") for answer in answers)
