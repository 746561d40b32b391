"""A forger who knows the code: he rewrites history and recomputes everything that follows from it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

import asyncpg

from app.kit.chain import GENESIS
from app.kit.merkle import CompactRange
from app.ledger import append, spelling
from app.ledger.checkpoints import statement
from app.ledger.model import Balances, Effect, Event
from app.ledger.signer import Signer
from app.ledger.store import SELECT_EVENTS, event_of
from app.positions.escrow import BUILT_IN
from app.positions.model import Position
from app.storage.database import exact_json
from app.verify.findings import Report
from app.verify.fold import Fold

HEAD = "UPDATE institution_heads SET sequence = $2, hash = $3 WHERE institution_id = $1"
POSITION = """
UPDATE positions SET amount = $2::numeric, funded = $3, released = $4, refunded = $5, held = $6, state = $7, stage = $8,
  version = $9, updated_at = $10, closed_at = $11, created_at = $12, amount_key = lpad(trunc($2::numeric * 1000000000000000000)::text, 36, '0')
WHERE id = $1
"""
CHECKPOINT = """
INSERT INTO checkpoints (log_id, size, root, frontier, signed_at, public_key, signature)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""

Events = Sequence[Event]


async def events(owner: asyncpg.Connection) -> list[Event]:
    """The ledger in its order."""
    await exact_json(owner)
    return [event_of(row) for row in await owner.fetch(f"{SELECT_EVENTS} ORDER BY global_sequence")]


async def rewrite(owner: asyncpg.Connection, wanted: Events) -> list[Event]:
    """Make the ledger say this, in this order, and leave nothing that contradicts it except what is signed."""
    chained = _chained(wanted)
    async with owner.transaction():
        await owner.execute("DELETE FROM ledger_events")
        await owner.execute(append.INSERT_EVENTS, *append.columns(chained))
        await owner.execute("DELETE FROM personal_data WHERE event_id <> ALL($1)", [e.id for e in chained])
        await owner.execute("UPDATE institution_heads SET sequence = 0, hash = $1", GENESIS)
        for event in chained:
            await owner.execute(HEAD, event.institution_id, event.sequence, event.hash)
        newest = max(event.recorded_at for event in chained)
        await owner.execute(
            "UPDATE ledger_head SET global_sequence = $1, recorded_at = $2", len(chained), newest
        )
        positions = _folded(chained)
        await owner.execute("DELETE FROM positions WHERE id <> ALL($1)", list(positions))
        for position in positions.values():
            await owner.execute(POSITION, *_values(position))
    return chained


def _chained(wanted: Events) -> list[Event]:
    last: dict[str, tuple[int, bytes]] = {}
    chained = []
    for number, event in enumerate(wanted, start=1):
        sequence, previous = last.get(event.institution_id, (0, GENESIS))
        placed = replace(event, global_sequence=number, sequence=sequence + 1, previous_hash=previous)
        sealed = replace(placed, hash=spelling.event_hash(previous, spelling.spelling(placed)))
        last[event.institution_id] = (sequence + 1, sealed.hash)
        chained.append(sealed)
    return chained


def _folded(chained: Events) -> dict[str, Position]:
    report = Report()
    found = {}
    for institution_id in {event.institution_id for event in chained}:
        fold = Fold(BUILT_IN)
        for event in chained:
            if event.institution_id == institution_id:
                fold.apply(event, report)
        found.update({position_id: folded.position for position_id, folded in fold.positions.items()})
    assert report.is_clean, f"he forges with care: {report.findings}"
    return found


def _values(position: Position) -> tuple[object, ...]:
    money = position.balances
    return (
        position.id,
        position.amount,
        money.funded,
        money.released,
        money.refunded,
        money.held,
        position.state,
        position.stage,
        position.version,
        position.updated_at,
        position.closed_at,
        position.created_at,
    )


async def sign_anew(owner: asyncpg.Connection, chained: Events, signer: Signer) -> None:
    """Every checkpoint again, over what the ledger says now, by a key of his own."""
    rows = await owner.fetch("SELECT log_id, size, signed_at FROM checkpoints ORDER BY size")
    await owner.execute("DELETE FROM checkpoints")
    for row in rows:
        tree = CompactRange()
        tree.extend(event.hash for event in chained[: row["size"]])
        signature = signer.sign(statement(row["log_id"], tree.size, tree.root(), row["signed_at"]))
        signed = (row["signed_at"], signer.public_key, signature)
        await owner.execute(CHECKPOINT, row["log_id"], tree.size, tree.root(), list(tree.frontier), *signed)


# What he would like to have been.
def another_actor(wanted: list[Event]) -> list[Event]:
    """Somebody else did it."""
    middle = len(wanted) // 2
    wanted[middle] = replace(wanted[middle], actor=replace(wanted[middle].actor, id="key_somebody_else"))
    return wanted


def half_the_money(wanted: list[Event]) -> list[Event]:
    """A position that was funded and never moved again was half as much from the beginning."""
    histories: dict[str, list[int]] = {}
    for place, event in enumerate(wanted):
        histories.setdefault(event.position_id, []).append(place)
    created, funded = next(
        places
        for places in histories.values()
        if [wanted[p].effect for p in places] == [Effect.NONE, Effect.FUND]
    )
    half = wanted[funded].amount_moved / 2
    zero = wanted[created].balances.held
    data = {**wanted[created].data, "amount": str(half)}
    wanted[created] = replace(wanted[created], data=data)
    legs = tuple(replace(leg, amount=leg.amount / 2) for leg in wanted[funded].postings)
    balances = Balances(half, zero, zero, half)
    wanted[funded] = replace(wanted[funded], amount_moved=half, postings=legs, balances=balances)
    assert half == half.quantize(Decimal(1)), "no fraction that the currency would not have"
    return wanted


def never_happened(wanted: list[Event]) -> list[Event]:
    """A whole position in the middle of the ledger was never there."""
    gone = wanted[len(wanted) // 2].position_id
    return [event for event in wanted if event.position_id != gone]


def other_order(wanted: list[Event]) -> list[Event]:
    """Two creations that followed each other came the other way round."""
    pairs = zip(range(len(wanted)), range(1, len(wanted)), strict=False)
    first, second = next(
        (a, b) for a, b in pairs if wanted[a].position_version == wanted[b].position_version == 1
    )
    earlier, later = wanted[first], wanted[second]
    wanted[first] = replace(later, recorded_at=earlier.recorded_at, occurred_at=earlier.occurred_at)
    wanted[second] = replace(earlier, recorded_at=later.recorded_at, occurred_at=later.occurred_at)
    return wanted


def without_the_newest(count: int) -> Callable[[list[Event]], list[Event]]:
    """The ledger ended earlier."""
    return lambda wanted: wanted[:-count]


REWRITINGS = (another_actor, half_the_money, never_happened, other_order)
