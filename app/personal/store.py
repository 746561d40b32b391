"""The tables of holders and of the keys above theirs, and their SQL."""

from collections.abc import Sequence

from sqlalchemy import Column, LargeBinary, Table

from app.personal.sealing import Envelope
from app.storage.database import Driver, Named
from app.storage.tables import Id, Moment, Word, metadata

master_keys = Table(
    "master_keys",
    metadata,
    Column("id", Word, primary_key=True),
    Column("noted_at", Moment, nullable=False),
)
institution_keys = Table(
    "institution_keys",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("master_id", Word, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)
holders = Table(
    "holders",
    metadata,
    Column("institution_id", Id, primary_key=True),
    Column("id", Id, primary_key=True),
    Column("blind", LargeBinary),
    Column("reference", LargeBinary),
    Column("data_key", LargeBinary),
    Column("erased_at", Moment),
)

INSTITUTION_KEYS = """
SELECT institution_id, master_id, sealed FROM institution_keys WHERE institution_id = ANY($1::text[])
"""
ALL_INSTITUTION_KEYS = """
SELECT institution_id, master_id, sealed FROM institution_keys ORDER BY institution_id LIMIT $1
"""
# In one order everywhere, so that two batches that make the same rows do not wait for each other.
ADD_INSTITUTION_KEYS = """
INSERT INTO institution_keys (institution_id, master_id, sealed)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) ORDER BY 1 ON CONFLICT (institution_id) DO NOTHING
"""
RESEAL = "UPDATE institution_keys SET master_id = $2, sealed = $3 WHERE institution_id = $1 AND sealed = $4"
FIND = """
SELECT h.institution_id, h.blind, h.id, h.data_key FROM holders h
JOIN unnest($1::text[], $2::bytea[]) AS n (institution_id, blind)
  ON h.institution_id = n.institution_id AND h.blind = n.blind
"""
ADD = """
INSERT INTO holders (institution_id, blind, id, reference, data_key)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::bytea[], $5::bytea[]) ORDER BY 1, 2
ON CONFLICT (blind, institution_id) DO NOTHING RETURNING institution_id, blind, id, data_key
"""
BY_ID = """
SELECT h.institution_id, h.id, h.reference, h.data_key FROM holders h
JOIN unnest($1::text[], $2::text[]) AS n (institution_id, id)
  ON h.institution_id = n.institution_id AND h.id = n.id
"""
LOCK = "SELECT id FROM holders WHERE institution_id = $1 AND blind = $2 FOR UPDATE"
ERASE = """
UPDATE holders SET blind = NULL, reference = NULL, data_key = NULL, erased_at = clock_timestamp()
WHERE institution_id = $1 AND id = $2
"""
ERASE_VALUES = "SELECT escrowgrid_erase_holder($1, $2)"
MASTERS_NEEDED = "SELECT DISTINCT master_id AS id FROM institution_keys ORDER BY 1"
MASTERS_NOTED = "SELECT id FROM master_keys ORDER BY 1"
LOCK_MASTERS = "SELECT pg_advisory_xact_lock(hashtext('escrowgrid master keys'))"
NOTE_MASTER = "INSERT INTO master_keys (id) VALUES ($1) ON CONFLICT DO NOTHING"


async def fetch_institution_keys(driver: Driver, ids: Sequence[str]) -> Sequence[Named]:
    """The sealed secrets of institutions, as far as there are any."""
    return await driver.fetch(INSTITUTION_KEYS, list(ids))


async def find(driver: Driver, pairs: Sequence[tuple[str, bytes]]) -> Sequence[Named]:
    """Holders by (institution, blind index)."""
    return await driver.fetch(FIND, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


async def fetch(driver: Driver, pairs: Sequence[tuple[str, str]]) -> Sequence[Envelope]:
    """Holders by (institution, id)."""
    rows = await driver.fetch(BY_ID, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    return [Envelope(row["institution_id"], row["id"], row["reference"], row["data_key"]) for row in rows]


async def erase(driver: Driver, institution_id: str, blind: bytes) -> tuple[str, int] | None:
    """Destroy a holder's key and all that it sealed; their id and how many values went, None where nobody is."""
    holder_id = await driver.fetchval(LOCK, institution_id, blind)
    if holder_id is None:
        return None
    await driver.execute(ERASE, institution_id, holder_id)
    return holder_id, await driver.fetchval(ERASE_VALUES, institution_id, holder_id)
