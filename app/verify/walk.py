"""Walks a ledger in one snapshot of the database and reports what does not hold."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import asyncpg

from app.kit.chain import GENESIS
from app.kit.merkle import CompactRange
from app.ledger.checkpoints import Checkpoint, checkpoint_of
from app.ledger.keeper import Keeper
from app.ledger.model import Event
from app.ledger.signer import SigningKeys
from app.ledger.store import SELECT_EVENTS, event_of
from app.personal.masters import Masters
from app.personal.service import Holders
from app.positions.rows import COLUMNS, position_of
from app.storage.database import Driver, Named, exact_json
from app.verify import audit, epochs, guards, restores, rows
from app.verify.chain import Chain
from app.verify.findings import Report
from app.verify.fold import Fold, Lifecycles
from app.verify.persons import Persons

PREFETCH = 1_000
NO_KEYS = SigningKeys()
UNCOVERED = "events no checkpoint covers"
# What a value raises that no writer wrote, whatever tries to understand it.
UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
HEAD = """
SELECT log_id, singleton, global_sequence, recorded_at, system_identifier, written_by,
       (SELECT system_identifier FROM pg_control_system()) AS here FROM ledger_head
"""
COUNTS = """
SELECT count(*) AS events, coalesce(min(global_sequence), 1) AS first, coalesce(max(global_sequence), 0) AS last,
       max(recorded_at) AS recorded_at
