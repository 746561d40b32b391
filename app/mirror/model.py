"""What is copied beside the ledger, by which keys, and how two heads compare."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

TENANT_KEY = (("institution_id", "text"), ("id", "text"))

LOST_HISTORY = (
    "it holds events that the ledger lost when it was restored: give MIRROR_URL a new, empty database"
)


class NotACopy(Exception):
    """The mirror's database cannot go on as a copy of this ledger; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table beside the ledger that is copied row by row."""

    name: str
    key: tuple[tuple[str, str], ...] = TENANT_KEY
    # The column that says whose a row is; none where no tenant owns any.
    owner: str | None = "institution_id"
    # In which order rows are written where one has to give way to another.
    order: str = ""
    # Rows may be deleted.
    vanishing: bool = False
    # Only the writer's role may read it, and only institution by institution.
    sealed: bool = False
    # The writer's role may not read it, so that it cannot tell which row is there already.
    blind: bool = False
    # Whether a row `t` stands on events behind $1, the copy's last one: it waits until they are copied.
    beyond: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the key."""
        return tuple(name for name, _type in self.key)


INSTITUTIONS = Table("institutions", (("id", "text"),), owner="id")
INSTITUTION_KEYS = Table("institution_keys", (("institution_id", "text"),))
HOLDERS = Table("holders")
TEMPLATES = Table("asset_templates")
ASSETS = Table("assets")
POLICIES = Table("policies")
DELIVERIES = Table("webhook_deliveries", order="next_attempt_at IS NOT NULL", vanishing=True)
AUDIT = Table("audit_events", (("occurred_at", "timestamptz"), ("id", "text")), blind=True)
# Whoever goes on with the ledger goes on with what is under way to the chain, too, and sends nothing of it twice.
ANCHOR_BEYOND = """coalesce({0}.size, 0) > $1
  OR EXISTS (SELECT FROM anchor_records r WHERE r.anchor_id = {0}.id AND r.global_sequence > $1)"""
ANCHORS = Table("anchors", (("id", "text"),), owner=None, beyond=ANCHOR_BEYOND.format("t"))
TRANSACTIONS = Table(
    "anchor_transactions",
    (("hash", "bytea"),),
    owner=None,
    beyond=f"EXISTS (SELECT FROM anchors a WHERE a.id = t.anchor_id AND ({ANCHOR_BEYOND.format('a')}))",
)
RECORDS = Table(
    "anchor_records", (("institution_id", "text"), ("event_id", "text")), beyond="t.global_sequence > $1"
)
# At first whole, in the order of the key, then row by row as they are noted. What a row names is there before it.
TABLES = (
    INSTITUTIONS,
    Table("api_keys"),
    INSTITUTION_KEYS,
    HOLDERS,
    TEMPLATES,
    ASSETS,
    POLICIES,
    Table("webhook_endpoints"),
    Table("webhook_secrets", order="ends_at IS NULL", vanishing=True, sealed=True),
    DELIVERIES,
    AUDIT,
    ANCHORS,
    TRANSACTIONS,
    RECORDS,
)
# Nothing is ever inserted but behind the last row.
CHECKPOINTS = Table("checkpoints", (("size", "bigint"),), owner=None, blind=True)
SEALS = Table("audit_seals", (("number", "bigint"),), owner=None, blind=True)
GROWING = (CHECKPOINTS, SEALS)
# Few rows, compared as a whole.
DOCUMENTS = Table("documents", (("hash", "text"),), owner=None, vanishing=True, blind=True)
# Written with its event and copied with it; afterwards it can only be erased.
PERSONAL = Table("personal_data", (("institution_id", "text"), ("event_id", "text")))
# What is gone through before a copy is whole: these tables row by row, and what the copy keeps of personal values.
SEEDED = (*TABLES, PERSONAL)
PERSONAL_PARTS = ("holder", "reason", "metadata")
# What else a database holds, and how it comes to the mirror.
OTHERWISE: Mapping[str, str] = {
    "ledger_events": "page by page in global order, each hash computed anew",
    "personal_data": "with its event; erasures follow",
    "positions": "derived from the events, as the ledger's writer derives them",
    "ledger_head": "moves with the events; the ledger's id is taken over, the database's own identity is not",
    "institution_heads": "move with the events",
    "epochs": "with the first page after they were raised",
    "checkpoints": "as far as the events have come",
    "audit_seals": "in the order of their numbers",
    "documents": "as a whole, whenever they differ",
    "followers": "each cursor, at most as far as the events have come; the mirror's own is not copied",
    "parked_events": "with the cursors, and no further than they",
    "leases": "not at all: they belong to running processes",
    "mirror_queue": "not at all: it is what waits to be copied",
    "mirror_copy": "not at all: it is the copy's own",
    "master_keys": "not at all: what is sealed names the key that opens it",
    "rate_buckets": "not at all: a bucket without a row is full",
    "anchor_tree": "not at all: it is grown anew from the events",
    "anchor_nodes": "not at all: they are grown anew from the events",
    "anchor_chains": "not at all: the chain is looked at anew",
    "alembic_version": "not at all: both sides are migrated, and compared by it",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it travels: its key, whose it is, and all of it as JSON text."""

    key: tuple[str, ...]
    owner: str | None
    text: str
    # It stands on events that the copy does not have yet.
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Heads:
    """The end of the ledger as a database has it: for each institution the last sequence and its hash."""

    log_id: str
    global_sequence: int
    chains: Mapping[str, tuple[int, bytes]] = field(repr=False)

    @property
    def digest(self) -> str:
        """One short word for all of it: equal on both sides when the ledgers are."""
        hashed = sha256(f"{self.log_id}:{self.global_sequence}".encode())
        for institution_id, (sequence, last) in sorted(self.chains.items()):
            if sequence:
                hashed.update(f":{institution_id}:{sequence}:".encode() + last)
        return hashed.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ledger and its mirror side by side. `differs` names what the mirror has otherwise, None when nothing."""

    ledger: Heads
    mirror: Heads
    differs: str | None
    waiting: int
    is_seeded: bool

    @property
    def lag(self) -> int:
        """How many events the mirror is behind."""
        return self.ledger.global_sequence - self.mirror.global_sequence

    @property
    def is_level(self) -> bool:
        """Whether the mirror could take over now without losing anything."""
        equal = self.differs is None and self.ledger.digest == self.mirror.digest
        return equal and self.waiting == 0 and self.is_seeded
