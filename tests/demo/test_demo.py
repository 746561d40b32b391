"""The demo: a small world of its own, whole after every start, that leaves what people made alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from app.context import Services
from app.demo.seeding import POSITIONS_PER_ASSET, seed
from app.demo.story import OPEN_MIN, Story
from app.demo.world import WORLD
from app.positions import reads
from app.positions.lifecycle import Intent
from app.positions.model import Position, State
from tests import factories
from tests.conftest import eventually

ASSETS = sum(len(template.assets) for demo in WORLD for template in demo.templates)
POSITIONS = ASSETS * POSITIONS_PER_ASSET
STATES = "SELECT state, count(*) AS n FROM positions GROUP BY state"
OF = "SELECT * FROM positions WHERE institution_id = $1 ORDER BY id"
HURRY = (0.0, 0.01)


async def states(owner: asyncpg.Connection) -> Counter[str]:
    return Counter({row["state"]: row["n"] for row in await owner.fetch(STATES)})


async def count(owner: asyncpg.Connection, table: str) -> int:
    found: int = await owner.fetchval(f"SELECT count(*) FROM {table}")
    return found


@asynccontextmanager
async def playing(services: Services) -> AsyncIterator["asyncio.Task[None]"]:
    """The demo in a hurry, until the block ends."""
    task = asyncio.create_task(Story(pause=HURRY, again=(0.01, 0.05)).play(services))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_moved(owner: asyncpg.Connection, times: int) -> None:
    """Until so many events more are in the ledger."""
    enough = await count(owner, "ledger_events") + times

    async def moved() -> bool:
        return await count(owner, "ledger_events") >= enough

    await eventually(moved, seconds=30)


async def test_some_thirty_positions_are_seeded_in_all_states(
    services: Services, owner: asyncpg.Connection
) -> None:
    ground = await seed(services)
    found = await states(owner)
    assert set(found) == {state.value for state in State}
    assert found.total() == POSITIONS
    assert min(found.values()) >= 2
    assert len(ground.institution_ids) == await count(owner, "institutions") == len(WORLD)


async def test_seeding_again_writes_nothing_and_finds_the_same_ground(
    services: Services, owner: asyncpg.Connection
) -> None:
    ground = await seed(services)
    before = await factories.footprint(owner)
    assert await seed(services) == ground
    assert await factories.footprint(owner) == before


@pytest.mark.parametrize("events", [0, 1, 17])
async def test_a_seeding_that_was_cut_short_is_completed_at_the_next_start(
    services: Services, owner: asyncpg.Connection, events: int
) -> None:
    task = asyncio.create_task(seed(services))

    async def begun() -> bool:
        return await count(owner, "ledger_events") >= events and await count(owner, "institutions") > 0

    await eventually(begun)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await count(owner, "positions") < POSITIONS, "it was not cut short"
    await seed(services)
    assert await count(owner, "institutions") == len(WORLD)
    assert (await states(owner)).total() == POSITIONS
    assert set(await states(owner)) == {state.value for state in State}


async def test_institutions_of_people_are_left_alone_also_when_they_were_there_first(
    services: Services, owner: asyncpg.Connection
) -> None:
    """Also one that has the name of the demo's, and positions that are named like the demo's."""
    places = [await factories.place(services, name=name) for name in ("Quayside Trust", WORLD[0].name)]
    for place in places:
        for number in range(3):
            await factories.position(
                services, place.asset, state=State.FUNDED, external_reference=f"DEMO-{number}"
            )
    before = [await owner.fetch(OF, place.institution.id) for place in places]
    async with playing(services):
        await until_moved(owner, 120)
    assert [await owner.fetch(OF, place.institution.id) for place in places] == before
    assert await count(owner, "institutions") == len(places) + len(WORLD)


async def test_positions_that_people_open_in_the_demos_institutions_are_theirs(
    services: Services, owner: asyncpg.Connection
) -> None:
    ground = await seed(services)
    own = [
        await factories.position(
            services,
            place.asset,
            "2000.00",
            state=State.FUNDED,
            expires_at=services.clock() + timedelta(days=30),
        )
        for place in ground.places
    ]
    async with playing(services):
        await until_moved(owner, 60)
    found = await owner.fetch("SELECT state, version FROM positions WHERE id = ANY($1)", [p.id for p in own])
    assert [tuple(row) for row in found] == [("FUNDED", 2)] * len(own)


async def test_when_few_positions_are_open_the_demo_opens_others(
    services: Services, owner: asyncpg.Connection
) -> None:
    ground = await seed(services)
    for position in await open_positions(services, owner):
        await services.writer.submit(factories.move(services, position, Intent(state=State.CANCELLED)))
    story = Story()
    for _ in range(OPEN_MIN):
        await story.move_one(services, ground)
    assert (await states(owner))["CREATED"] == OPEN_MIN
    await story.move_one(services, ground)
    assert await count(owner, "positions") == POSITIONS + OPEN_MIN


async def open_positions(services: Services, owner: asyncpg.Connection) -> list[Position]:
    ids = [row["id"] for row in await owner.fetch("SELECT id FROM positions WHERE closed_at IS NULL")]
    async with services.database.reading("*") as connection:
        return list((await reads.fetch_many(connection, "*", ids)).values())


async def test_the_demo_goes_on_when_its_connections_were_cut(
    services: Services, owner: asyncpg.Connection
) -> None:
    async with playing(services) as task:
        for _ in range(3):
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await until_moved(owner, 10)

        async def seeded() -> bool:
            return await count(owner, "positions") >= POSITIONS

        await eventually(seeded, seconds=30)
        await until_moved(owner, 10)
        assert not task.done()
