"""By which keys checkpoints and seals were signed, as they say it themselves."""

from dataclasses import dataclass
from datetime import datetime

from app.storage.database import Driver

SIGNED_BY = """
SELECT public_key, min(signed_at) AS since, max(signed_at) AS until, count(*) FROM (
  SELECT public_key, signed_at FROM checkpoints UNION ALL SELECT public_key, sealed_at FROM audit_seals
) AS signed
GROUP BY public_key ORDER BY since
"""


@dataclass(frozen=True, slots=True)
class SignedBy:
    """What one key has signed."""

    public_key: bytes
    since: datetime
    until: datetime
    count: int


async def signed_by(driver: Driver) -> list[SignedBy]:
    """Every key that one of them names, the first one first, as the feed role."""
    return [SignedBy(**dict(row)) for row in await driver.fetch(SIGNED_BY)]
