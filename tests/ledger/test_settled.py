"""A moment is answered once all that was recorded by then can be seen, and never before."""

import asyncio

import asyncpg
import pytest

from app.errors import Unavailable
from app.ledger import settled
from app.main import Parts
from app.positions.model import State
from tests import factories

HEAD = "SELECT recorded_at FROM ledger_head"


async def test_the_moment_of_the_last_event_is_not_settled_while_another_may_come_at_it(
    parts: Parts, owner: asyncpg.Connection
) -> None:
    """After a clock was set back, events go on at the head's time until it has caught up."""
    place = await factories.place(parts.services)
    await factories.position(parts.services, place.asset, state=State.FUNDED)
    moment, database = await owner.fetchval(HEAD), parts.services.database
    await settled.require(database, place.institution.id, 2, moment)
    async with owner.transaction():
        await owner.execute("SELECT FROM ledger_head FOR UPDATE")
        with pytest.raises(Unavailable, match="ask again"):
            await settled.require(database, place.institution.id, 2, moment)
    await asyncio.wait_for(settled.require(database, place.institution.id, 2, moment), timeout=1)
