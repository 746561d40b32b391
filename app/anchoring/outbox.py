"""What is submitted and how far it has come, in the database: each step is written before or after it is taken."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from app.anchoring.model import Anchor, Mode, Restore, State, Target, Transaction, log_id
from app.ledger import leases
from app.ledger.followers import LeadLost
from app.ledger.leases import Lease
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database, DatabaseRole, Driver, Named, take_role

FIELDS = tuple(field.name for field in fields(Anchor) if field.name != "confirmations")
COLUMNS = ", ".join(FIELDS)
OPEN = f"""
SELECT {COLUMNS} FROM anchors
WHERE chain_id = $1 AND contract = $2 AND state <> 'FINAL' AND state <> 'SUPERSEDED' ORDER BY number
"""
# What the contract would no longer hold if its head were that small.
BEYOND = f"""
SELECT {COLUMNS} FROM anchors
WHERE log_id = $1 AND chain_id = $2 AND contract = $3 AND state = 'FINAL'
  AND (size > $4 OR first + count - 1 > $5) ORDER BY number
"""
RECORDED = """
SELECT coalesce(max(first + count - 1), 0) FROM anchors
WHERE log_id = $1 AND chain_id = $2 AND contract = $3 AND mode = 'RECORD' AND state <> 'SUPERSEDED'
"""
TRANSACTIONS = """
SELECT hash, anchor_id, account, nonce, raw, fee_max, tip_max, signed_at, sent_at, dead
FROM anchor_transactions WHERE anchor_id = $1 ORDER BY nonce DESC, signed_at DESC
"""
ADD = f"""
INSERT INTO anchors ({COLUMNS}, revision)
SELECT {", ".join(f"${place}" for place in range(1, len(FIELDS) + 1))}, coalesce(max(revision), 0) + 1 FROM anchors
"""
NEXT_NUMBER = "SELECT coalesce(max(number), 0) + 1 FROM anchors"
CHANGED = ("state", "tx_hash", "block_number", "block_hash", "gas_used", "reverts", "reorgs", "failure", "changed_at",
           "final_at")  # fmt: skip
CHANGE = f"""
UPDATE anchors SET revision = (SELECT max(revision) + 1 FROM anchors),
  {", ".join(f"{name} = ${place}" for place, name in enumerate(CHANGED, 2))} WHERE id = $1
"""
# The same one again is given up no longer: after a reorganisation its nonce may be free once more.
ADD_TRANSACTION = """
INSERT INTO anchor_transactions (hash, anchor_id, account, nonce, raw, fee_max, tip_max, signed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (hash) DO UPDATE SET dead = false, signed_at = excluded.signed_at, sent_at = NULL
"""
SENT = "UPDATE anchor_transactions SET sent_at = $2 WHERE hash = $1"
BURY = "UPDATE anchor_transactions SET dead = true WHERE hash = ANY ($1::bytea[])"
NOTE_CHAIN = """
INSERT INTO anchor_chains AS c
  (chain_id, contract, account, balance, balance_low, block_number, failure, answered_at, checked_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $6::bigint IS NOT NULL THEN $8::timestamptz END, $8)
ON CONFLICT (chain_id, contract) DO UPDATE SET account = excluded.account,
  balance = coalesce(excluded.balance, c.balance),
  balance_low = CASE WHEN excluded.balance IS NULL THEN c.balance_low ELSE excluded.balance_low END,
  block_number = coalesce(excluded.block_number, c.block_number), failure = excluded.failure,
  answered_at = coalesce(excluded.answered_at, c.answered_at), checked_at = excluded.checked_at
"""
LEDGER = "SELECT log_id, global_sequence FROM ledger_head"
RESTORES = "SELECT epoch, starts_after, nonce FROM epochs WHERE scope = $1 ORDER BY epoch"
OLDEST = "SELECT recorded_at FROM ledger_events WHERE global_sequence = $1"


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger as it is: its name, its size and its epochs."""

    id: str
    size: int
    restores: Sequence[Restore]

    @property
    def epoch(self) -> int:
        """The one it is in."""
        return max(one.epoch for one in self.restores)

    def logs(self) -> Mapping[int, bytes]:
        """Every log that it is or was, by the epoch in which it began."""
        return {one.epoch: log_id(self.id, one.epoch, one.nonce) for one in self.restores}


@dataclass(frozen=True, slots=True)
class Look:
    """How the chain looked, or why it could not be looked at."""

    balance: Decimal | None
    is_low: bool
    block_number: int | None
    failure: str | None


@asynccontextmanager
async def writing(
    database: Database, lease: Lease, institutions: Iterable[str] = ()
) -> AsyncIterator[Driver]:
    """One transaction of whoever leads; raises `LeadLost` in any other process."""
    async with database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, institutions)
        if not await leases.holds(driver, lease):
            raise LeadLost("another process leads now")
        yield driver


