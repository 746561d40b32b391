"""Takes what is to be submitted to the chain, step by step, and never believes more than the chain shows."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from app.anchoring import outbox, records
from app.anchoring.chain import Chain, NonceTaken, Refused
from app.anchoring.keys import Signer
from app.anchoring.model import (
    ON_CHAIN,
    REVERTS_MAX,
    UNDER_WAY,
    Anchor,
    Fees,
    Head,
    Mode,
    Receipt,
    State,
    Target,
    Transaction,
    confirmations,
    fees,
)
from app.kit.clock import Clock
from app.ledger.leases import Lease
from app.settings import Settings
from app.storage.database import Database, DatabaseRole

log = logging.getLogger("escrowgrid.anchoring")

WEI_IN_GWEI = Decimal(10**9)


@dataclass(frozen=True, slots=True)
class View:
    """The chain in one round."""

    lease: Lease
    latest: int
    head: Head
    log_id: bytes


class Submitter:
    """Settles every open anchor of one target, in order."""

    def __init__(
        self,
        database: Database,
        chain: Chain,
        signer: Signer,
        target: Target,
        settings: Settings,
        clock: Clock,
        tell: Callable[[], None],
    ) -> None:
        self._database = database
        self._chain = chain
        self._signer = signer
        self._target = target
        self._settings = settings
        self._clock = clock
        self._tell = tell

    async def settle(self, view: View) -> Sequence[Anchor]:
        """One step for each open anchor; returns how they are now. Raises `ChainDown`."""
        settled: list[Anchor] = []
        ready = True
        for anchor in await self._open(view):
            if anchor.state is State.FAILED:
                settled.append(anchor)
                break
            now = await self._step(view, anchor, ready=ready)
            settled.append(now)
            ready = ready and (now.state in ON_CHAIN or now.state is State.SUPERSEDED)
        return settled

    async def _open(self, view: View) -> Sequence[Anchor]:
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            found = await outbox.open_anchors(driver, self._target)
            head = view.head
            lost = await outbox.beyond(driver, self._target, view.log_id, head.size, head.recorded)
        # Nothing is beyond doubt: a head that became smaller says that final blocks went, too.
        return sorted((*lost, *found), key=lambda anchor: anchor.number)

    async def _step(self, view: View, anchor: Anchor, *, ready: bool) -> Anchor:
        tries = await self._transactions(anchor)
        if anchor.state is State.PENDING:
            return await self._begin(view, anchor, tries) if ready else anchor
        alive = [one for one in tries if not one.dead]
        # The nonce is asked for first: what is mined in between has a receipt.
        mined = await self._chain.nonce(self._target.account, pending=False)
        receipt = await self._receipt(anchor, tries)
        if receipt is not None:
            return await self._mined(view, anchor, receipt)
        if anchor.state in ON_CHAIN:
            log.warning("anchor %s is no longer on the chain: it was reorganised", anchor.id)
            anchor = await self._change(
                view,
                anchor,
                state=State.REORGED,
                reorgs=anchor.reorgs + 1,
                block_number=None,
                block_hash=None,
                final_at=None,
                failure="its block was dropped by the chain",
            )
        if anchor.state in UNDER_WAY:
            return await self._push(view, anchor, alive, mined)
        return anchor

    async def _receipt(self, anchor: Anchor, tries: Sequence[Transaction]) -> Receipt | None:
        """Of whichever try was mined: the one known first, then the others, dead ones too."""
        hashes = sorted((one.hash for one in tries), key=lambda one: one != anchor.tx_hash)
        failed: Receipt | None = None
        for tx_hash in hashes:
            found = await self._chain.receipt(tx_hash)
            if found is not None and found.succeeded:
                return found
            if found is not None and any(one.hash == tx_hash and not one.dead for one in tries):
                failed = failed or found
        return failed

    async def _mined(self, view: View, anchor: Anchor, receipt: Receipt) -> Anchor:
        if not receipt.succeeded:
            return await self._reverted(view, anchor, receipt)
        deep = confirmations(receipt.block_number, view.latest) >= self._settings.chain_confirmations
        state = State.FINAL if deep else State.MINED
        known = anchor.block_hash == receipt.block_hash
        if known and anchor.state in (state, State.FINAL):
            return anchor
        return await self._change(
            view,
            anchor,
            state=state,
            tx_hash=receipt.tx_hash,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
            gas_used=receipt.gas_used,
            failure=None,
            final_at=(anchor.final_at or self._clock()) if deep else None,
        )

    async def _reverted(self, view: View, anchor: Anchor, receipt: Receipt) -> Anchor:
        """The contract did not take it: sign anew, unless it does so every time."""
        # Not its fault where what comes before it had gone with a reorganisation.
        counts = anchor.is_next(view.head)
        reverts = anchor.reverts + counts
        state = State.FAILED if reverts >= REVERTS_MAX else State.PENDING
        log.error("anchor %s was reverted in block %d", anchor.id, receipt.block_number)
        return await self._change(
            view,
            anchor,
            bury=[receipt.tx_hash],
            state=state,
            reverts=reverts,
            tx_hash=None,
            block_number=None,
            block_hash=None,
            final_at=None,
            failure=f"its transaction was reverted in block {receipt.block_number}",
        )

    async def _push(self, view: View, anchor: Anchor, alive: Sequence[Transaction], mined: int) -> Anchor:
        """Not mined: send again what got lost, pay more for what waits too long, sign anew what never can be."""
        if not alive:
            return await self._change(view, anchor, state=State.PENDING, tx_hash=None)
        newest = alive[0]
        if mined > newest.nonce:
            return await self._change(
                view,
                anchor,
                bury=[one.hash for one in alive],
                state=State.PENDING,
                tx_hash=None,
                failure=f"another transaction of the account took nonce {newest.nonce}",
            )
        now = self._clock()
        if now - newest.signed_at >= timedelta(seconds=self._settings.chain_bump_seconds):
            return await self._replace(view, anchor, newest)
        resend = timedelta(seconds=self._settings.chain_resend_seconds)
        due = newest.sent_at is None or anchor.state is not State.BROADCAST or now - newest.sent_at >= resend
        if due and (newest.sent_at is None or not await self._chain.knows(newest.hash)):
            return await self._send(view, anchor, newest)
        if anchor.state is not State.BROADCAST and newest.sent_at is not None:
            return await self._change(view, anchor, state=State.BROADCAST, tx_hash=newest.hash)
        return anchor

    async def _begin(self, view: View, anchor: Anchor, tries: Sequence[Transaction]) -> Anchor:
        """Sign the first transaction, or another one after those that came to nothing."""
        receipt = await self._receipt(anchor, tries)
        if receipt is not None and receipt.succeeded:
            return await self._mined(view, anchor, receipt)
        head = view.head if anchor.log_id == view.log_id else await self._chain.head(anchor.log_id)
        if anchor.log_id != view.log_id or not anchor.is_next(head):
            # What it was to cover is covered by the next one.
            return await self._supersede(view, anchor, again=not anchor.is_in(head))
        try:
            call = await self._call(anchor)
            gas = await self._chain.estimate(self._target.account, call)
            base, tip = await self._chain.market()
            offered = fees(base, tip, self._settings.chain_fee_max_gwei * WEI_IN_GWEI)
            if offered is None:
                return await self._fail(view, anchor, _too_dear(base))
            nonce = await self._chain.nonce(self._target.account, pending=True)
            return await self._sign(view, anchor, call, nonce, gas, offered)
        except Refused as refusal:
            return await self._fail(view, anchor, str(refusal))

    async def _replace(self, view: View, anchor: Anchor, before: Transaction) -> Anchor:
        base, tip = await self._chain.market()
        most = self._settings.chain_fee_max_gwei * WEI_IN_GWEI
        offered = fees(base, tip, most, Fees(before.fee_max, before.tip_max))
        if offered is None:
            if not await self._chain.knows(before.hash):
                return await self._send(view, anchor, before)
            return await self._fail(view, anchor, _too_dear(base))
        try:
            call = await self._call(anchor)
            gas = await self._chain.estimate(self._target.account, call)
            return await self._sign(view, anchor, call, before.nonce, gas, offered)
        except Refused as refusal:
            return await self._fail(view, anchor, str(refusal))

    async def _call(self, anchor: Anchor) -> bytes:
        if anchor.mode is not Mode.RECORD:
            return self._chain.call(anchor)
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            return self._chain.call(anchor, await records.entries(driver, anchor.id))

    async def _sign(
        self, view: View, anchor: Anchor, call: bytes, nonce: int, gas: int, offered: Fees
    ) -> Anchor:
        unsigned: Any = self._chain.transaction(self._target.chain_id, nonce, call, gas, offered)
        raw, tx_hash = await self._signer.sign(unsigned)
        made = Transaction(
            hash=tx_hash,
            anchor_id=anchor.id,
            account=self._target.account,
            nonce=nonce,
            raw=raw,
            fee_max=offered.most,
            tip_max=offered.tip,
            signed_at=self._clock(),
            sent_at=None,
            dead=False,
        )
        signed = await self._change(
            view, anchor, adding=made, state=State.SIGNED, tx_hash=tx_hash, failure=None
        )
        return await self._send(view, signed, made)

    async def _send(self, view: View, anchor: Anchor, one: Transaction) -> Anchor:
        """Whatever the node says to it: what became of it is found out from the chain."""
        try:
            await self._chain.send(one)
        except NonceTaken:
            return await self._fail(view, anchor, f"the node holds nonce {one.nonce} to be used already")
        except Refused as refusal:
            return await self._fail(view, anchor, str(refusal))
        return await self._change(
            view, anchor, sent=one, state=State.BROADCAST, tx_hash=one.hash, failure=None
        )

    async def _supersede(self, view: View, anchor: Anchor, *, again: bool) -> Anchor:
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

    async def _fail(self, view: View, anchor: Anchor, reason: str) -> Anchor:
        """It stays where it is, and says why; it is tried again in the next round."""
        if anchor.failure == reason:
            return anchor
        log.warning("anchor %s waits: %s", anchor.id, reason)
        return await self._change(view, anchor, failure=reason)

    async def _change(
        self,
        view: View,
        anchor: Anchor,
        *,
        adding: Transaction | None = None,
        sent: Transaction | None = None,
        bury: Sequence[bytes] = (),
        **changes: Any,
    ) -> Anchor:
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

    async def _transactions(self, anchor: Anchor) -> list[Transaction]:
        async with self._database.pool(DatabaseRole.FEED).acquire() as driver:
            return await outbox.transactions(driver, anchor.id)


def _too_dear(base: Decimal) -> str:
    return f"gas costs {base / WEI_IN_GWEI:.1f} gwei, more than CHAIN_FEE_MAX_GWEI allows: waiting"