FROM ledger_events
"""
INSTITUTIONS = """
SELECT named.id, i.id IS NOT NULL AS known FROM (
  SELECT id FROM institutions UNION SELECT institution_id FROM institution_heads
  UNION SELECT institution_id FROM positions UNION SELECT institution_id FROM personal_data
  UNION SELECT institution_id FROM holders UNION SELECT institution_id FROM institution_keys
  UNION SELECT DISTINCT institution_id FROM ledger_events
) AS named LEFT JOIN institutions i ON i.id = named.id ORDER BY 1
"""
EVENTS = f"{SELECT_EVENTS} WHERE institution_id = $1 ORDER BY sequence"
CHAIN_HEAD = "SELECT sequence, hash FROM institution_heads WHERE institution_id = $1"
# The keys that the database generates, for indexes, follow from other columns.
POSITIONS = f"""
SELECT {", ".join(COLUMNS)}, amount_key, expires_key = coalesce(expires_at, 'infinity') AS expires_key_follows
FROM positions WHERE institution_id = $1 ORDER BY id
"""
TEMPLATES = "SELECT id FROM asset_templates WHERE institution_id = $1"
ASSETS = "SELECT id, template_id FROM assets WHERE institution_id = $1"
POLICIES = "SELECT id FROM policies WHERE institution_id = $1"
LEAVES = "SELECT global_sequence, hash FROM ledger_events ORDER BY global_sequence"
CHECKPOINTS = """
SELECT log_id, size, root, frontier, signed_at, public_key, signature FROM checkpoints ORDER BY size
"""
Progress = Callable[[int, int], None]


async def verify(
    url: str,
    lifecycles: Lifecycles,
    *,
    masters: Masters | None = None,
    progress: Progress = lambda _done, _all: None,
    keys: SigningKeys = NO_KEYS,
    kept: Sequence[Checkpoint] = (),
    last: Mapping[str, Checkpoint] = MappingProxyType({}),
) -> Report:
    """Everything that can be proved from the database, and from checkpoints kept elsewhere.

    Without `masters`, the master keys, personal values are not opened: nothing is said of what they are.
    `keys` are those that must have signed the checkpoints; without one in force each is judged by the key it names.
    `last` is what was signed last on this machine, by the ledger's id; it says nothing about a mirror, which is behind.
    `progress` is told how many of how many events have been walked.
    """
    connection = await asyncpg.connect(url)
    try:
        await exact_json(connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute("SET LOCAL ROLE escrowgrid_feed")
            holders = None if masters is None else Holders(masters)
            report = await _Walk(connection, lifecycles, progress, holders).run(keys, kept, last)
            await guards.check(connection, report)
            await audit.check(connection, report, keys)
            return report
    finally:
        await connection.close()


class _Walk:
    def __init__(
        self, connection: Driver, lifecycles: Lifecycles, progress: Progress, holders: Holders | None
    ) -> None:
        self._connection = connection
        self._lifecycles = lifecycles
        self._progress = progress
        self._report = Report()
        self._persons = Persons(connection, holders, self._report, self._reading)
        self._restores: Sequence[restores.Restore] = ()
        self._log_id, self._place, self._keeper = "", 0, ""
        self._all = 0

    async def run(
        self, keys: SigningKeys, kept: Sequence[Checkpoint], last: Mapping[str, Checkpoint]
    ) -> Report:
        await self._check_head()
        await epochs.check(self._connection, self._all, self._report)
        if self._log_id in last and self._keeper != Keeper.MIRROR:
            kept = [*kept, last[self._log_id]]
        for record in await self._connection.fetch(INSTITUTIONS):
            if not record["known"]:
                self._report.add("institution_heads", record["id"], "there is no such institution")
            await self._walk_institution(record["id"])
        await self._check_checkpoints(keys, kept)
        return self._report

    async def _check_head(self) -> None:
        report, counts = self._report, await self._one(COUNTS)
        self._all = counts["events"]
        if counts["first"] != 1 or counts["events"] != counts["last"]:
            report.add("ledger_events", counts["last"], "the global sequence has a gap")
        heads = await self._connection.fetch(HEAD)
        if [head["singleton"] for head in heads] != [True]:
            place = heads[0]["global_sequence"] if heads else 0
            report.add("ledger_head", place, f"there are {len(heads)} heads instead of the one")
        for head in heads:
            self._check_one_head(head, counts)

    def _check_one_head(self, head: Named, counts: Named) -> None:
        report, place = self._report, head["global_sequence"]
        self._log_id, self._place, self._keeper = head["log_id"], place, head["written_by"]
        if place != counts["last"]:
            report.add("ledger_head", place, f"the last event has the number {counts['last']}")
        if counts["recorded_at"] is not None and head["recorded_at"] != counts["recorded_at"]:
            report.add("ledger_head", place, "its time is not that of the last event")
        if head["written_by"] not in set(Keeper):
            report.add(
                "ledger_head", place, f"nobody is called {head['written_by']!r} who could keep a ledger"
            )
        if head["system_identifier"] != head["here"]:
            report.add("ledger_head", place, "it was written in another database: start a server once")

    async def _walk_institution(self, institution_id: str) -> None:
        chain, fold = Chain(institution_id), Fold(self._lifecycles)
        templates = {row["id"]: row for row in await self._connection.fetch(TEMPLATES, institution_id)}
        policies = {row["id"]: row for row in await self._connection.fetch(POLICIES, institution_id)}
        assets = {row["id"]: row for row in await self._connection.fetch(ASSETS, institution_id)}
        with_personal: dict[str, Event] = {}
        async for record in self._stream(EVENTS, institution_id):
            with self._reading("ledger_events", record["id"]):
                event = event_of(record)
                chain.check(event, record["postings"], self._report)
                fold.apply(event, self._report)
                rows.check_versions(event, templates, policies, self._report)
                rows.check_asset(event, assets, templates, self._report)
                if any(rows.committed(event)):
                    with_personal[event.id] = event
            self._tell()
        await self._check_chain_head(institution_id, chain)
        holders = await self._persons.check(institution_id, with_personal)
        await self._check_positions(institution_id, fold, holders)

    async def _check_chain_head(self, institution_id: str, chain: Chain) -> None:
        head = await self._connection.fetchrow(CHAIN_HEAD, institution_id)
        found = (0, GENESIS) if head is None else (head["sequence"], head["hash"])
        if head is None:
            self._report.add("institution_heads", institution_id, "is missing")
        elif found != (chain.sequence, chain.hash):
            self._report.add(
                "institution_heads", institution_id, f"the last event has the number {chain.sequence}"
            )
        self._report.looked_at["institution_heads"] += 1

    async def _check_positions(self, institution_id: str, fold: Fold, holders: dict[str, str | None]) -> None:
        seen = []
        async for record in self._stream(POSITIONS, institution_id):
            position_id = record["id"]
            with self._reading("positions", position_id):
                folded, holder = fold.positions.get(position_id), holders.get(position_id)
                rows.check_position(position_of(record), folded, holder, self._report)
                rows.check_keys(record, self._report)
            seen.append(position_id)
            self._report.looked_at["positions"] += 1
        rows.check_missing(fold.positions, seen, self._report)

    async def _check_checkpoints(self, keys: SigningKeys, kept: Sequence[Checkpoint]) -> None:
        stored = [(checkpoint_of(row), row["frontier"]) for row in await self._connection.fetch(CHECKPOINTS)]
        here = {checkpoint.size for checkpoint, _frontier in stored}
        self._tell_covered(stored[-1][0].size if stored else 0, keys)
        self._restores = await restores.read(self._connection)
        for checkpoint in kept:
            if checkpoint.size not in here:
                why = restores.told(self._restores, checkpoint)
                self._report.add(
                    "checkpoints", checkpoint.size, f"was kept elsewhere and is no longer here{why}"
                )
        elsewhere = [(checkpoint, None) for checkpoint in kept]
        due = sorted([*stored, *elsewhere], key=lambda pair: pair[0].size)
        if due and all(checkpoint.log_id != self._log_id for checkpoint, _frontier in due):
            self._report.add("ledger_head", self._place, "has the id of another ledger")
        tree = CompactRange()
        leaves = self._stream(LEAVES)
        is_replaced = False
        for checkpoint, frontier in due:
            while tree.size < checkpoint.size and (leaf := await anext(leaves, None)) is not None:
                tree.append(leaf["hash"])
            with self._reading("checkpoints", checkpoint.size):
                self._judge(checkpoint, frontier, tree, keys)
            if is_replaced and checkpoint.public_key in keys.former:
                self._report.add(
                    "checkpoints", checkpoint.size, "a former key signed it after the one in force had"
                )
            is_replaced = is_replaced or checkpoint.public_key == keys.present

    def _tell_covered(self, size: int, keys: SigningKeys) -> None:
        uncovered = max(self._all - size, 0)
        self._report.looked_at[UNCOVERED] += uncovered
        if uncovered:
            self._report.notes.append(f"no checkpoint covers the last {uncovered} events")
        self._report.notes.append(f"checkpoints and seals were judged by {keys}")

    def _judge(
        self,
        checkpoint: Checkpoint,
        frontier: Sequence[bytes] | None,
        tree: CompactRange,
        keys: SigningKeys,
    ) -> None:
        report, row = self._report, checkpoint.size
        report.looked_at["checkpoints"] += 1
        if checkpoint.log_id != self._log_id:
            report.add("checkpoints", row, "belongs to another ledger")
        key = keys.judging(checkpoint.public_key, checkpoint.signed_at)
        if checkpoint.public_key != key:
            report.add("checkpoints", row, "names another key than the ledger's")
        if not checkpoint.is_signed_by(key):
            report.add("checkpoints", row, "its signature is not the ledger's")
        elif tree.size < row:
            cut = restores.told(self._restores, checkpoint) or ": its end was cut off"
            report.add("checkpoints", row, f"covers {row} events, the ledger has {tree.size}{cut}")
        elif tree.root() != checkpoint.root:
            why = restores.told(self._restores, checkpoint)
            report.add("checkpoints", row, f"the events it covers are not those it was signed over{why}")
        elif frontier is not None and tuple(frontier) != tree.frontier:
            report.add("checkpoints", row, "its frontier is not that of the events it covers")

    @contextmanager
    def _reading(self, table: str, row: object) -> Iterator[None]:
        """What cannot even be understood is a finding, and the walk goes on."""
        try:
            yield
        except UNREADABLE:
            self._report.add(table, row, "cannot be read: a column was changed")

    async def _one(self, query: str) -> Any:
        row = await self._connection.fetchrow(query)
        assert row is not None, "a ledger has a head"
        return row

    async def _stream(self, query: str, *arguments: object) -> AsyncIterator[asyncpg.Record]:
        async for row in self._connection.cursor(query, *arguments, prefetch=PREFETCH):
            yield row

    def _tell(self) -> None:
        self._report.looked_at["ledger_events"] += 1
        self._progress(self._report.looked_at["ledger_events"], self._all)
