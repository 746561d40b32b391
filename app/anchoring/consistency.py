"""What proves to anybody that one anchored head goes on from another: nothing was changed or taken away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.anchoring import tree
from app.anchoring.model import ON_CHAIN, Anchor, Mode
from app.anchoring.proof import VERSION, another_root, name_of_log, whereabouts
from app.errors import BadRequest
from app.kit.canonical import Json
from app.kit.merkle import is_consistent
from app.storage.database import Driver


@dataclass(frozen=True, slots=True)
class Consistency:
    """The path by which both roots are made: RFC 9162, section 2.1.4."""

    ledger: str
    # An older head and a newer one, and what the names of their logs are made of beside the ledger and the epoch.
    older: Anchor
    older_nonce: str
    newer: Anchor
    newer_nonce: str
    path: Sequence[bytes]

    def document(self) -> Mapping[str, Json]:
        """As `escrowgrid anchor consistency` writes it and verify_proof.py reads it."""
        return {
            "version": VERSION,
            "ledger": self.ledger,
            "consistency": [step.hex() for step in self.path],
            "from": _head(self.older, self.older_nonce),
            "to": _head(self.newer, self.newer_nonce),
        }


def is_provable(anchor: Anchor) -> bool:
    """Whether it is a head that the chain has taken."""
    return anchor.mode is Mode.ANCHOR and anchor.state in ON_CHAIN


async def prove(driver: Driver, older: Anchor, newer: Anchor) -> Consistency:
    """The proof that `newer` goes on from `older`, both provable, as the feed role.

    Raises `BadRequest` where `newer` is the smaller one, `NotProven` where this ledger leads to only one of them.
    """
    assert older.size is not None, "only heads prove"
    assert older.root is not None, "only heads prove"
    assert newer.size is not None, "only heads prove"
    assert newer.root is not None, "only heads prove"
    if older.size > newer.size:
        raise BadRequest(f"the head of {older.size} events is the later one: give the earlier one first")
    ledger, older_nonce = await name_of_log(driver, older)
    _ledger, newer_nonce = await name_of_log(driver, newer)
    if (await tree.read(driver)).size < newer.size:
        raise another_root(newer)
    path = await tree.consistency(driver, older.size, newer.size)
    if not is_consistent(older.size, older.root, newer.size, newer.root, path):
        raise another_root(newer if await tree.root_at(driver, older.size) == older.root else older)
    return Consistency(ledger, older, older_nonce, newer, newer_nonce, path)


def _head(anchor: Anchor, nonce: str) -> Mapping[str, Json]:
    assert anchor.root is not None, "only heads prove"
    return {
        "epoch": anchor.epoch,
        "nonce": nonce,
        "logId": anchor.log_id.hex(),
        "size": anchor.size,
        "root": anchor.root.hex(),
        "anchor": whereabouts(anchor),
    }
