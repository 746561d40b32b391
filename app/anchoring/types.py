"""The GraphQL types of anchoring, and the loaders that fill them level by level."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import strawberry

from app.anchoring import model, service
from app.anchoring.consistency import Consistency
from app.anchoring.model import Mode, State
from app.anchoring.proof import NotProven, prove
from app.anchoring.proof import Proof as ProofModel
from app.context import Context
from app.engine.connection import Node
from app.engine.enums import describe
from app.engine.scalars import JsonObject, Long
from app.storage.database import DatabaseRole

describe(
    Mode,
    "Which call of the contract an anchor is.",
    {
        Mode.ANCHOR: "A head of the ledger: how many events it has, and the Merkle root over them.",
        Mode.RECORD: "Single events, because their templates say so.",
        Mode.BEGIN: "The beginning of a new log, because the ledger was restored to an earlier point.",
    },
    name="AnchorMode",
)
describe(
    State,
    "How far an anchor has come.",
    {
        State.PENDING: "It waits to be signed; `failure` says why when it waits for long.",
        State.SIGNED: "Its transaction is signed and kept, and not known to be sent.",
        State.BROADCAST: "Its transaction was sent to a node.",
        State.MINED: "It is in a block.",
        State.FINAL: "It is in a block with as many behind it as the server demands.",
        State.REORGED: "Its block was dropped by the chain; it is sent again.",
        State.FAILED: "The contract reverted it several times: nothing is submitted until an operator looks.",
        State.SUPERSEDED: "It was never mined, and what it was to cover is covered by a later one.",
    },
    name="AnchorState",
)


@strawberry.type(
    description="One call of the contract on a chain, and how far it has come. What is on a chain is public: "
    "everybody who can read anything here can read this."
)
class Anchor(Node):
    """An anchor."""

    number: Long = strawberry.field(description="Its place in the order in which they are submitted.")
    mode: Mode = strawberry.field(description="Which call it is.")
    state: State = strawberry.field(description="How far it has come.")
    chain_id: Long = strawberry.field(description="The chain.")
    contract: str = strawberry.field(description="The contract's address there.")
    log_id: str = strawberry.field(description="The name of the ledger's log on the chain, lower-case hex.")
    epoch: int = strawberry.field(description="The ledger's epoch in which that log began.")
    previous_size: Long | None = strawberry.field(description="ANCHOR: the size that was anchored before it.")
    size: Long | None = strawberry.field(description="ANCHOR: how many events of the ledger it covers.")
    root: str | None = strawberry.field(description="ANCHOR: the Merkle root over them, lower-case hex.")
    first: Long | None = strawberry.field(description="RECORD: the number of the first event it records.")
    count: int | None = strawberry.field(description="RECORD: how many events it records.")
    follows: str | None = strawberry.field(description="BEGIN: the log it goes on from, lower-case hex.")
    since: Long | None = strawberry.field(description="BEGIN: how many events the restored ledger had kept.")
    tx_hash: str | None = strawberry.field(
        description="Its newest transaction, or the one that was mined: 0x…; null before it is signed."
    )
    block_number: Long | None = strawberry.field(description="The block it is in.")
    block_hash: str | None = strawberry.field(description="The hash of that block: 0x….")
    confirmations: Long | None = strawberry.field(
        description="How many blocks attest it, its own included, when the chain was last looked at."
    )
    gas_used: Long | None = strawberry.field(description="The gas it took.")
    reverts: int = strawberry.field(description="How often the contract reverted it.")
    reorgs: int = strawberry.field(description="How often its block was dropped by the chain.")
    failure: str | None = strawberry.field(description="What keeps it from going on; null when nothing does.")
    created_at: datetime = strawberry.field(description="When it was made.")
    changed_at: datetime = strawberry.field(description="When it last changed.")
    final_at: datetime | None = strawberry.field(description="When it became final.")

    @classmethod
    def of(cls, one: model.Anchor) -> "Anchor":
        """As GraphQL tells it."""
        return cls(
            id=strawberry.ID(one.id),
            number=Long(one.number),
            mode=one.mode,
            state=one.state,
            chain_id=Long(one.chain_id),
            contract=one.contract,
            log_id=one.log_id.hex(),
            epoch=one.epoch,
            previous_size=_long(one.previous_size),
            size=_long(one.size),
            root=None if one.root is None else one.root.hex(),
            first=_long(one.first),
            count=one.count,
            follows=None if one.follows is None else one.follows.hex(),
            since=_long(one.since),
            tx_hash=_on_chain(one.tx_hash),
            block_number=_long(one.block_number),
            block_hash=_on_chain(one.block_hash),
            confirmations=_long(one.confirmations),
            gas_used=_long(one.gas_used),
            reverts=one.reverts,
            reorgs=one.reorgs,
            failure=one.failure,
            created_at=one.created_at,
            changed_at=one.changed_at,
            final_at=one.final_at,
        )


@strawberry.type(
    description="How one event is recorded on a chain, because its template says so. Without a number and "
    "without a reason it waits."
)
class AnchorRecord:
    """A record."""

    number: Long | None = strawberry.field(description="Its number among the recorded events of the log.")
    skipped: str | None = strawberry.field(description="Why it is not recorded; null when it is, or will be.")
    anchor_id: strawberry.ID | None = strawberry.field(
        description="The anchor that records it: `node(id:)` tells all of it. Null while it waits or is skipped."
    )
    state: State | None = strawberry.field(description="How far that has come.")
    tx_hash: str | None = strawberry.field(description="Its transaction: 0x….")

    @classmethod
    def of(cls, one: model.Record) -> "AnchorRecord":
        """As GraphQL tells it."""
        return cls(
            number=_long(one.number),
            skipped=one.skipped,
            anchor_id=None if one.anchor_id is None else strawberry.ID(one.anchor_id),
            state=one.state,
            tx_hash=_on_chain(one.tx_hash),
        )


@strawberry.type(
    description="What proves to anybody that an event is in an anchored head (RFC 6962). `document` is what "
    "`escrowgrid prove` writes and verify_proof.py checks, without anything of this server."
)
class AnchorProof:
    """A proof."""

    leaf: str = strawberry.field(description="The event's hash, lower-case hex.")
    index: Long = strawberry.field(description="The event's place among the leaves, from 0.")
    size: Long = strawberry.field(description="How many leaves the tree has.")
    root: str = strawberry.field(description="The root over them, lower-case hex.")
    path: list[str] = strawberry.field(description="The hashes from the leaf to the root, lower-case hex.")
    anchor_id: strawberry.ID = strawberry.field(
        description="The anchor that holds the root: `node(id:)` tells all of it."
    )
    document: JsonObject = strawberry.field(description="All of it, and what the event's hash is made of.")

    @classmethod
    def of(cls, one: ProofModel) -> "AnchorProof":
        """As GraphQL tells it."""
        assert one.anchor.size is not None, "only heads prove"
        return cls(
            leaf=one.event.hash.hex(),
            index=Long(one.index),
            size=Long(one.anchor.size),
            root=one.root.hex(),
            path=[step.hex() for step in one.path],
            anchor_id=strawberry.ID(one.anchor.id),
            document=JsonObject(one.document()),
        )


@strawberry.type(
    description="What proves to anybody that one anchored head goes on from another (RFC 9162): between them events "
    "were added, and none changed or taken away. `document` is what `escrowgrid anchor consistency` writes and "
    "verify_proof.py checks."
)
class AnchorConsistency:
    """A proof of consistency."""

    since_size: Long = strawberry.field(description="How many events the earlier head has.")
    since_root: str = strawberry.field(description="The root over them, lower-case hex.")
    until_size: Long = strawberry.field(description="How many events the later head has.")
    until_root: str = strawberry.field(description="The root over them, lower-case hex.")
    path: list[str] = strawberry.field(description="The hashes that both roots are made of, lower-case hex.")
    document: JsonObject = strawberry.field(description="All of it, and where both heads are anchored.")

    @classmethod
    def of(cls, one: Consistency) -> "AnchorConsistency":
        """As GraphQL tells it."""
        older, newer = one.older, one.newer
        assert older.size is not None, "only heads prove"
        assert older.root is not None, "only heads prove"
        assert newer.size is not None, "only heads prove"
        assert newer.root is not None, "only heads prove"
        return cls(
            since_size=Long(older.size),
            since_root=older.root.hex(),
            until_size=Long(newer.size),
            until_root=newer.root.hex(),
            path=[step.hex() for step in one.path],
            document=JsonObject(one.document()),
        )


@strawberry.type(description="A chain that is anchored on, as it looked when it was last asked.")
class AnchorChain:
    """A chain."""

    chain_id: Long = strawberry.field(description="The chain.")
    contract: str = strawberry.field(description="The contract's address.")
    account: str = strawberry.field(description="The account that submits.")
    balance: Decimal | None = strawberry.field(description="What it has, of the chain's own coin.")
    balance_low: bool = strawberry.field(description="Whether that is less than it should have.")
    block_number: Long | None = strawberry.field(description="The newest block.")
    failure: str | None = strawberry.field(
        description="What keeps everything from being submitted; null when nothing does."
    )
    answered_at: datetime | None = strawberry.field(description="When the node last answered.")
    checked_at: datetime = strawberry.field(description="When it was last asked.")

    @classmethod
    def of(cls, one: model.Account) -> "AnchorChain":
        """As GraphQL tells it."""
        return cls(
            chain_id=Long(one.chain_id),
            contract=one.contract,
            account=one.account,
            balance=one.balance,
            balance_low=one.balance_low,
            block_number=_long(one.block_number),
            failure=one.failure,
            answered_at=one.answered_at,
            checked_at=one.checked_at,
        )


async def anchor_by_id(context: Context, ids: Sequence[str]) -> Mapping[str, model.Anchor]:
    """Loads anchors."""
    async with context.reading() as reading:
        return await service.by_id(reading, context.scope, ids)


async def anchor_of_event(context: Context, event_ids: Sequence[str]) -> Mapping[str, Anchor]:
    """Loads the first head that covers each event."""
    async with context.reading() as reading:
        found = await service.covering(reading, context.scope, event_ids)
    return {id_: Anchor.of(anchor) for id_, (_event, anchor) in found.items()}


async def record_of_event(context: Context, event_ids: Sequence[str]) -> Mapping[str, AnchorRecord]:
    """Loads how each event is recorded."""
    async with context.reading() as reading:
        found = await service.records(reading, context.scope, event_ids)
    return {id_: AnchorRecord.of(one) for id_, one in found.items()}


async def proof_of_event(context: Context, event_ids: Sequence[str]) -> Mapping[str, AnchorProof]:
    """Loads proofs of events that this scope may see; the hashes of others' are no secret, and needed for it."""
    async with context.reading() as reading:
        found = await service.covering(reading, context.scope, event_ids, on_chain=True)
    proofs: dict[str, AnchorProof] = {}
    if not found:
        return proofs
    async with context.services.database.pool(DatabaseRole.FEED).acquire() as driver:
        for id_, (event, anchor) in found.items():
            try:
                proofs[id_] = AnchorProof.of(await prove(driver, event, anchor))
            except NotProven:
                continue
    return proofs


def _long(value: int | None) -> Long | None:
    return None if value is None else Long(value)


def _on_chain(value: bytes | None) -> str | None:
    return None if value is None else "0x" + value.hex()
