"""The shared buckets. They lie in an UNLOGGED table: after a crash all are full, which harms nobody."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.storage.database import Driver

LEASE = """
SELECT bucket, granted, remaining
FROM escrowgrid_lease_tokens($1::text[], $2::float8[], $3::float8[], $4::float8[])
"""
# A bucket that is full is as good as none.
FORGET = "DELETE FROM rate_buckets WHERE full_at < clock_timestamp() - interval '1 minute'"


@dataclass(frozen=True, slots=True)
class Ask:
    """How much is wanted of a bucket; less than nothing gives back."""

    name: str
    wanted: float
    capacity: float
    refill: float


async def lease(connection: Driver, asks: Sequence[Ask]) -> dict[str, tuple[float, float]]:
    """Take from several buckets what is wanted, or what there is: by name (granted, remaining)."""
    columns = zip(*((ask.name, ask.wanted, ask.capacity, ask.refill) for ask in asks), strict=True)
    rows = await connection.fetch(LEASE, *map(list, columns))
    return {row["bucket"]: (row["granted"], row["remaining"]) for row in rows}


async def forget_full(connection: Driver) -> None:
    """Drop the rows of buckets that have been full for a while."""
    await connection.execute(FORGET)
