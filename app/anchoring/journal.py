"""What is written of each step towards the chain, by whoever leads and nobody else."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from app.anchoring import outbox, records
from app.anchoring.model import Anchor, Head, State, Target, Transaction
from app.kit.clock import Clock
from app.ledger.leases import Lease
from app.storage.database import Database, DatabaseRole

log = logging.getLogger("escrowgrid.anchoring")


@dataclass(frozen=True, slots=True)
class View:
    """The chain in one round."""

    lease: Lease
    latest: int
    head: Head
    log_id: bytes


class Journal:
    """The anchors of one target and their transactions."""

    def __init__(self, database: Database, target: Target, clock: Clock, tell: Callable[[], None]) -> None:
        self._database = database
        self._target = target
        self._clock = clock
        self._tell = tell

    async def unsettled(self, view: View) -> Sequence[Anchor]:
        """Those that are open, and final ones that the contract no longer holds, in order."""
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            found = await outbox.open_anchors(driver, self._target)
            head = view.head
            lost = await outbox.beyond(driver, self._target, view.log_id, head.size, head.recorded)
        # Nothing is beyond doubt: a head that became smaller says that final blocks went, too.
        return sorted((*lost, *found), key=lambda anchor: anchor.number)

    async def tries(self, anchor: Anchor) -> list[Transaction]:
        """Every transaction of an anchor, the newest first."""
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            return await outbox.transactions(driver, anchor.id)

    async def change(
        self,
        view: View,
        anchor: Anchor,
        *,
        adding: Transaction | None = None,
        sent: Transaction | None = None,
        bury: Sequence[bytes] = (),
        **changes: Any,
    ) -> Anchor:
        """Write how far it has come, together with what became of its transactions, and have everybody know."""
        now: datetime = self._clock()
        changed = replace(anchor, **changes, changed_at=now)
        async with outbox.writing(self._database, view.lease) as driver:
            if adding is not None:
                await outbox.add_transaction(driver, adding)
            if sent is not None:
                await outbox.sent(driver, sent, now)
            if bury:
                await outbox.bury(driver, bury)
            await outbox.change(driver, changed)
        self._tell()
        return changed

    async def fail(self, view: View, anchor: Anchor, reason: str) -> Anchor:
        """It stays where it is, and says why; it is tried again in the next round."""
        if anchor.failure == reason:
            return anchor
        log.warning("anchor %s waits: %s", anchor.id, reason)
        return await self.change(view, anchor, failure=reason)

    async def supersede(self, view: View, anchor: Anchor, *, again: bool) -> Anchor:
        """Give it up, as it never will be mined; with `again` other calls record its events."""
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            institutions = await records.institutions(driver, anchor.id)
        changed = replace(
            anchor,
            state=State.SUPERSEDED,
            failure="the contract went on from elsewhere, or the ledger goes on as another log",
            changed_at=self._clock(),
        )
        async with outbox.writing(self._database, view.lease, institutions) as driver:
            await outbox.change(driver, changed)
            if again:
                await records.give_back(driver, anchor.id)
        self._tell()
        return changed
