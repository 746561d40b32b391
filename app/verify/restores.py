"""Tells what a restore took away from what somebody cut off."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.ledger.checkpoints import Checkpoint
from app.storage.database import Driver

READ = (
    "SELECT epoch, starts_after, reason, raised_at FROM epochs WHERE scope = '*' AND epoch > 1 ORDER BY epoch"
)


@dataclass(frozen=True, slots=True)
class Restore:
    """An epoch that began: what the ledger had beyond event `starts_after` is not in it any more."""

    epoch: int
    starts_after: int
    reason: str
    raised_at: datetime


async def read(connection: Driver) -> Sequence[Restore]:
    """Every epoch that followed another, as the feed role."""
    return [Restore(**dict(row)) for row in await connection.fetch(READ)]


def told(restores: Sequence[Restore], checkpoint: Checkpoint) -> str:
    """Which restore took events away that the checkpoint covers, to follow a finding; empty when none did.

    It was signed before, and it covers more than was left.
    """
    for one in restores:
        if one.starts_after < checkpoint.size and one.raised_at > checkpoint.signed_at:
            when = one.raised_at.isoformat(timespec="seconds")
            began = f"epoch {one.epoch} began behind event {one.starts_after} at {when} ({one.reason})"
            return f": {began}; what was signed beyond is lost"
    return ""
