"""How anchoring stands, in the numbers that an operator wants to see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.anchoring.model import Account, Anchor
from app.anchoring.outbox import COLUMNS, anchor_of
from app.storage.database import Driver

CHAINS = """
SELECT chain_id, contract, account, balance, balance_low, block_number, failure, answered_at, checked_at
FROM anchor_chains ORDER BY chain_id, contract
"""
STATES = "SELECT state, count(*) AS n FROM anchors GROUP BY state"
SIZES = """
WITH present AS (
  SELECT a.* FROM anchors a JOIN (SELECT chain_id, contract FROM anchors ORDER BY number DESC LIMIT 1) n
    USING (chain_id, contract)
  WHERE a.mode = 'ANCHOR'
)
SELECT h.global_sequence AS ledger, t.size AS tree,
  (SELECT coalesce(max(size), 0) FROM present WHERE state IN ('MINED', 'FINAL')) AS mined,
  (SELECT coalesce(max(size), 0) FROM present WHERE state = 'FINAL') AS final
FROM ledger_head h CROSS JOIN anchor_tree t
"""
RECORDS = """
SELECT (SELECT coalesce(sum(count), 0) FROM anchors WHERE mode = 'RECORD' AND state <> 'SUPERSEDED') AS taken,
  (SELECT count(*) FROM anchor_records WHERE anchor_id IS NULL AND skipped IS NULL) AS waiting,
  (SELECT count(*) FROM anchor_records WHERE skipped IS NOT NULL) AS skipped
"""
REASONS = """
SELECT skipped, count(*) AS n FROM anchor_records WHERE skipped IS NOT NULL GROUP BY skipped ORDER BY n DESC LIMIT 10
"""
COUNTS = "SELECT coalesce(sum(reorgs), 0) AS reorgs, coalesce(sum(reverts), 0) AS reverts FROM anchors"
UNSETTLED = f"""
SELECT {COLUMNS} FROM anchors WHERE state <> 'FINAL' AND state <> 'SUPERSEDED' ORDER BY number LIMIT 20
"""
# Each change has a revision of its own.
RETRY = """
UPDATE anchors a SET state = 'PENDING', reverts = 0, revision = n.revision
FROM (SELECT id, (SELECT max(revision) FROM anchors) + row_number() OVER (ORDER BY number) AS revision
      FROM anchors WHERE state = 'FAILED') n
WHERE a.id = n.id
"""
OLDEST = """
SELECT recorded_at FROM ledger_events WHERE global_sequence = $1 + 1
"""


@dataclass(frozen=True, slots=True)
class Status:
    """How everything stands; the sizes are numbers of events."""

    chains: Sequence[Account]
    states: Mapping[str, int]
    ledger: int
    tree: int
    mined: int
    final: int
    # Since when the oldest event that is in no final anchor waits.
    waiting_since: datetime | None
    recorded: int
    to_record: int
    skipped: int
    reasons: Mapping[str, int]
    reorgs: int
    reverts: int
    unsettled: Sequence[Anchor]


async def read(driver: Driver) -> Status:
    """As the feed role."""
    sizes, taken = await driver.fetchrow(SIZES), await driver.fetchrow(RECORDS)
    counts = await driver.fetchrow(COUNTS)
    assert sizes is not None, "one row each"
    assert taken is not None, "one row each"
    assert counts is not None, "one row each"
    return Status(
        chains=[Account(**dict(row)) for row in await driver.fetch(CHAINS)],
        states={row["state"]: row["n"] for row in await driver.fetch(STATES)},
        ledger=sizes["ledger"],
        tree=sizes["tree"],
        mined=sizes["mined"],
        final=sizes["final"],
        waiting_since=await driver.fetchval(OLDEST, sizes["final"]),
        recorded=int(taken["taken"]),
        to_record=taken["waiting"],
        skipped=taken["skipped"],
        reasons={row["skipped"]: row["n"] for row in await driver.fetch(REASONS)},
        reorgs=int(counts["reorgs"]),
        reverts=int(counts["reverts"]),
        unsettled=[anchor_of(row) for row in await driver.fetch(UNSETTLED)],
    )


async def retry(driver: Driver) -> int:
    """Have what failed tried again, as the writer role; returns how many."""
    return int((await driver.execute(RETRY)).rpartition(" ")[2])
