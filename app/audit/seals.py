"""The audit's own chain: each seal binds rows, in the order of their time, to the seal before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.kit.canonical import Json, canonical_json, micros
from app.kit.chain import GENESIS, digest, link
from app.storage.database import Named

ROW_TAG = b"escrowgrid.audit.row.1"
SEAL_TAG = b"escrowgrid.audit.seal.1"
SIGNED_TAG = b"escrowgrid.audit.signed.1"

# What a row's hash covers: all of it.
TEXTS = (
    "id",
    "institution_id",
    "actor_id",
    "actor_role",
    "operation",
    "action",
    "resource_type",
    "resource_id",
    "outcome",
    "code",
    "request_id",
    "client_address",
)
ROW_COLUMNS = (*TEXTS, "payload", "occurred_at", "arrived_at")
SEAL_COLUMNS = (
    "number",
    "late",
    "starts_at",
    "starts_id",
    "ends_at",
    "ends_id",
    "ids",
    "hashes",
    "sealed_at",
    "caught_up_to",
    "previous_hash",
    "hash",
    "public_key",
    "signature",
)

# Where a row stands in time: when it occurred, and its id.
Place = tuple[datetime, str]


@dataclass(frozen=True, slots=True)
class Row:
    """As much of an audit row as a seal takes."""

    place: Place
    arrived_at: datetime | None
    hash: bytes

    @property
    def id(self) -> str:
        """The row's id."""
        return self.place[1]

    @classmethod
    def of(cls, record: Named) -> "Row":
        """The row that a record of ROW_COLUMNS spells."""
        return cls((record["occurred_at"], record["id"]), record["arrived_at"], row_hash(record))


@dataclass(frozen=True, slots=True)
class Seal:
    """Rows bound together. Those of a regular seal are all that there were after the one before, up to `end`.

    A late one has rows that came behind that; all that had come until `caught_up_to` are sealed.
    """

    number: int
    late: bool
    start: Place
    end: Place
    ids: tuple[str, ...]
    hashes: tuple[bytes, ...]
    sealed_at: datetime
    caught_up_to: datetime
    previous_hash: bytes

    @property
    def hash(self) -> bytes:
        """What the next seal hangs on."""
        fields: dict[str, Json] = {
            "number": self.number,
            "late": self.late,
            "start": [micros(self.start[0]), self.start[1]],
            "end": [micros(self.end[0]), self.end[1]],
            "ids": self.ids,
            "hashes": [one.hex() for one in self.hashes],
            "sealedAt": micros(self.sealed_at),
            "caughtUpTo": micros(self.caught_up_to),
        }
        return link(SEAL_TAG, self.previous_hash, canonical_json(fields).encode())

    @property
    def statement(self) -> bytes:
        """The bytes that are signed."""
        return SIGNED_TAG + self.hash


def row_hash(record: Named) -> bytes:
    """sha256(tag ‖ RFC 8785 text of every column)."""
    arrived = record["arrived_at"]
    fields: dict[str, Json] = {name: record[name] for name in TEXTS}
    fields |= {
        "payload": record["payload"],
        "occurred_at": micros(record["occurred_at"]),
        "arrived_at": None if arrived is None else micros(arrived),
    }
    return digest(ROW_TAG + canonical_json(fields).encode())


def seal_of(record: Named) -> Seal:
    """The seal that a record of SEAL_COLUMNS spells; its hash is computed, not read."""
    return Seal(
        number=record["number"],
        late=record["late"],
        start=(record["starts_at"], record["starts_id"]),
        end=(record["ends_at"], record["ends_id"]),
        ids=tuple(record["ids"]),
        hashes=tuple(record["hashes"]),
        sealed_at=record["sealed_at"],
        caught_up_to=record["caught_up_to"],
        previous_hash=record["previous_hash"],
    )


def next_seal(
    previous: Seal | None, rows: Sequence[Row], *, late: bool, sealed_at: datetime, caught_up_to: datetime
) -> Seal:
    """The seal over these rows, which are in the order of time and at least one."""
    return Seal(
        number=1 if previous is None else previous.number + 1,
        late=late,
        start=rows[0].place,
        end=rows[-1].place,
        ids=tuple(row.id for row in rows),
        hashes=tuple(row.hash for row in rows),
        sealed_at=sealed_at,
        caught_up_to=caught_up_to,
        previous_hash=GENESIS if previous is None else previous.hash,
    )
