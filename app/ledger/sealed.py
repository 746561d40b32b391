"""Rows of the side table: each personal value sealed together with the salt of its commitment."""

from collections.abc import Mapping, Sequence

from app.kit.canonical import canonical_json, parse_json
from app.kit.chain import SALT_BYTES
from app.ledger.model import Personal, Salts
from app.personal.sealing import Envelope, Holder, seal, value_place
from app.personal.service import Holders
from app.storage.database import Driver, Named

PARTS = ("holder", "reason", "metadata")
NOTHING = Personal()
NO_SALTS = Salts(None, None, None)

INSERT = """
INSERT INTO personal_data (institution_id, event_id, position_id, holder_id, holder, reason, metadata)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::bytea[])
"""
SELECT = """
SELECT p.institution_id, p.event_id, p.holder_id, p.holder, p.reason, p.metadata, h.reference, h.data_key
FROM personal_data p LEFT JOIN holders h ON h.institution_id = p.institution_id AND h.id = p.holder_id
"""
OF_EVENTS = f"{SELECT} WHERE p.event_id = ANY($1::text[])"
OF_EVENTS_WITHIN = f"{OF_EVENTS} AND p.institution_id = ANY($2::text[])"

Row = tuple[str, str, str, str, bytes | None, bytes | None, bytes | None]
Opened = tuple[Personal, Salts]


def row_of(
    holder: Holder,
    place: tuple[str, str, str],
    personal: Personal,
    salts: Salts,
) -> Row:
    """The row of an event; `place` is its institution, its id and its position's."""
    institution_id, event_id, _position_id = place
    metadata = None if personal.metadata is None else canonical_json(personal.metadata)
    values = (personal.holder_reference, personal.reason, metadata)
    kept = (salts.holder, salts.reason, salts.metadata)
    sealed = [
        None
        if value is None or salt is None
        else seal(holder.cipher, salt + value.encode(), value_place(institution_id, event_id, part))
        for part, value, salt in zip(PARTS, values, kept, strict=True)
    ]
    return (*place, holder.id, sealed[0], sealed[1], sealed[2])


async def insert(driver: Driver, rows: Sequence[Row]) -> None:
    """Write them in the caller's transaction."""
    await driver.execute(INSERT, *(list(column) for column in zip(*rows, strict=True)))


async def fetch(
    driver: Driver, holders: Holders, event_ids: Sequence[str], institution_ids: Sequence[str] | None = None
) -> Mapping[str, Opened]:
    """The personal values of events with their salts, of the institutions named; nothing of what was erased."""
    rows = await (
        driver.fetch(OF_EVENTS, list(event_ids))
        if institution_ids is None
        else driver.fetch(OF_EVENTS_WITHIN, list(event_ids), list(institution_ids))
    )
    await holders.ready(driver, {row["institution_id"] for row in rows})
    return {row["event_id"]: opened(holders, row, envelope_of(row)) for row in rows}


def envelope_of(row: Named) -> Envelope:
    """The holder that a row of `SELECT` names."""
    return Envelope(row["institution_id"], row["holder_id"], row["reference"], row["data_key"])


def opened(holders: Holders, row: Named, envelope: Envelope) -> Opened:
    """What a row keeps; the institution's key has to be ready. Raises `CannotOpen`."""
    found = [holders.unseal(envelope, row["event_id"], part, row[part]) for part in PARTS]
    salts = [None if one is None else one[:SALT_BYTES] for one in found]
    texts = [None if one is None else one[SALT_BYTES:].decode() for one in found]
    metadata = None if texts[2] is None else parse_json(texts[2])
    assert metadata is None or isinstance(metadata, Mapping), "metadata is an object"
    return Personal(texts[0], texts[1], metadata), Salts(salts[0], salts[1], salts[2])
