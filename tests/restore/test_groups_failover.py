"""Live groups: who had read what is lost is told, also when the new history has outgrown the lost one."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson

from app import schema
from app.context import Context, Request
from app.http.exchange import Exchange
from app.http.groups import Groups
from app.http.library import Library
from app.http.operation import Asked
from app.http.running import Runner
from app.principal import root
from tests.conftest import eventually
from tests.restore.conftest import Site
from tests.restore.test_failover import KEPT, LOST, failing
from tests.restore.test_point_in_time import write

EVENTS = "subscription { ledgerEvents { cursor node { globalSequence hash } } }"


async def test_a_member_of_a_live_group_is_told_of_a_history_that_outgrew_its_own(site: Site, serve) -> None:
    got: list[Any] = []

    @asynccontextmanager
    async def subscribed(address):
        async with serve(address) as parts:
            services, nothing = parts.services, cast("Any", None)
            library = Library(None, services.settings.trusted_documents)
            built = schema.build(services.settings)
            runner = Runner(services, built, nothing, nothing, nothing, Groups(), nothing, nothing, library)
            context = Context(services, root(), Request("req_1"))

            async def read() -> None:
                follow = runner.groups.follow(runner, context, Asked(EVENTS, None), Exchange("r"))
                async for told in follow:
                    got.append(orjson.loads(told.body))

            task = asyncio.create_task(read())

            async def joined() -> bool:
                return sum(group.members for group in runner.groups._groups.values()) == 1

            await eventually(joined)
            try:
                yield parts
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await context.close()

    async with failing(site, subscribed) as failover:

        async def all_told() -> bool:
            return len(got) == KEPT + LOST

        await eventually(all_told)
        async with serve(failover.standby.address) as other:
            made = await write(other.services, failover.place, 4)
            assert len(made) > LOST
            failover.happens()

            async def level() -> bool:
                return failover.parts.services.tail.epochs.current == 2

            await eventually(level, seconds=20)
            more = await write(other.services, failover.place, 1)
            await asyncio.sleep(2)
    assert len(more) == 3
    told = got[KEPT + LOST :]
    assert [error["extensions"]["code"] for error in told[0].get("errors", ())] == ["CURSOR_INVALID"]
    assert len(told) == 1
