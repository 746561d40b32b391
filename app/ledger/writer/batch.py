"""One transaction, many commands: lock, read, decide in order, append, commit."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.errors import Problem
from app.kit.clock import Clock
from app.kit.ids import Ids
from app.ledger import sealed
from app.ledger.append import Prepared, append, prepare
from app.ledger.model import Draft, Event, Key
from app.ledger.writer import keys
from app.ledger.writer.contract import Accepted, Answer, Command, Row, Subject, Used, View
from app.ledger.writer.keys import KeyName
from app.ledger.writer.queue import Outcome, Submission
from app.personal.sealing import Holder
from app.personal.service import Holders
from app.storage.database import Driver

LOCK_NAMES = "SELECT pg_advisory_xact_lock(name) FROM unnest($1::bigint[]) WITH ORDINALITY AS n (name, place)"


@dataclass(slots=True)
class Batch:
    """What one attempt decided. `blocked` met a row that others hold; `again` met a twin in the same batch."""

    outcomes: dict[Submission, Outcome] = field(default_factory=dict)
    blocked: list[tuple[str, Submission]] = field(default_factory=list)
    again: list[Submission] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Move:
    accepted: Accepted
    prepared: Prepared
    # Of a creation, once it is known.
    holder: Holder | None = None

    @property
    def draft(self) -> Draft:
        return self.accepted.draft


_Moves = list[tuple[Submission, list[_Move]]]


async def run(
    connection: Driver,
    submissions: Sequence[Submission],
    subject: Subject,
    holders: Holders,
    ids: Ids,
    clock: Clock,
    *,
    wait: bool,
) -> Batch:
    """Decide and write within the caller's transaction; with `wait`, rows that others hold are waited for."""
    commands = [command for submission in submissions for command in submission.commands]
    await _lock_names(connection, commands)
    batch = Batch()
    rows, ready = await _lock_rows(connection, submissions, subject, batch, wait=wait)
    # Looked at after the locks, which may have been waited for: a deadline that passed meanwhile has passed.
    view = View(clock(), rows)
    # Read in statements after the locks: a lock and the facts it protects must not share a snapshot.
    used = await keys.used(connection, subject, holders, commands)
    facts = sorted({fact for command in commands for fact in command.facts(view)}, key=repr)
    if facts:
        view.facts.update(await subject.read(connection, facts))
    moves = _decide(ready, view, used, batch, ids)
    if moves:
        await _write(
            connection, subject, await _held(connection, subject, holders, moves, ids), holders, batch
        )
    return batch


async def _lock_names(connection: Driver, commands: Iterable[Command]) -> None:
    names = {name for command in commands for name in command.names()}
    if names:
        await connection.execute(LOCK_NAMES, sorted(map(_lock_number, names)))


def _lock_number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


async def _lock_rows(
    connection: Driver,
    submissions: Sequence[Submission],
    subject: Subject,
    batch: Batch,
    *,
    wait: bool,
) -> tuple[dict[str, Row], list[Submission]]:
    wanted = sorted({row for item in submissions for command in item.commands for row in command.rows()})
    if not wanted:
        return {}, list(submissions)
    rows = dict(await subject.lock(connection, wanted, wait=wait))
    absent = [row for row in wanted if row not in rows]
    held = await subject.existing(connection, absent) if absent and not wait else frozenset()
    ready: list[Submission] = []
    for submission in submissions:
        blocking = next(
            (row for command in submission.commands for row in command.rows() if row in held), None
        )
        if blocking is None:
            ready.append(submission)
        else:
            batch.blocked.append((blocking, submission))
    return rows, ready


def _decide(
    ready: Sequence[Submission], view: View, used: Mapping[KeyName, Used], batch: Batch, ids: Ids
) -> _Moves:
    moves: _Moves = []
    fresh: dict[KeyName, bytes] = {}
    for submission in ready:
        settled = keys.settled(submission, used)
        if settled is not None:
            batch.outcomes[submission] = settled
            continue
        given = keys.given(submission.commands, used, fresh)
        if given is None:
            batch.again.append(submission)
            continue
        decided = given if isinstance(given, Problem) else _decide_one(submission, given, view, ids)
        if isinstance(decided, Problem):
            batch.outcomes[submission] = decided
            continue
        moves.append((submission, decided))
        taken = [move.prepared.key for move in decided]
        fresh.update({keys.name(key): key.fingerprint for key in taken})
    return moves


def _decide_one(submission: Submission, given: Sequence[Key], view: View, ids: Ids) -> list[_Move] | Problem:
    """All commands of a submission or none: a list is decided on a scratch copy."""
    single = len(submission.commands) == 1
    scratch = view if single else View(view.now, dict(view.rows), dict(view.facts))
    moves = []
    for place, (command, key) in enumerate(zip(submission.commands, given, strict=True)):
        decided = command.decide(scratch)
        if isinstance(decided, Problem):
            return decided if single else _numbered(decided, place)
        scratch.rows[decided.row_id] = decided.row
        scratch.facts.update(decided.learned)
        moves.append(_Move(decided, prepare(decided.draft, ids.new("evt"), command.actor, key)))
    view.rows, view.facts = scratch.rows, scratch.facts
    return moves


def _numbered(problem: Problem, place: int) -> Problem:
    return Problem(
        problem.code, problem.message, f"items.{place}" + (f".{problem.field}" if problem.field else "")
    )


async def _held(connection: Driver, subject: Subject, holders: Holders, moves: _Moves, ids: Ids) -> _Moves:
    """Find or make the holders that accepted commands name; refused ones leave nobody behind."""
    named = [
        (move.draft.institution_id, move.draft.personal.holder_reference)
        for _submission, some in moves
        for move in some
        if move.draft.holder is None and move.draft.personal.holder_reference is not None
    ]
    if not named:
        return moves
    found = await holders.hold(connection, named, ids)

    def given(move: _Move) -> _Move:
        draft = move.draft
        if draft.holder is not None or draft.personal.holder_reference is None:
            return move
        holder = found[draft.institution_id, draft.personal.holder_reference]
        made = move.accepted
        row = subject.given(made.row, holder)
        return _Move(Accepted(row, made.row_id, made.draft, made.learned), move.prepared, holder)

    return [(submission, [given(move) for move in some]) for submission, some in moves]


def _sealed(holders: Holders, moves: Iterable[_Move]) -> list[sealed.Row]:
    rows = []
    for move in moves:
        draft, holder = move.draft, move.holder
        if draft.personal != sealed.NOTHING:
            if holder is None and draft.holder is not None:
                holder = holders.holder(draft.holder)
            assert holder is not None, "what is personal is somebody's"
            place = (draft.institution_id, move.prepared.event_id, draft.position_id)
            rows.append(sealed.row_of(holder, place, draft.personal, move.prepared.salts))
    return rows


async def _write(connection: Driver, subject: Subject, moves: _Moves, holders: Holders, batch: Batch) -> None:
    flat = [move for _submission, some in moves for move in some]
    batch.events = await append(connection, [move.prepared for move in flat], _sealed(holders, flat))
    rows = await subject.write(
        connection, [(move.accepted.row, event) for move, event in zip(flat, batch.events, strict=True)]
    )
    answers = iter([Answer(event, row) for event, row in zip(batch.events, rows, strict=True)])
    for submission, some in moves:
        batch.outcomes[submission] = [next(answers) for _move in some]
