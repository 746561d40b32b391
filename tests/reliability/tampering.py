"""A superuser changes the database under the ledger; `escrowgrid verify` finds every change and names its row."""

import random
from collections.abc import Sequence

import asyncpg

from app.ledger.checkpoints import Checkpoint
from app.ledger.signer import SigningKeys
from app.positions.escrow import BUILT_IN
from app.storage.database import Address
from app.verify import guards
from app.verify.findings import Report
from app.verify.walk import verify
from tests.reliability import changes
from tests.reliability.changes import CANNOT_SHOW, Change
from tests.reliability.ledger_to_tamper import COVERED, Evidence, undo
from tests.reliability.tally import Limit, Tally


def apart_from_guards(report: Report) -> Report:
    """A superuser has to take the guards away before he changes anything; every report would say so."""
    others = [finding for finding in report.findings if finding.table != guards.TABLE]
    report.total -= len(report.findings) - len(others)
    report.findings = others
    return report


class Inspector:
    """Runs verify on one database and holds it to what was done there."""

    def __init__(self, address: Address, evidence: Evidence, tally: Tally) -> None:
        self._address = address
        self.evidence = evidence
        self._tally = tally

    async def report(self, kept: Sequence[Checkpoint] = ()) -> Report:
        key = self.evidence.signer.public_key
        report = await verify(
            self._address.direct_url,
            BUILT_IN,
            masters=self.evidence.masters,
            keys=SigningKeys(key),
            kept=kept,
        )
        return apart_from_guards(report)

    async def clean(self, after: str) -> None:
        report = await self.report()
        self._tally.require(report.is_clean, f"after {after}: {report.findings[:3]}")

    async def finds(
        self, what: str, tables: Sequence[str], rows: set[str], kept: Sequence[Checkpoint] = ()
    ) -> None:
        """It is found, and one of the findings names the place."""
        self._tally.reached += 1
        try:
            report = await self.report(kept)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody was told where to look
            self._tally.violate(f"verify fell over: {what}: {type(error).__name__}: {error}")
            return
        if report.is_clean:
            self._tally.violate(f"not found: {what}")
        elif not any(one.table in tables and one.row in rows for one in report.findings):
            told = [(one.table, one.row) for one in report.findings[:4]]
            self._tally.violate(f"not located: {what}: expected {tables} {sorted(rows)[:3]}, was told {told}")


async def every_column(
    tally: Tally, limit: Limit, owner: asyncpg.Connection, inspector: Inspector, *, rows: int
) -> None:
    """Each column of each covered table, each way, in some of its rows."""
    wanted = await changes.every_change(owner)
    columns = {(change.table, change.column) for change in wanted}
    tally.notes["columns"] = str(len(columns))
    assert {table for table, _column in columns} == set(COVERED)
    assert set(CANNOT_SHOW) <= columns, "an exception for a column that is not there"
    shown: set[tuple[str, str]] = set()
    for change in wanted:
        if (change.table, change.column) in CANNOT_SHOW or not limit.more(tally.reached):
            continue
        if await _in_some_rows(owner, inspector, change, rows):
            shown.add((change.table, change.column))
    if limit.more(tally.reached):
        left = columns - shown - set(CANNOT_SHOW)
        tally.require(not left, f"never changed: {sorted(left)}")


async def _in_some_rows(owner: asyncpg.Connection, inspector: Inspector, change: Change, rows: int) -> bool:
    """First, last, and others by chance, until as many as wanted were really changed."""
    places = await changes.places(owner, change.table)
    ends = [places[0], places[-1]]
    others = [place for place in places[1:-1] if place not in ends]
    done = 0
    shuffled = random.sample(others, len(others))
    for place in dict.fromkeys([*ends, *shuffled] if rows > 1 else random.sample(places, len(places))):
        named = await changes.apply(owner, change, place)
        if named:
            await inspector.finds(f"{change} in {place}", [change.table], named)
            await undo(owner, change.table)
            done += 1
        if done >= rows:
            break
    return done > 0
