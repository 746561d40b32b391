"""Signed heads of the ledger: who holds one can tell later that what it covers was neither changed nor cut off."""

import base64
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.kit.canonical import Json, canonical_json, micros
from app.kit.clock import Clock
from app.kit.merkle import CompactRange
from app.ledger.followers import Follower, Halt
from app.ledger.leases import Lease
from app.ledger.model import Event
from app.ledger.remembered import LastSigned
from app.ledger.signer import Signer
from app.storage.database import Database, DatabaseRole, Driver, Named, take_role

log = logging.getLogger("escrowgrid.checkpoints")

TAG = b"escrowgrid.checkpoint.1"
EVERY_SECONDS = 60.0

NEWEST = """
SELECT log_id, size, root, frontier, signed_at, public_key, signature FROM checkpoints
WHERE size <= $1 ORDER BY size DESC LIMIT 1
"""
ALL = "SELECT log_id, size, root, frontier, signed_at, public_key, signature FROM checkpoints ORDER BY size"
INSERT = """
INSERT INTO checkpoints (log_id, size, root, frontier, signed_at, public_key, signature)
SELECT log_id, $1, $2, $3::bytea[], $4, $5, $6 FROM ledger_head ON CONFLICT DO NOTHING
"""
HASHES = """
SELECT hash FROM ledger_events WHERE global_sequence > $1 AND global_sequence <= $2
ORDER BY global_sequence LIMIT 10000
"""
HEAD = "SELECT log_id, global_sequence FROM ledger_head"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The root over the hashes of events 1..size, signed."""

    log_id: str
    size: int
    root: bytes
    signed_at: datetime
    public_key: bytes
    signature: bytes

    def statement(self) -> bytes:
        """The bytes that are signed."""
        return statement(self.log_id, self.size, self.root, self.signed_at)

    def is_signed_by(self, public_key: bytes) -> bool:
        """Whether that key signed exactly this."""
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(self.signature, self.statement())
        except (InvalidSignature, ValueError):
            return False
        return True

    def to_json(self) -> str:
        """One line, for keeping it somewhere else."""
        return json.dumps(
            {
                "logId": self.log_id,
                "size": self.size,
                "root": self.root.hex(),
                "signedAt": self.signed_at.isoformat(),
                "publicKey": self.public_key.hex(),
                "signature": base64.b64encode(self.signature).decode(),
            }
        )

    @classmethod
    def from_json(cls, line: str) -> "Checkpoint":
        """What `to_json` wrote; raises `ValueError` for anything else."""
        try:
            found = json.loads(line)
            return cls(
                log_id=str(found["logId"]),
                size=int(found["size"]),
                root=bytes.fromhex(found["root"]),
                signed_at=datetime.fromisoformat(found["signedAt"]),
                public_key=bytes.fromhex(found["publicKey"]),
                signature=base64.b64decode(found["signature"], validate=True),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a checkpoint: {error}") from None


def statement(log_id: str, size: int, root: bytes, signed_at: datetime) -> bytes:
    """The bytes that a checkpoint signs: tag ‖ RFC 8785 text of its fields."""
    fields: dict[str, Json] = {
        "logId": log_id,
        "root": root.hex(),
        "signedAt": micros(signed_at),
        "size": size,
    }
    return TAG + canonical_json(fields).encode()


class Checkpointer(Follower):
    """Signs the head every minute and whenever it stops; a follower, so that one process of all does it."""

    name = "checkpoints"

    def __init__(
        self,
        database: Database,
        signer: Signer,
        clock: Clock,
        every_seconds: float = EVERY_SECONDS,
        last: LastSigned | None = None,
    ) -> None:
        self._database = database
        self._signer = signer
        self._clock = clock
        self._every = every_seconds
        self._range: CompactRange | None = None
        self._signed_size = 0
        self._signed_at: datetime | None = None
        self._last = last or LastSigned(None)
        # The tree that was seen to go on from what was signed last.
        self._proved: CompactRange | None = None

    async def follow(self, events: Sequence[Event], lease: Lease) -> None:
        """Take in the hashes; sign when the last signature is old enough."""
        if self._range is not None and events[0].global_sequence <= self._range.size:
            # Told twice, or once more since the ledger was restored: only what is in the database counts.
            self._range = None
        tree = await self._tree(events[0].global_sequence - 1)
        fresh = [event for event in events if event.global_sequence > tree.size]
        tree.extend(event.hash for event in fresh)
        if self._is_due():
            await self.sign()

    async def idle(self, lease: Lease) -> None:
        """Sign what has come since, when the last signature is old enough.

        Up to the head, whoever took it in: a leader before this one may have gone before it signed.
        """
        if self._is_due():
            await self._sign_head()

    async def stop(self) -> None:
        """Sign the very end, so that a stopped server's ledger is covered whole."""
        await self._sign_head()

    def _is_due(self) -> bool:
        return self._signed_at is None or (self._clock() - self._signed_at).total_seconds() >= self._every

    async def _sign_head(self) -> None:
        head = await self._database.pool(DatabaseRole.FEED).fetchrow(HEAD)
        assert head is not None, "a ledger has a head"
        if self._range is not None and head["global_sequence"] < self._range.size:
            # It was restored to a point before this.
            self._range = None
        await self._tree(head["global_sequence"])
        try:
            await self.sign()
        except Halt as error:
            log.critical("%s", error)

    async def sign(self) -> None:
        """Sign the tree as it is, if it grew; raises `Halt` when it does not go on from what was signed here last."""
        if self._range is None:
            return
        tree, now = self._range, self._clock()
        await self._require_goes_on(tree)
        if tree.size == self._signed_size:
            return
        async with self._database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
            await take_role(driver, DatabaseRole.WRITER, ())
            head = await driver.fetchrow(HEAD)
            assert head is not None, "a ledger has a head"
            if head["global_sequence"] < tree.size:
                # It was restored to a point before this.
                self._range = None
                return
            log_id = head["log_id"]
            signature = self._signer.sign(statement(log_id, tree.size, tree.root(), now))
            public_key = self._signer.public_key
            await driver.execute(
                INSERT, tree.size, tree.root(), list(tree.frontier), now, public_key, signature
            )
        self._signed_size, self._signed_at = tree.size, now
        signed = Checkpoint(log_id, tree.size, tree.root(), now, public_key, signature)
        self._last.keep(log_id, signed.to_json())

    async def _require_goes_on(self, tree: CompactRange) -> None:
        """Once for each tree: everything is hashed from the first event on, whatever the database says was signed."""
        if self._proved is tree:
            return
        pool = self._database.pool(DatabaseRole.FEED)
        head = await pool.fetchrow(HEAD)
        assert head is not None, "a ledger has a head"
        line = self._last.read(head["log_id"])
        if line is not None:
            last, again = Checkpoint.from_json(line), CompactRange()
            await _extend(self._database, again, last.size)
            if (again.size, again.root()) != (last.size, last.root):
                raise Halt(_other(last, again.size, head["global_sequence"]))
            await _extend(self._database, again, tree.size)
            if again.root() != tree.root():
                raise Halt(
                    "a checkpoint in the database is not over the events that are there: run `escrowgrid verify`"
                )
        self._proved = tree

    async def _tree(self, size: int) -> CompactRange:
        """The tree over at least the first `size` events, from the newest checkpoint on."""
        pool = self._database.pool(DatabaseRole.FEED)
        if self._range is None:
            row = await pool.fetchrow(NEWEST, size)
            self._range = CompactRange(row["size"], row["frontier"]) if row else CompactRange()
            self._signed_size = self._range.size
        await _extend(self._database, self._range, size)
        assert self._range.size >= size, "a ledger has no gaps"
        return self._range


async def _extend(database: Database, tree: CompactRange, size: int) -> None:
    """Take in what there is of the first `size` events."""
    pool = database.pool(DatabaseRole.FEED)
    while tree.size < size and (rows := await pool.fetch(HASHES, tree.size, size)):
        tree.extend(row["hash"] for row in rows)


def _other(last: Checkpoint, found: int, head: int) -> str:
    what = f"the ledger has {head}" if found < last.size else "the ledger has other ones"
    return (
        f"refuses to sign: {last.size} events were signed here at "
        f"{last.signed_at.isoformat(timespec='seconds')}, {what}. "
        "If it was restored on purpose, say so with `escrowgrid restore-finished` on this machine; else it was "
        "changed: run `escrowgrid verify`"
    )


async def read_all(driver: Driver) -> list[Checkpoint]:
    """Every checkpoint, by size, as the feed role."""
    return [checkpoint_of(row) for row in await driver.fetch(ALL)]


def checkpoint_of(row: Named) -> Checkpoint:
    """The checkpoint a row spells."""
    return Checkpoint(
        log_id=row["log_id"],
        size=row["size"],
        root=row["root"],
        signed_at=row["signed_at"],
        public_key=row["public_key"],
        signature=row["signature"],
    )
