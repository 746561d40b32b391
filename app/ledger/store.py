"""The ledger's tables, and rows to events."""

from decimal import Decimal

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, SmallInteger, Table, Text

from app.ledger.model import Actor, Balances, Commitments, Effect, Event, Key, Kind, Posting
from app.storage.database import Named
from app.storage.tables import Document, Id, Moment, Money, Word, metadata

ledger_events = Table(
    "ledger_events",
    metadata,
    Column("global_sequence", BigInteger, primary_key=True),
    Column("institution_id", Id, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("id", Id, nullable=False),
    Column("position_id", Id, nullable=False),
    Column("position_version", Integer, nullable=False),
    Column("kind", Word, nullable=False),
    Column("kind_version", SmallInteger, nullable=False),
    Column("previous_state", Word),
    Column("new_state", Word, nullable=False),
    Column("previous_stage", Word),
    Column("new_stage", Word, nullable=False),
    Column("effect", Word, nullable=False),
    Column("currency", Word, nullable=False),
    Column("amount_moved", Money, nullable=False),
    Column("postings", Document, nullable=False),
    Column("funded", Money, nullable=False),
    Column("released", Money, nullable=False),
    Column("refunded", Money, nullable=False),
    Column("held", Money, nullable=False),
    Column("data", Document, nullable=False),
    Column("evidence", Document, nullable=False),
    Column("actor_id", Word, nullable=False),
    Column("actor_role", Word, nullable=False),
    Column("request_id", Word, nullable=False),
    Column("key_institution_id", Id),
    Column("idempotency_key", Word, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("template_id", Id, nullable=False),
    Column("policy_id", Id),
    Column("lifecycle_name", Word, nullable=False),
    Column("lifecycle_version", Integer, nullable=False),
    Column("occurred_at", Moment, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    Column("holder_commitment", LargeBinary),
    Column("reason_commitment", LargeBinary),
    Column("metadata_commitment", LargeBinary),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("hash_version", SmallInteger, nullable=False),
)

ledger_head = Table(
    "ledger_head",
    metadata,
    Column("log_id", Word, nullable=False),
    Column("global_sequence", BigInteger, nullable=False),
    Column("recorded_at", Moment, nullable=False),
)

institution_heads = Table(
    "institution_heads",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

epochs = Table(
    "epochs",
    metadata,
    Column("epoch", Integer, primary_key=True),
    Column("scope", Id, primary_key=True),
    Column("starts_after", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("raised_at", Moment, nullable=False),
    Column("nonce", Word, nullable=False),
)

personal_data = Table(
    "personal_data",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("event_id", Id, primary_key=True),
    Column("position_id", Id, nullable=False),
    Column("holder_id", Id),
    Column("holder", LargeBinary),
    Column("reason", LargeBinary),
    Column("metadata", LargeBinary),
)

EVENT_COLUMNS = tuple(column.name for column in ledger_events.columns)
SELECT_EVENTS = f"SELECT {', '.join(EVENT_COLUMNS)} FROM ledger_events"


def event_of(row: Named) -> Event:
    """The event a row spells."""
    return Event(
        global_sequence=row["global_sequence"],
        sequence=row["sequence"],
        id=row["id"],
        institution_id=row["institution_id"],
        position_id=row["position_id"],
        position_version=row["position_version"],
        kind=Kind(row["kind"]),
        kind_version=row["kind_version"],
        previous_state=row["previous_state"],
        new_state=row["new_state"],
        previous_stage=row["previous_stage"],
        new_stage=row["new_stage"],
        effect=Effect(row["effect"]),
        currency=row["currency"],
        amount_moved=row["amount_moved"],
        postings=tuple([Posting(leg[0], Decimal(leg[1]), leg[2]) for leg in row["postings"]]),
        balances=Balances(row["funded"], row["released"], row["refunded"], row["held"]),
        data=row["data"],
        evidence=row["evidence"],
        actor=Actor(row["actor_id"], row["actor_role"], row["request_id"]),
        key=Key(row["key_institution_id"], row["idempotency_key"], row["fingerprint"]),
        template_id=row["template_id"],
        policy_id=row["policy_id"],
        lifecycle_name=row["lifecycle_name"],
        lifecycle_version=row["lifecycle_version"],
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
        commitments=Commitments(
            row["holder_commitment"], row["reason_commitment"], row["metadata_commitment"]
        ),
        previous_hash=row["previous_hash"],
        hash=row["hash"],
        hash_version=row["hash_version"],
    )
