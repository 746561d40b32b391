"""The audit's seals: every link, every row they bind, and no row between them that they do not."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.audit.seals import ROW_COLUMNS, SEAL_COLUMNS, Place, Row, Seal, seal_of
from app.kit.canonical import NotCanonical
from app.kit.chain import GENESIS
from app.ledger.signer import SigningKeys
from app.storage.database import Driver
from app.verify.findings import Report

SEALS_AT_ONCE = 50
ROWS_PREFETCH = 1_000
# No server holds back a row for longer: one that claims to be older was put there.
LATE_MAX = timedelta(days=1)
EVENTS, SEALS = "audit_events", "audit_seals"
BEFORE_ALL: Place = (datetime(1, 1, 1, tzinfo=UTC), "")

NEXT = f"SELECT {', '.join(SEAL_COLUMNS)} FROM audit_seals WHERE number > $1 ORDER BY number LIMIT {SEALS_AT_ONCE}"
BETWEEN = f"""
SELECT {", ".join(ROW_COLUMNS)} FROM audit_events
WHERE (occurred_at, id) > ($1, $2) AND (occurred_at, id) <= ($3, $4) ORDER BY occurred_at, id
"""
AS_FEED = "SELECT set_config('role', 'escrowgrid_feed', true)"
# The feed does not read the audit.
AS_READER = "SELECT set_config('role', 'escrowgrid_api', true), set_config('escrowgrid.scope', '*', true)"


async def check(connection: Driver, report: Report, keys: SigningKeys) -> None:
    """Judge every seal and every row up to the last of them, within the caller's transaction."""
    await _Seals(connection, report, keys).run()


class _Seals:
    """Where the walk along the seals stands."""

    def __init__(self, connection: Driver, report: Report, keys: SigningKeys) -> None:
        self._connection = connection
        self._report = report
        self._keys = keys
        self._number, self._hash = 0, GENESIS
        self._end = BEFORE_ALL
        # Rows in a sealed span that its seal does not name, and what late seals say of such rows.
        self._unnamed: dict[str, Row] = {}
        self._late: dict[str, tuple[bytes, datetime]] = {}

    async def run(self) -> None:
        """All of them, in order."""
        while found := await self._next():
            await self._connection.execute(AS_READER)
            for record in found:
                seal = seal_of(record)
                self._check_link(seal, record)
                if seal.late:
                    self._late |= {
                        name: (hashed, seal.sealed_at)
                        for name, hashed in zip(seal.ids, seal.hashes, strict=True)
                    }
                else:
                    await self._check_rows(seal)
                self._report.looked_at[SEALS] += 1
        self._check_late()

    async def _next(self) -> Sequence[asyncpg.Record]:
        await self._connection.execute(AS_FEED)
        found: Sequence[asyncpg.Record] = await self._connection.fetch(NEXT, self._number)
        return found

    def _check_link(self, seal: Seal, record: asyncpg.Record) -> None:
        if seal.number != self._number + 1:
            self._report.add(SEALS, seal.number, f"follows {self._number}: there is a gap")
        if seal.previous_hash != self._hash:
            self._report.add(SEALS, seal.number, f"does not hang on the seal {self._number}")
        if seal.hash != record["hash"]:
            self._report.add(SEALS, seal.number, "its hash does not seal its contents: a column was changed")
        key = self._keys.judging(record["public_key"], seal.sealed_at)
        if not _is_signed(key, record["signature"], seal.statement):
            self._report.add(SEALS, seal.number, "its signature is not the ledger's")
        if not seal.late and seal.start <= self._end:
            self._report.add(SEALS, seal.number, "begins before the seal before it ends")
        self._number, self._hash = seal.number, record["hash"]

    async def _check_rows(self, seal: Seal) -> None:
        due = dict(zip(seal.ids, seal.hashes, strict=True))
        async for row in self._between(self._end, seal.end):
            self._report.looked_at[EVENTS] += 1
            if row.id not in due:
                self._unnamed[row.id] = row
            elif due.pop(row.id) != row.hash:
                self._report.add(EVENTS, row.id, f"is not as the seal {seal.number} has it: it was changed")
        for missing in due:
            self._report.add(EVENTS, missing, f"is missing, though the seal {seal.number} has it")
        self._end = max(self._end, seal.end)

    async def _between(self, start: Place, end: Place) -> AsyncIterator[Row]:
        async for record in self._connection.cursor(BETWEEN, *start, *end, prefetch=ROWS_PREFETCH):
            try:
                yield Row.of(record)
            except (NotCanonical, AttributeError, TypeError):
                # What cannot even be spelled was not written by a server: its hash is no seal's.
                yield Row((record["occurred_at"], record["id"]), record["arrived_at"], b"")

    def _check_late(self) -> None:
        for name, (hashed, sealed_at) in self._late.items():
            row = self._unnamed.pop(name, None)
            if row is None:
                self._report.add(EVENTS, name, "is missing, though it was sealed late")
                continue
            self._report.looked_at[f"{EVENTS} sealed late"] += 1
            if row.hash != hashed:
                self._report.add(EVENTS, name, "is not as it was sealed late: it was changed")
            if sealed_at - row.place[0] > LATE_MAX:
                self._report.add(EVENTS, name, "came long after it says it happened: it was inserted")
        for name in self._unnamed:
            self._report.add(
                EVENTS, name, "no seal has it: it was inserted, or came late and waits for the next seal"
            )


def _is_signed(public_key: bytes, signature: bytes, content: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True
