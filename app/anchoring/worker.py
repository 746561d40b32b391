"""The follower of anchoring: grows the tree over the ledger, notes what is to be recorded, has both submitted."""

from collections.abc import Sequence

from app.anchoring import outbox, records, tree
from app.anchoring.records import Onchain
from app.anchoring.rounds import Rounds
from app.kit.clock import Clock
from app.ledger.followers import Follower, LeadLost
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.storage.database import Database, DatabaseRole

TEMPLATES_MAX = 10_000
# Of what an event waits to be anchored with others, so much until the tree grows over it; half a second at most. Pages
# taken every 50 ms cost the mutations beside them 10 % more of the CPU; of half a second, nothing that can be measured.
GATHER_SHARE = 0.1
GATHER_SECONDS_MAX = 0.5


class Anchoring(Follower):
    """Whatever the chain does, this takes the ledger's events; what is submitted waits in the database."""

    name = "anchoring"

    def __init__(
        self, database: Database, chain_id: int, batch_seconds: float, rounds: Rounds, clock: Clock
    ) -> None:
        self.gather_seconds = min(batch_seconds * GATHER_SHARE, GATHER_SECONDS_MAX)
        self._database = database
        self._chain_id = chain_id
        self._rounds = rounds
        self._clock = clock
        self._templates: dict[str, Onchain] = {}
        self._grown = False

    async def follow(self, events: Sequence[Event], lease: Lease) -> None:
        """Grow the tree up to the last of them, and note those that are to be recorded."""
        noted = await self._to_record(events)
        await self._grow(events[-1].global_sequence, lease)
        if noted:
            institutions = sorted({event.institution_id for event, _skipped in noted})
            async with outbox.writing(self._database, lease, institutions) as driver:
                await records.note(driver, noted, self._clock())
        self._rounds.lead(lease)

    async def idle(self, lease: Lease) -> None:
        """Go on submitting. A mirror that was promoted has the events, and no tree over them yet."""
        if not self._grown:
            async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
                until = (await outbox.ledger(driver)).size
            await self._grow(until, lease)
        self._rounds.lead(lease)

    async def stop(self) -> None:
        """Leave what is under way to whoever leads next."""
        await self._rounds.stop()

    async def close(self) -> None:
        """The same for a process that lost the lead."""
        await self._rounds.close()

    async def _grow(self, until: int, lease: Lease) -> None:
        pool = self._database.pool(DatabaseRole.FEED)
        async with pool.acquire() as driver:
            growing = await tree.read(driver)
        while growing.size < until:
            async with pool.acquire() as driver:
                hashes = await tree.hashes(driver, growing.size, until)
            growth = tree.grown(growing, hashes)
            async with outbox.writing(self._database, lease) as driver:
                if not await tree.keep(driver, growth):
                    raise LeadLost("the tree was grown by somebody else")
        self._grown = True

    async def _to_record(self, events: Sequence[Event]) -> list[tuple[Event, str | None]]:
        unknown = sorted({event.template_id for event in events} - set(self._templates))
        if unknown:
            async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
                found = await records.templates(driver, unknown)
            if len(self._templates) > TEMPLATES_MAX:
                self._templates.clear()
            self._templates.update(found)
        told = [(event, self._templates[event.template_id]) for event in events]
        return [
            (event, records.skip_reason(onchain, self._chain_id))
            for event, onchain in told
            if onchain.enabled
        ]
