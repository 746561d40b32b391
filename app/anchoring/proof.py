"""What proves to anybody that an event is in a head that was anchored: nothing of ours is needed to check it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.anchoring import tree
from app.anchoring.model import Anchor, log_id
from app.kit.canonical import Json
from app.kit.merkle import root_by_inclusion
from app.ledger.model import Event
from app.ledger.spelling import spelling
from app.storage.database import Driver

VERSION = 1
LOG = """
SELECT h.log_id, e.nonce FROM ledger_head h LEFT JOIN epochs e ON e.scope = '*' AND e.epoch = $1
"""


@dataclass(frozen=True, slots=True)
class Proof:
    """The path from an event to the root of an anchored head."""

    ledger: str
    nonce: str
    event: Event
    anchor: Anchor
    root: bytes
    path: Sequence[bytes]

    @property
    def index(self) -> int:
        """The event's place among the leaves, from 0."""
        return self.event.global_sequence - 1

    def document(self) -> Mapping[str, Json]:
        """As `escrowgrid prove` writes it and verify_proof.py reads it."""
        anchor = self.anchor
        return {
            "version": VERSION,
            "ledger": self.ledger,
            "epoch": anchor.epoch,
            "nonce": self.nonce,
            "logId": anchor.log_id.hex(),
            "event": {
                "id": self.event.id,
                "hashVersion": self.event.hash_version,
                "content": spelling(self.event).decode(),
                "previousHash": self.event.previous_hash.hex(),
                "hash": self.event.hash.hex(),
            },
            "inclusion": {
                "index": self.index,
                "size": anchor.size,
                "root": self.root.hex(),
                "path": [one.hex() for one in self.path],
            },
            "anchor": whereabouts(anchor),
        }


class NotProven(Exception):
    """The ledger of this database does not lead to the root that was anchored; the message says what to do."""


async def prove(driver: Driver, event: Event, anchor: Anchor) -> Proof:
    """The proof of an event by an anchor that covers it, as the feed role. Raises `NotProven`."""
    assert anchor.size is not None, "only heads prove"
    ledger, nonce = await name_of_log(driver, anchor)
    path = await tree.inclusion(driver, event.global_sequence - 1, anchor.size)
    found = root_by_inclusion(event.hash, event.global_sequence - 1, anchor.size, path)
    if found != anchor.root:
        raise another_root(anchor)
    return Proof(ledger, nonce, event, anchor, found, path)


async def name_of_log(driver: Driver, anchor: Anchor) -> tuple[str, str]:
    """The ledger and the nonce that make the name of the anchor's log; raises `NotProven` where they do not."""
    log = await driver.fetchrow(LOG, anchor.epoch)
    assert log is not None, "a ledger has a head"
    ledger, nonce = log["log_id"], log["nonce"] or ""
    if anchor.log_id != log_id(ledger, anchor.epoch, nonce):
        raise another_root(anchor)
    return ledger, nonce


def another_root(anchor: Anchor) -> NotProven:
    """What is told where the ledger of this database is not the one that was anchored."""
    return NotProven(f"anchor {anchor.id} holds another root than this ledger has: run `escrowgrid verify`")


def whereabouts(anchor: Anchor) -> Mapping[str, Json]:
    """Where on a chain an anchor is, as documents say it."""
    return {
        "id": anchor.id,
        "state": anchor.state.value,
        "chainId": anchor.chain_id,
        "contract": anchor.contract,
        "transaction": None if anchor.tx_hash is None else "0x" + anchor.tx_hash.hex(),
        "blockNumber": anchor.block_number,
    }