async def ledger(driver: Driver) -> Ledger:
    """As the feed role."""
    head = await driver.fetchrow(LEDGER)
    assert head is not None, "a ledger has a head"
    rows = await driver.fetch(RESTORES, ALL_INSTITUTIONS)
    restores = [Restore(row["epoch"], row["starts_after"], row["nonce"]) for row in rows]
    return Ledger(head["log_id"], head["global_sequence"], restores)


async def oldest(driver: Driver, size: int) -> datetime | None:
    """When the first event after `size` was recorded."""
    found: datetime | None = await driver.fetchval(OLDEST, size + 1)
    return found


async def open_anchors(driver: Driver, target: Target) -> list[Anchor]:
    """What is not settled yet, in its order."""
    return [anchor_of(row) for row in await driver.fetch(OPEN, target.chain_id, target.contract)]


async def beyond(driver: Driver, target: Target, log_id: bytes, size: int, recorded: int) -> list[Anchor]:
    """Final ones that the contract, holding only so much, has lost."""
    rows = await driver.fetch(BEYOND, log_id, target.chain_id, target.contract, size, recorded)
    return [anchor_of(row) for row in rows]


async def recorded(driver: Driver, target: Target, log_id: bytes) -> int:
    """How many events of a log have been given to be recorded."""
    return int(await driver.fetchval(RECORDED, log_id, target.chain_id, target.contract))


async def transactions(driver: Driver, anchor_id: str) -> list[Transaction]:
    """Every try of an anchor, the newest first."""
    return [Transaction(**dict(row)) for row in await driver.fetch(TRANSACTIONS, anchor_id)]


async def next_number(driver: Driver) -> int:
    """The number of the next anchor; one process at a time leads, so that nobody else takes it."""
    return int(await driver.fetchval(NEXT_NUMBER))


async def add(driver: Driver, anchor: Anchor) -> None:
    """Keep a new one."""
    await driver.execute(ADD, *(getattr(anchor, name) for name in FIELDS))


async def change(driver: Driver, anchor: Anchor) -> None:
    """Keep how far it has come."""
    await driver.execute(CHANGE, anchor.id, *(getattr(anchor, name) for name in CHANGED))


async def add_transaction(driver: Driver, one: Transaction) -> None:
    """Keep a signed transaction: before it is sent."""
    await driver.execute(
        ADD_TRANSACTION, one.hash, one.anchor_id, one.account, one.nonce, one.raw, one.fee_max, one.tip_max,
        one.signed_at,
    )  # fmt: skip


async def sent(driver: Driver, one: Transaction, now: datetime) -> None:
    """Note that it was sent."""
    await driver.execute(SENT, one.hash, now)


async def bury(driver: Driver, hashes: Sequence[bytes]) -> None:
    """Note that they can no longer be mined."""
    await driver.execute(BURY, list(hashes))


async def note_chain(driver: Driver, target: Target, look: Look, now: datetime) -> None:
    """Note how the chain looked."""
    await driver.execute(
        NOTE_CHAIN, target.chain_id, target.contract, target.account, look.balance, look.is_low,
        look.block_number, look.failure, now,
    )  # fmt: skip


def anchor_of(row: Named) -> Anchor:
    """The anchor that a row spells."""
    found: Mapping[str, Any] = {name: row[name] for name in FIELDS}
    return Anchor(**{**found, "mode": Mode(row["mode"]), "state": State(row["state"])})
