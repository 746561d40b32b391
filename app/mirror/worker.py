"""The follower that keeps the mirror: events page by page, each with all it needs, and what changed beside them."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from app.ledger import leases, transfer
from app.ledger.followers import Follower, Halt, LeadLost
from app.ledger.keeper import Keeper
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.ledger.transfer import Unsound
from app.mirror import source
from app.mirror.beside import Beside
from app.mirror.model import LOST_HISTORY, NotACopy
from app.mirror.pages import Pages
from app.mirror.store import Broken, Copy
from app.personal.service import Holders
from app.positions.lifecycle import Lifecycle
from app.settings import Settings
from app.storage.database import Database, DatabaseRole
from app.storage.losses import CONNECTION_LOST

log = logging.getLogger("escrowgrid.mirror")

NAME = "mirror"
STOP_SECONDS_MAX = 15.0
PAUSE_SECONDS = 0.05


class Mirror(Follower):
    """Copies the ledger to a second database, of which it is the only writer until that one is promoted."""

    name = NAME

    def __init__(
        self,
        database: Database,
        url: str,
        settings: Settings,
        lifecycles: Mapping[tuple[str, int], Lifecycle],
        holders: Holders,
    ) -> None:
        self._database = database
        self._url = url
        self._settings = settings
        self._pages = Pages(database, lifecycles, holders)
        self._beside = Beside(database)
        self._copy: Copy | None = None
        self._lease: Lease | None = None
        self._renewed_at = 0.0

    async def follow(self, events: Sequence[Event], lease: Lease) -> None:
        """Bring the copy up to the last of these events; it is the copy itself that knows what it has already."""
        await self._bring(lease, events)

    async def idle(self, lease: Lease) -> None:
        """Bring the copy level, also with what changed beside the ledger."""
        await self._bring(lease, None)

    async def stop(self) -> None:
        """Leave the copy as complete as it can be: the last server to stop copies the very end."""
        try:
            if self._lease is not None:
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await self._bring(self._lease, None)
        except (Halt, LeadLost, TimeoutError, *CONNECTION_LOST) as error:
            log.warning("the mirror is left behind: %s", error or type(error).__name__)
        await self.leave()

    async def leave(self) -> None:
        """Let go of the mirror's database."""
        copy, self._copy = self._copy, None
        if copy is not None:
            await copy.close()

    async def level(self, lease: Lease) -> Copy:
        """Copy until nothing is left to copy; returns the copy."""
        while True:
            copy = await self._bring(lease, None)
            if self._beside.is_done:
                return copy
            await asyncio.sleep(PAUSE_SECONDS)

    async def was_promoted(self) -> bool:
        """Whether its database goes on with the ledger by itself; not, where it cannot be reached."""
        try:
            return await self.kept_by() is Keeper.SERVERS
        except Broken:
            return False

    async def kept_by(self) -> Keeper | None:
        """Who keeps its database, where that has this very ledger; None where it has another. Raises `Broken`."""
        copy = await Copy.open(self._url)
        try:
            await copy.look()
            async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
                log_id = await driver.fetchval(source.LOG_ID)
        finally:
            await copy.close()
        return copy.keeper if copy.log_id == log_id else None

    async def _bring(self, lease: Lease, events: Sequence[Event] | None) -> Copy:
        """Up to the last of `events`, or to the end of the ledger; `Halt` where the two do not fit together."""
        try:
            copy = await self._ready(lease)
            while True:
                page = await self._next(copy, events)
                if not page:
                    break
                await self._pages.copy(copy, page, lease.token)
                await self._renew(lease)
                await copy.ring()
            await self._beside.copy(copy, lease.token)
            await copy.ring()
        except (Broken, NotACopy, Unsound) as error:
            await self.leave()
            raise Halt(str(error)) from None
        except BaseException:
            await self.leave()
            raise
        return copy

    async def _next(self, copy: Copy, events: Sequence[Event] | None) -> Sequence[Event]:
        """What comes behind the copy's head: of those given where they reach back that far, else read."""
        if events is not None:
            fresh = [event for event in events if event.global_sequence > copy.head]
            if not fresh or fresh[0].global_sequence == copy.head + 1:
                return fresh
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            return await transfer.read(driver, copy.head, self._settings.tail_page_size)

    async def _ready(self, lease: Lease) -> Copy:
        """The connected copy of this very ledger, looked at anew by each new leader."""
        if self._copy is not None and not self._copy.is_closed and self._lease == lease:
            await self._compare(self._copy)
            return self._copy
        await self.leave()
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            log_id, revision = await driver.fetchval(source.LOG_ID), await driver.fetchval(source.REVISION)
            registration = await driver.fetchval(source.REGISTRATION)
        if registration is None:
            raise NotACopy(
                "no mirror is registered, or it was given up, and nobody noted what changed: start a server with "
                "MIRROR_URL, and stop it when `escrowgrid mirror status` says so"
            )
        copy = self._copy = await Copy.open(self._url)
        self._lease = lease
        found = await copy.revision()
        if found != revision:
            raise NotACopy(
                f"the schema of the mirror's database is at {found}, the ledger's at {revision}: "
                "run `escrowgrid migrate` on both"
            )
        await copy.look()
        if copy.log_id != log_id:
            await copy.become(log_id, registration, lease.token)
        if copy.keeper is not Keeper.MIRROR:
            raise NotACopy(
                "MIRROR_URL names the ledger itself, or a mirror that was promoted; give it an empty one"
            )
        if copy.token > lease.token:
            await self._outgrow(lease, copy.token)
        await self._compare(copy)
        if copy.registration != registration:
            log.warning(
                "the mirror was given up and taken again: everything beside the events is copied anew"
            )
            self._beside.begin_anew()
            await copy.begin_anew(registration, lease.token)
        return copy

    async def _outgrow(self, lease: Lease, token: int) -> None:
        """A restore took the ledger's leases back behind the copy, which would refuse this leader for ever."""
        if not await leases.outgrow(self._database, lease, token):
            raise LeadLost("another process leads now")
        raise LeadLost(
            f"the mirror was written to under token {token}, the lease has {lease.token}, as after a restore of the "
            "ledger: a later one is taken, and the next try goes on"
        )

    async def _compare(self, copy: Copy) -> None:
        """The end of the copy is an event of the ledger as it is now."""
        if copy.head == 0:
            return
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            found = await transfer.hashes(driver, [copy.head])
        if found.get(copy.head) != copy.hash:
            raise NotACopy(f"event {copy.head} of the mirror is not the ledger's: {LOST_HISTORY}")

    async def _renew(self, lease: Lease) -> None:
        """Long copying must not cost the lead."""
        now = asyncio.get_running_loop().time()
        if now - self._renewed_at < self._settings.lease_seconds / 3:
            return
        if not await leases.renew(self._database, lease, self._settings.lease_seconds):
            raise LeadLost("another process leads now")
        self._renewed_at = now
