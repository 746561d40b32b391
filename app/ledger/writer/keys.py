"""Under which key each command acts, and what was done under it before."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from app.errors import ErrorCode, Problem
from app.ledger import sealed, spelling
from app.ledger.model import Commitments, Key, Personal, Salts
from app.ledger.store import SELECT_EVENTS, event_of
from app.ledger.writer.contract import Answer, Command, Row, Subject, Used
from app.ledger.writer.queue import Outcome, Submission
from app.personal.service import Holders
from app.storage.database import Driver

KeyName = tuple[str | None, str]

USED_KEYS = f"""
{SELECT_EVENTS} e JOIN unnest($1::text[], $2::text[]) AS k (institution, word)
  ON e.key_institution_id = k.institution AND e.idempotency_key = k.word
UNION ALL
{SELECT_EVENTS} WHERE key_institution_id IS NULL AND idempotency_key = ANY($3::text[])
"""

LIST_TAKEN = Problem(
    ErrorCode.IDEMPOTENCY_CONFLICT,
    "this Idempotency-Key was used for something else, such as a list of other items or another length; "
    "use a new key for a new list",
)
_KEY_TWICE = Problem(
    ErrorCode.IDEMPOTENCY_CONFLICT,
    "two items of one atomic list carry the same idempotency key",
    "idempotencyKey",
)
_PARTLY_DONE = Problem(
    ErrorCode.IDEMPOTENCY_CONFLICT,
    "some keys of this atomic list were used before and some were not; repeat the whole list as it was",
    "idempotencyKey",
)
_OTHER_INPUT = Problem(
    ErrorCode.IDEMPOTENCY_CONFLICT,
    "this idempotency key was used for another command, or for the same with other input; send it as it was to have "
    "its answer again, or use a new key for a new command",
    "idempotencyKey",
)
# Never which of them, or who tries could guess one after the other.
_OTHER_PERSONAL = Problem(
    ErrorCode.IDEMPOTENCY_CONFLICT,
    "this idempotency key was used for the same command with another text that is kept sealed (holder reference, "
    "reason or metadata); send these as they were to have its answer again, or use a new key for a new command",
    "idempotencyKey",
)
_NO_COMMITMENTS = Commitments()


def name(key: Key) -> KeyName:
    """What is unique about a key."""
    return (key.institution_id, key.value)


def names_of(command: Command) -> tuple[KeyName, ...]:
    """The keys that a command may act under: its own, or that of its list."""
    own, listed = name(command.key), command.listed
    return (own,) if listed is None else (own, (own[0], listed.key))


async def used(
    connection: Driver, subject: Subject, holders: Holders, commands: Sequence[Command]
) -> dict[KeyName, Used]:
    """The events under all keys that these commands may act under."""
    names = {found for command in commands for found in names_of(command)}
    tenants = [(owner, value) for owner, value in names if owner is not None]
    roots = [value for owner, value in names if owner is None]
    rows = await connection.fetch(
        USED_KEYS, [owner for owner, _value in tenants], [value for _owner, value in tenants], roots
    )
    if not rows:
        return {}
    events = [event_of(row) for row in rows]
    current = await subject.fetch(connection, sorted({event.position_id for event in events}))
    kept = await sealed.fetch(
        connection,
        holders,
        [event.id for event in events],
        sorted({event.institution_id for event in events}),
    )
    return {
        name(event.key): Used(
            event,
            # Root's keys are found whatever they moved: the row may lie outside of this batch's scope.
            subject.as_of(current[event.position_id], event) if event.position_id in current else None,
            kept.get(event.id),
        )
        for event in events
    }


def settled(submission: Submission, used: Mapping[KeyName, Used]) -> Outcome | None:
    """The answer to what was done before, or cannot be done under its keys; None where it is to be decided."""
    before = []
    for command in submission.commands:
        own, *lists = names_of(command)
        first = used.get(lists[0]) if lists else None
        if first is not None and not _is_of_list(command, first.event.key.fingerprint):
            return LIST_TAKEN
        is_first = first is not None and first.event.key.fingerprint == command.key.fingerprint
        before.append(first if is_first else used.get(own))
    if not any(before):
        return None
    answers = []
    for command, found in zip(submission.commands, before, strict=True):
        if found is None:
            return _PARTLY_DONE
        same = found.row is not None and found.event.key.fingerprint == command.key.fingerprint
        if not same:
            return _OTHER_INPUT
        if not _same_personal(command.personal, found):
            return _OTHER_PERSONAL
        answers.append(Answer(found.event, found.row, replayed=found.event.id not in submission.attempted))
    return answers


def given(
    commands: Sequence[Command], used: Mapping[KeyName, Used], fresh: Mapping[KeyName, bytes]
) -> list[Key] | Problem | None:
    """The key that each acts under, should all be accepted; None while a twin or a rival in `fresh` comes first.

    `fresh` are the keys, with what was asked, of what has been accepted in the same transaction.
    """
    mine: dict[KeyName, Key] = {}
    for command in commands:
        key = command.key
        own, *lists = names_of(command)
        rival = fresh.get(lists[0]) if lists else None
        if rival is not None and (rival == key.fingerprint or not _is_of_list(command, rival)):
            return None
        if lists and rival is None and lists[0] not in used and lists[0] not in mine:
            key = replace(key, value=lists[0][1])
        if own in fresh or name(key) in fresh:
            return None
        if name(key) in mine:
            return _KEY_TWICE
        mine[name(key)] = key
    return list(mine.values())


def _is_of_list(command: Command, fingerprint: bytes) -> bool:
    return command.listed is not None and fingerprint in command.listed.fingerprints


def _same_personal(personal: Personal, used: Used) -> bool:
    """Compared through the commitments; what has been erased can no longer be compared and counts as the same."""
    if used.personal is None:
        return personal == Personal() or used.event.commitments != _NO_COMMITMENTS
    salts = used.personal[1]
    mine, theirs = spelling.commitments(personal, salts), used.event.commitments
    given = (personal.holder_reference, personal.reason, personal.metadata)
    pairs = zip(given, salts_of(salts), (mine.holder, mine.reason, mine.metadata), strict=True)
    kept = (theirs.holder, theirs.reason, theirs.metadata)
    return all(
        (value is None) == (known is None) and (salt is None or committed == known)
        for (value, salt, committed), known in zip(pairs, kept, strict=True)
    )


def salts_of(salts: Salts) -> tuple[Row, ...]:
    """The three salts in the order of the commitments."""
    return (salts.holder, salts.reason, salts.metadata)
