"""One look at the chain after the other: which log the ledger is, what is settled, what is to be submitted next."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from app.anchoring import outbox, records, tree
from app.anchoring.chain import Chain, ChainDown, Refused
from app.anchoring.journal import View
from app.anchoring.keys import Signer
from app.anchoring.model import (
    CLOSED,
    ON_CHAIN,
    Anchor,
    Due,
    Head,
    Mode,
    Restore,
    Standing,
    State,
    Target,
    judge,
)
from app.anchoring.outbox import Ledger, Look
from app.anchoring.submitter import Submitter
from app.kit.clock import Clock
from app.kit.ids import Ids
from app.kit.tasks import begin, end
from app.ledger.followers import LeadLost
from app.ledger.leases import Lease
from app.settings import Settings
from app.storage.database import Database, DatabaseRole
from app.storage.losses import CONNECTION_LOST

log = logging.getLogger("escrowgrid.anchoring")

PAUSE_SECONDS_MAX = 30.0
REWRITTEN = (
    "the ledger is not what was anchored, and no restore explains it: run `escrowgrid verify`; after a restore that "
    "was not noticed, `escrowgrid restore-finished`"
)
UNKNOWN_RECORDS = "the contract holds {there} recorded events of this log, and this database knows of {here}"


class Amiss(Exception):
    """Nothing is submitted until somebody mends what the message says."""


class Rounds:
    """While a lease is held, the chain is looked at every so often; nothing that it does reaches the ledger."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        signer: Signer,
        settings: Settings,
        clock: Clock,
        ids: Ids,
        tell: Callable[[], None],
    ) -> None:
        assert settings.chain_id is not None, "the settings are whole"
        assert settings.chain_contract is not None, "the settings are whole"
        self._database = database
        self._chain = chain
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._target = Target(settings.chain_id, settings.chain_contract, signer.address)
        self._submitter = Submitter(database, chain, signer, self._target, settings, clock, tell)
        self._tell = tell
        self._due = Due(settings.chain_batch_events, timedelta(seconds=settings.chain_batch_seconds))
        self._met = False
        # The ledger's present log, once it is known.
        self._log_id: bytes | None = None
        # Why events are not recorded at the moment; heads are anchored all the same.
        self._unrecorded: str | None = None
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None

    def lead(self, lease: Lease) -> None:
        """Go on with this lease; a round that is under way with an older one cannot write any more."""
        if lease != self._lease or self._task is None or self._task.done():
            if self._task is not None:
                self._task.cancel()
            self._lease = lease
            self._task = begin(self._work(lease), "anchoring", over=lambda: True)

    async def stop(self) -> None:
        """What is under way is found again by whoever leads next."""
        task, self._task, self._lease = self._task, None, None
        await end(task)

    async def close(self) -> None:
        """Stop, and close the connection."""
        await self.stop()
        await self._chain.close()

    async def _work(self, lease: Lease) -> None:
        pause = self._settings.chain_poll_seconds
        while True:
            try:
                failure = await self._round(lease)
                pause = (
                    self._settings.chain_poll_seconds
                    if failure is None
                    else min(pause * 2, PAUSE_SECONDS_MAX)
                )
            except LeadLost:
                return
            except CONNECTION_LOST as error:
                log.warning("anchoring lost its database: %s", type(error).__name__)
            except Exception:
                # The edge of this task: it goes on for as long as it leads.
                log.exception("a round of anchoring failed; it tries again")
            await asyncio.sleep(pause)

    async def _round(self, lease: Lease) -> str | None:
        """Look, settle, submit; returns what kept it from that."""
        look = Look(None, is_low=False, block_number=None, failure=None)
        try:
            latest = await self._look()
            balance = await self._chain.balance(self._target.account)
            low = balance < self._settings.chain_balance_min
            if low:
                log.warning("account %s has %s left", self._target.account, balance)
            look = Look(balance, is_low=low, block_number=latest, failure=None)
            await self._note(lease, look)
            await self._advance(lease, latest)
            look = replace(look, failure=self._unrecorded)
        except ChainDown as error:
            self._met = False
            look = Look(look.balance, look.is_low, look.block_number, str(error))
        except (Amiss, Refused) as error:
            look = Look(look.balance, look.is_low, look.block_number, str(error))
        if look.failure is not None:
            log.warning("anchoring: %s", look.failure)
            await self._note(lease, look)
        return look.failure

    async def _note(self, lease: Lease, look: Look) -> None:
        async with outbox.writing(self._database, lease) as driver:
            await outbox.note_chain(driver, self._target, look, self._clock())

    async def _look(self) -> int:
        """The newest block, of the right chain with the contract on it."""
        if not self._met:
            found = await self._chain.chain_id()
            if found != self._target.chain_id:
                raise Amiss(f"the node is on chain {found}, and CHAIN_ID is {self._target.chain_id}")
            if not await self._chain.has_code():
                raise Amiss(f"there is no contract at {self._target.contract} on chain {found}")
            self._met = True
        return await self._chain.latest()

    async def _advance(self, lease: Lease, latest: int) -> None:
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            ledger, grown = await outbox.ledger(driver), (await tree.read(driver)).size
        began, head = await self._log(ledger)
        restore = await self._judge(ledger, grown, began, head)
        if restore is not None:
            await self._begin_log(lease, ledger, began, restore)
            began, head = ledger.epoch, await self._chain.head(ledger.logs()[ledger.epoch])
            self._log_id = ledger.logs()[began]
        view = View(lease, latest, head, ledger.logs()[began])
        anchors = await self._submitter.settle(view)
        if all(anchor.state in ON_CHAIN or anchor.state in CLOSED for anchor in anchors):
            # Read again: what was mined meanwhile is what comes next goes on from.
            view = replace(view, head=await self._chain.head(view.log_id))
            if await self._cut(view, began, grown, anchors):
                await self._submitter.settle(view)

    async def _log(self, ledger: Ledger) -> tuple[int, Head]:
        """The epoch in which the ledger's log began, the newest one that is on the chain, and its head there."""
        logs = ledger.logs()
        present = [epoch for epoch, name in logs.items() if name == self._log_id]
        for epoch in present or sorted(logs, reverse=True):
            head = await self._chain.head(logs[epoch])
            if present or head != Head():
                self._log_id = logs[epoch]
                return epoch, head
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            open_ones = await outbox.open_anchors(driver, self._target)
        known = [one.epoch for one in open_ones if one.log_id == logs.get(one.epoch)]
        return max(known, default=ledger.epoch), Head()

    async def _judge(self, ledger: Ledger, grown: int, began: int, head: Head) -> Restore | None:
        """The restore after which the ledger has to go on as another log, if there was one."""
        root_then = None
        if 0 < head.size <= grown:
            async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
                root_then = await tree.root_at(driver, head.size)
        standing, restore = judge(head, began, ledger.size, root_then, ledger.restores)
        match standing:
            case Standing.REWRITTEN:
                raise Amiss(REWRITTEN)
            case Standing.BEHIND:
                raise Amiss("the tree has still to be grown to what is anchored")
            case Standing.SAME | Standing.RESTORED:
                return restore

    async def _begin_log(self, lease: Lease, ledger: Ledger, began: int, restore: Restore) -> None:
        follows, mine = ledger.logs()[began], ledger.logs()[ledger.epoch]
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            open_ones = await outbox.open_anchors(driver, self._target)
        if any(one.mode is Mode.BEGIN and one.log_id == mine for one in open_ones):
            return
        log.warning("the ledger was restored: it goes on as the log of epoch %d", ledger.epoch)
        made = self._new(Mode.BEGIN, mine, ledger.epoch)
        await self._add(lease, made | {"follows": follows, "since": restore.since})

    async def _cut(self, view: View, began: int, grown: int, under_way: Sequence[Anchor]) -> bool:
        """Make the next calls: recorded events first, then a head, when enough wait for long enough."""
        if any(one.mode is Mode.BEGIN and one.state not in ON_CHAIN for one in under_way):
            return False
        return await self._cut_records(view, began) | await self._cut_head(view, began, grown)

    async def _cut_head(self, view: View, began: int, grown: int) -> bool:
        head = view.head
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            if not self._due.is_due(grown - head.size, await outbox.oldest(driver, head.size), self._clock()):
                return False
            root = await tree.root_at(driver, grown)
        made = self._new(Mode.ANCHOR, view.log_id, began)
        spans = {"previous_size": head.size, "previous_root": head.root, "size": grown, "root": root}
        await self._add(view.lease, made | spans)
        return True

    async def _cut_records(self, view: View, began: int) -> bool:
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            waiting = await records.waiting(driver)
            known = await outbox.recorded(driver, self._target, view.log_id)
        if not waiting:
            return False
        # A database that knows of none has lost them, as a mirror of an older version: it goes on.
        if known not in (0, view.head.recorded):
            self._unrecorded = UNKNOWN_RECORDS.format(there=view.head.recorded, here=known)
            return False
        known, self._unrecorded = view.head.recorded, None
        made = self._new(Mode.RECORD, view.log_id, began) | {"first": known + 1, "count": len(waiting)}
        institutions = sorted({one.institution_id for one in waiting})
        async with outbox.writing(self._database, view.lease, institutions) as driver:
            anchor = Anchor(**made | {"number": await outbox.next_number(driver)})
            await outbox.add(driver, anchor)
            await records.take(driver, anchor.id, known + 1, waiting)
        self._tell()
        return True

    def _new(self, mode: Mode, of_log: bytes, began: int) -> dict[str, Any]:
        now = self._clock()
        return dict.fromkeys(outbox.FIELDS) | {
            "id": self._ids.new("anc"),
            "mode": mode,
            "state": State.PENDING,
            "chain_id": self._target.chain_id,
            "contract": self._target.contract,
            "log_id": of_log,
            "epoch": began,
            "reverts": 0,
            "reorgs": 0,
            "created_at": now,
            "changed_at": now,
        }

    async def _add(self, lease: Lease, made: dict[str, Any]) -> None:
        async with outbox.writing(self._database, lease) as driver:
            await outbox.add(driver, Anchor(**made | {"number": await outbox.next_number(driver)}))
        self._tell()
