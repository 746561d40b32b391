"""The bytes that are hashed: one frozen spelling per hash version.

Version 1 is the RFC 8785 text of a JSON array holding, in this order: the fields of FIXED_V1, then those of PLACED_V1.
Amounts are text in fixed point at the currency's exponent, times whole microseconds since 1970 UTC, bytes lower-case
hex, postings arrays of [account, amount, currency], `data` and `evidence` the RFC 8785 text of their objects (numbers
exact and in fixed point). hash = sha256("escrowgrid.event.1" ‖ previous hash ‖ these bytes).
"""

from collections.abc import Mapping
from datetime import datetime

from app.kit import chain
from app.kit.canonical import Json, canonical_json, micros, plain_json
from app.kit.money import CURRENCIES, spell
from app.ledger.model import (
    HASH_VERSION,
    KIND_VERSION,
    Actor,
    Commitments,
    Draft,
    Event,
    Key,
    Personal,
    Posting,
    Salts,
)

TAG_V1 = b"escrowgrid.event.1"

FIXED_V1 = (
    "hashVersion", "id", "institutionId", "positionId", "positionVersion", "kind", "kindVersion", "previousState",
    "newState", "previousStage", "newStage", "effect", "currency", "amountMoved", "postings", "funded", "released",
    "refunded", "held", "data", "evidence", "actorId", "actorRole", "requestId", "keyInstitutionId", "idempotencyKey",
    "fingerprint", "templateId", "policyId", "lifecycleName", "lifecycleVersion", "holderCommitment",
    "reasonCommitment", "metadataCommitment",
)  # fmt: skip
PLACED_V1 = ("globalSequence", "sequence", "occurredAt", "recordedAt")


def fixed(draft: Draft, event_id: str, actor: Actor, key: Key, commitments: Commitments) -> str:
    """The part of a new event's spelling that is known before it has its place."""
    return _fixed(draft, draft.postings, event_id, actor, key, commitments, (HASH_VERSION, KIND_VERSION))


def _fixed(
    draft: Draft,
    postings: tuple[Posting, ...],
    event_id: str,
    actor: Actor,
    key: Key,
    commitments: Commitments,
    versions: tuple[int, int],
) -> str:
    exponent = CURRENCIES[draft.currency].exponent
    balances = draft.balances
    values: list[Json] = [
        versions[0],
        event_id,
        draft.institution_id,
        draft.position_id,
        draft.position_version,
        draft.kind,
        versions[1],
        draft.previous_state,
        draft.new_state,
        draft.previous_stage,
        draft.new_stage,
        draft.effect,
        draft.currency,
        spell(draft.amount_moved, exponent),
        [[leg.account, spell(leg.amount, exponent), leg.currency] for leg in postings],
        spell(balances.funded, exponent),
        spell(balances.released, exponent),
        spell(balances.refunded, exponent),
        spell(balances.held, exponent),
        canonical_json(draft.data),
        canonical_json(draft.evidence),
        actor.id,
        actor.role,
        actor.request_id,
        key.institution_id,
        key.value,
        key.fingerprint.hex(),
        draft.template_id,
        draft.policy_id,
        draft.lifecycle_name,
        draft.lifecycle_version,
        _hex(commitments.holder),
        _hex(commitments.reason),
        _hex(commitments.metadata),
    ]
    return plain_json(values)


def placed(
    fixed_part: str, global_sequence: int, sequence: int, occurred_at: datetime, recorded_at: datetime
) -> bytes:
    """The whole spelling, once the event has its place."""
    return f"{fixed_part[:-1]},{global_sequence},{sequence},{micros(occurred_at)},{micros(recorded_at)}]".encode()


def spelling(event: Event) -> bytes:
    """The canonical bytes of a stored event, from its own fields alone."""
    versions = (event.hash_version, event.kind_version)
    text = _fixed(event.draft, event.postings, event.id, event.actor, event.key, event.commitments, versions)
    return placed(text, event.global_sequence, event.sequence, event.occurred_at, event.recorded_at)


def event_hash(previous: bytes, content: bytes) -> bytes:
    """The hash of an event: it hangs on the one before it in its institution's chain."""
    return chain.link(TAG_V1, previous, content)


def commitments(personal: Personal, salts: Salts) -> Commitments:
    """What the ledger keeps of personal values."""
    return Commitments(
        holder=_commit(salts.holder, personal.holder_reference),
        reason=_commit(salts.reason, personal.reason),
        metadata=_commit(salts.metadata, personal.metadata),
    )


def _commit(salt: bytes | None, value: str | Mapping[str, Json] | None) -> bytes | None:
    if value is None or salt is None:
        return None
    return chain.commit(salt, (value if isinstance(value, str) else canonical_json(value)).encode())


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
