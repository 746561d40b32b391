"""An epoch that begins beside a running server, with nothing lost, makes no cursor of a stream invalid."""

import asyncio

from app.ledger import epochs
from app.main import assemble
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.database import Address
from tests import factories


async def test_what_was_told_just_after_an_epoch_began_stays_valid(
    settings: Settings, address: Address
) -> None:
    parts = assemble(settings.model_copy(update={"tick_seconds": 3.0}), address)
    async with parts.running():
        tail, services = parts.services.tail, parts.services
        place = await factories.place(services)
        await factories.position(services, place.asset)
        stream = tail.stream(ALL_INSTITUTIONS, 0)
        assert len(await anext(stream)) == 1
        await asyncio.sleep(0.2)
        await epochs.begin(address.direct_url, "as the message says")
        await factories.position(services, place.asset)
        event = (await asyncio.wait_for(anext(stream), 5))[-1]
        cursor = tail.epochs.cursor(ALL_INSTITUTIONS, event.global_sequence)
        async with tail._turn:
            await tail._read_epochs()
        assert tail.epochs.current == 2
        assert await tail.place(ALL_INSTITUTIONS, cursor) == 2
        await stream.aclose()
