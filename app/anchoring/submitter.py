"""Takes what is to be submitted to the chain, step by step, and never believes more than the chain shows."""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from app.anchoring import records
from app.anchoring.chain import Chain, NonceTaken, Refused
from app.anchoring.journal import Journal, View
from app.anchoring.keys import Signer
from app.anchoring.model import (
    ON_CHAIN,
    REVERTS_MAX,
    UNDER_WAY,
    Anchor,
    Fees,
    Mode,
    Receipt,
    State,
    Target,
    Transaction,
    confirmations,
    fees,
)
from app.kit.clock import Clock
from app.settings import Settings
from app.storage.database import Database, DatabaseRole

log = logging.getLogger("escrowgrid.anchoring")

WEI_IN_GWEI = Decimal(10**9)


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
        self._journal = Journal(database, target, clock, tell)
        self._database = database
        self._chain = chain
        self._signer = signer
        self._target = target
        self._settings = settings
        self._clock = clock

    async def settle(self, view: View) -> Sequence[Anchor]:
        """One step for each open anchor; returns how they are now. Raises `ChainDown`."""
        settled: list[Anchor] = []
        ready = True
        for anchor in await self._journal.unsettled(view):
            if anchor.state is State.FAILED:
                settled.append(anchor)
                break
            now = await self._step(view, anchor, ready=ready)
            settled.append(now)
            ready = ready and (now.state in ON_CHAIN or now.state is State.SUPERSEDED)
        return settled

    async def _step(self, view: View, anchor: Anchor, *, ready: bool) -> Anchor:
        tries = await self._journal.tries(anchor)
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
            anchor = await self._journal.change(
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
            return await self._push(view, anchor, alive, mined, ready=ready)
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
        return await self._journal.change(
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
        return await self._journal.change(
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

    async def _push(
        self, view: View, anchor: Anchor, alive: Sequence[Transaction], mined: int, *, ready: bool
    ) -> Anchor:
        """Not mined: send again what got lost, pay more for what waits too long, sign anew what never can be."""
        if not alive:
            return await self._journal.change(view, anchor, state=State.PENDING, tx_hash=None)
        newest = alive[0]
        now = self._clock()
        if mined > newest.nonce:
            why = f"another transaction of the account took nonce {newest.nonce}"
            return await self._give_up(view, anchor, alive, why)
        resend = timedelta(seconds=self._settings.chain_resend_seconds)
        old = now - newest.signed_at >= resend
        if (
            ready
            and old
            and mined < newest.nonce > await self._chain.nonce(self._target.account, pending=True)
        ):
            # What came before it was somebody else's, and went with a reorganisation: it may never come back.
            why = f"the account's nonces from {mined} to {newest.nonce - 1} are used by nobody"
            return await self._give_up(view, anchor, alive, why)
        if now - newest.signed_at >= timedelta(seconds=self._settings.chain_bump_seconds):
            return await self._replace(view, anchor, newest)
        due = newest.sent_at is None or anchor.state is not State.BROADCAST or now - newest.sent_at >= resend
        if due and (newest.sent_at is None or not await self._chain.knows(newest.hash)):
            return await self._send(view, anchor, newest)
        if anchor.state is not State.BROADCAST and newest.sent_at is not None:
            return await self._journal.change(view, anchor, state=State.BROADCAST, tx_hash=newest.hash)
        return anchor

    async def _give_up(self, view: View, anchor: Anchor, alive: Sequence[Transaction], why: str) -> Anchor:
        """Sign anew. Should one of the others be mined all the same, it is found, and the contract takes one only."""
        hashes = [one.hash for one in alive]
        return await self._journal.change(
            view, anchor, bury=hashes, state=State.PENDING, tx_hash=None, failure=why
        )

    async def _begin(self, view: View, anchor: Anchor, tries: Sequence[Transaction]) -> Anchor:
        """Sign the first transaction, or another one after those that came to nothing."""
        receipt = await self._receipt(anchor, tries)
        if receipt is not None and receipt.succeeded:
            return await self._mined(view, anchor, receipt)
        # Asked anew: what comes before it may have been mined since the round began.
        head = await self._chain.head(anchor.log_id)
        if anchor.log_id != view.log_id or not anchor.is_next(head):
            # What it was to cover is covered by the next one.
            return await self._journal.supersede(view, anchor, again=not anchor.is_in(head))
        try:
            call = await self._call(anchor)
            gas = await self._chain.estimate(self._target.account, call)
            base, tip = await self._chain.market()
            offered = fees(base, tip, self._settings.chain_fee_max_gwei * WEI_IN_GWEI)
            if offered is None:
                return await self._journal.fail(view, anchor, _too_dear(base))
            nonce = await self._chain.nonce(self._target.account, pending=True)
            return await self._sign(view, anchor, call, nonce, gas, offered)
        except Refused as refusal:
            return await self._journal.fail(view, anchor, str(refusal))

    async def _replace(self, view: View, anchor: Anchor, before: Transaction) -> Anchor:
        base, tip = await self._chain.market()
        most = self._settings.chain_fee_max_gwei * WEI_IN_GWEI
        offered = fees(base, tip, most, Fees(before.fee_max, before.tip_max))
        if offered is None:
            if not await self._chain.knows(before.hash):
                return await self._send(view, anchor, before)
            return await self._journal.fail(view, anchor, _too_dear(base))
        try:
            call = await self._call(anchor)
            gas = await self._chain.estimate(self._target.account, call)
            return await self._sign(view, anchor, call, before.nonce, gas, offered)
        except Refused as refusal:
            return await self._journal.fail(view, anchor, str(refusal))

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
        signed = await self._journal.change(
            view, anchor, adding=made, state=State.SIGNED, tx_hash=tx_hash, failure=None
        )
        return await self._send(view, signed, made)

    async def _send(self, view: View, anchor: Anchor, one: Transaction) -> Anchor:
        """Whatever the node says to it: what became of it is found out from the chain."""
        try:
            await self._chain.send(one)
        except NonceTaken:
            return await self._journal.fail(
                view, anchor, f"the node holds nonce {one.nonce} to be used already"
            )
        except Refused as refusal:
            return await self._journal.fail(view, anchor, str(refusal))
        return await self._journal.change(
            view, anchor, sent=one, state=State.BROADCAST, tx_hash=one.hash, failure=None
        )


def _too_dear(base: Decimal) -> str:
    return f"gas costs {base / WEI_IN_GWEI:.1f} gwei, more than CHAIN_FEE_MAX_GWEI allows: waiting"
