"""Epochs, against the events that they say they started after."""

from collections import defaultdict

from app.principal import ALL_INSTITUTIONS
from app.storage.database import Driver, Named
from app.verify.findings import Report

TABLE = "epochs"

READ = "SELECT epoch, scope, starts_after, raised_at FROM epochs ORDER BY epoch, scope"
# Where each institution stood when the global order had come so far.
STOOD = """
SELECT institution_id, max(sequence) AS sequence FROM ledger_events WHERE global_sequence <= $1 GROUP BY 1
"""


async def check(connection: Driver, head: int, report: Report) -> None:
    """Numbers without a gap, starts that fit together and lie within the ledger."""
    epochs: dict[int, dict[str, Named]] = defaultdict(dict)
    for row in await connection.fetch(READ):
        epochs[row["epoch"]][row["scope"]] = row
    last = 0
    for number, (epoch, scopes) in enumerate(sorted(epochs.items()), start=1):
        report.looked_at[TABLE] += 1
        everything = scopes.get(ALL_INSTITUTIONS)
        if epoch != number or everything is None:
            report.add(TABLE, epoch, f"follows {number - 1}, or says nothing of the whole ledger")
            continue
        start = everything["starts_after"]
        if (epoch == 1 and start != 0) or not last <= start <= head:
            report.add(TABLE, epoch, f"starts after {start}, where no epoch of this ledger could")
        if epoch > 1:
            await _check_scopes(connection, epoch, scopes, report)
        last = max(last, start)
    if not epochs:
        report.add(TABLE, 1, "is missing: a ledger begins with it")


async def _check_scopes(connection: Driver, epoch: int, scopes: dict[str, Named], report: Report) -> None:
    start = scopes[ALL_INSTITUTIONS]["starts_after"]
    stood = {row["institution_id"]: row["sequence"] for row in await connection.fetch(STOOD, start)}
    said = {scope: row["starts_after"] for scope, row in scopes.items() if scope != ALL_INSTITUTIONS}
    for scope in sorted(stood.keys() | said.keys()):
        # An institution without events has a row that says 0, or none, being younger.
        if stood.get(scope, 0) != said.get(scope, 0):
            report.add(TABLE, f"{epoch} {scope}", f"does not start where {scope} stood after event {start}")
