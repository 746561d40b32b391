"""Lists that are accepted or refused as one."""

import asyncio

import asyncpg
import pytest

from app.context import Services
from app.errors import ErrorCode, Refusal
from app.ledger.writer import Answer
from app.positions.lifecycle import Intent
from app.positions.model import State
from app.principal import root
from tests import factories
from tests.factories import FUND, Place, release
from tests.ledger.conftest import HeadHeld, Ledger, taken
from tests.ledger.test_chain import check_chain

CANCEL = Intent(state=State.CANCELLED)


async def test_a_list_is_written_as_one_batch_in_its_order(
    services: Services, place: Place, ledger: Ledger
) -> None:
    positions = [await factories.position(services, place.asset) for _ in range(5)]
    answers = await services.writer.submit_all(
        [factories.move(services, position, FUND) for position in positions]
    )
    assert [answer.event.position_id for answer in answers] == [position.id for position in positions]
    assert [answer.event.sequence for answer in answers] == [6, 7, 8, 9, 10]
    assert len({answer.event.recorded_at for answer in answers}) == 1
    check_chain(await ledger(place.institution.id))


async def test_later_items_see_earlier_ones(services: Services, place: Place) -> None:
    position = await factories.position(services, place.asset)
    answers = await services.writer.submit_all(
        [
            factories.move(services, position, FUND, expected_version=1),
            factories.move(services, position, release("99.99"), expected_version=2),
            factories.move(services, position, CANCEL, expected_version=3),
        ]
    )
    assert [answer.row.position.version for answer in answers] == [2, 3, 4]
    assert [str(answer.row.position.balances.held) for answer in answers] == ["100.00", "0.01", "0.00"]


async def test_one_refused_item_refuses_all_and_is_named(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    positions = [await factories.position(services, place.asset) for _ in range(3)]
    before = await factories.footprint(owner)
    commands = [
        factories.move(services, positions[0], FUND),
        factories.move(services, positions[1], FUND),
        factories.move(services, positions[1], release("100.01")),
        factories.move(services, positions[2], FUND, expected_version=7),
    ]
    with pytest.raises(Refusal) as refused:
        await services.writer.submit_all(commands)
    assert (refused.value.code, refused.value.field) == (ErrorCode.INSUFFICIENT_HELD, "items.2.amount")
    assert await factories.footprint(owner) == before


async def test_a_refused_list_leaves_no_trace_in_what_its_neighbours_see(
    services: Services, place: Place, head_held: HeadHeld
) -> None:
    one, two = [await factories.position(services, place.asset) for _ in range(2)]
    doomed = [factories.move(services, one, FUND), factories.move(services, two, release("1.00"))]
    plug = await factories.opening(services, place.asset)
    async with head_held():
        first = asyncio.create_task(services.writer.submit(plug))
        await taken(services.writer)
        listed = asyncio.create_task(services.writer.submit_all(doomed))
        single = asyncio.create_task(
            services.writer.submit(factories.move(services, one, FUND, expected_version=1))
        )
        await asyncio.sleep(0)
    with pytest.raises(Refusal):
        await listed
    assert (await single).row.position.version == 2
    await first


async def test_a_refused_list_of_creations_frees_its_references(services: Services, place: Place) -> None:
    doomed = [
        await factories.opening(services, place.asset, external_reference=reference)
        for reference in ("A", "B", "A")
    ]
    with pytest.raises(Refusal) as refused:
        await services.writer.submit_all(doomed)
    assert (refused.value.code, refused.value.field) == (
        ErrorCode.DUPLICATE_REFERENCE,
        "items.2.externalReference",
    )
    await factories.position(services, place.asset, external_reference="A")


async def test_a_repeated_list_is_told_again_item_by_item(
    services: Services, second: Services, place: Place, ledger: Ledger
) -> None:
    positions = [await factories.position(services, place.asset) for _ in range(3)]
    commands = [
        factories.move(services, position, FUND, idempotency_key=f"item {number}")
        for number, position in enumerate(positions)
    ]
    first = await services.writer.submit_all(commands)
    await services.writer.submit(factories.move(services, positions[0], CANCEL))
    count = len(await ledger())
    for server in (services, second):
        again = await server.writer.submit_all(commands)
        assert [answer.replayed for answer in again] == [True] * 3
        assert [(a.event, a.row) for a in again] == [(a.event, a.row) for a in first]
    assert len(await ledger()) == count


async def test_twenty_equal_lists_at_once_act_once(
    services: Services, second: Services, place: Place, ledger: Ledger
) -> None:
    positions = [await factories.position(services, place.asset) for _ in range(3)]
    before = len(await ledger())

    async def send(server: Services) -> list[Answer]:
        commands = [
            factories.move(server, position, FUND, idempotency_key=f"item {number}")
            for number, position in enumerate(positions)
        ]
        return await server.writer.submit_all(commands)

    answers = await asyncio.gather(*(send(server) for server in [services, second] * 10))
    assert len(await ledger()) == before + 3
    assert all([a.event for a in some] == [a.event for a in answers[0]] for some in answers)
    assert sum(not some[0].replayed for some in answers) == 1


async def test_a_list_whose_keys_were_partly_used_is_a_conflict(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    one, two = [await factories.position(services, place.asset) for _ in range(2)]
    used = factories.move(services, one, FUND, idempotency_key="used")
    await services.writer.submit(used)
    before = await factories.footprint(owner)
    for commands in (
        [used, factories.move(services, two, FUND, idempotency_key="new")],
        [factories.move(services, two, FUND, idempotency_key="new"), used],
    ):
        with pytest.raises(Refusal, match="repeat the whole list") as refused:
            await services.writer.submit_all(commands)
        assert refused.value.code is ErrorCode.IDEMPOTENCY_CONFLICT
    assert await factories.footprint(owner) == before


async def test_a_list_with_one_key_twice_is_a_conflict(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    one, two = [await factories.position(services, place.asset) for _ in range(2)]
    before = await factories.footprint(owner)
    with pytest.raises(Refusal, match="the same idempotency key") as refused:
        await services.writer.submit_all(
            [factories.move(services, position, FUND, idempotency_key="same") for position in (one, two)]
        )
    assert refused.value.code is ErrorCode.IDEMPOTENCY_CONFLICT
    assert await factories.footprint(owner) == before


async def test_roots_list_may_span_institutions(
    services: Services, place: Place, elsewhere: Place, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    positions = [await factories.position(services, where.asset) for where in (elsewhere, place, elsewhere)]
    moves = [factories.move(services, position, FUND, by=root()) for position in positions]
    answers = await services.writer.submit_all(moves)
    assert [answer.event.institution_id for answer in answers] == [p.institution_id for p in positions]
    for where in (place, elsewhere):
        check_chain(await ledger(where.institution.id))
    before = await factories.footprint(owner)
    with pytest.raises(Refusal) as refused:
        await services.writer.submit_all(
            [
                factories.move(services, positions[0], CANCEL, by=root()),
                factories.move(services, positions[1], FUND, by=root()),
            ]
        )
    assert refused.value.field == "items.1"
    assert await factories.footprint(owner) == before
