"""Reads of the ledger for queries: events, heads, personal values, account statements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from app.kit import money
from app.kit.ids import is_id
from app.ledger import queries
from app.ledger.cursors import Epochs
from app.ledger.model import Account, Effect, Event, Personal
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition
from app.storage.paging import Page, PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from app.personal.service import Holders

Conditions = tuple[Condition, ...]

EFFECT_OF = {
    Account.CLEARING_IN: Effect.FUND,
    Account.CLEARING_OUT_BENEFICIARY: Effect.RELEASE,
    Account.CLEARING_OUT_FUNDER: Effect.REFUND,
}
HELD_PREFIX = "held:"


@dataclass(frozen=True, slots=True)
class HeadState:
    """The end of the ledger as one scope sees it."""

    cursor: str
    sequence: int
    hash: bytes | None


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One posting on an account, and the balance after it."""

    event: Event
    amount: Decimal
    balance_after: Decimal


async def open_chain(connection: "AsyncConnection", institution_id: str) -> None:
    """Give a new institution the beginning of its chain, in the transaction that makes it."""
    await queries.insert_chain(connection, institution_id)


async def head(connection: "AsyncConnection", scope: str, epochs: Epochs) -> HeadState:
    """The head of `scope` as this snapshot sees it: give its cursor as `after` to miss and repeat nothing."""
    sequence, hashed = await queries.fetch_head(connection, scope)
    return HeadState(epochs.cursor(scope, sequence), sequence, hashed)


async def events(
    connection: "AsyncConnection",
    scope: str,
    epochs: Epochs,
    conditions: Conditions,
    request: PageRequest,
    *,
    descending: bool,
) -> Page[Event]:
    """One page of the ledger; its cursors are the ledger's own."""
    return await queries.fetch_events(
        connection, scope, conditions, request, await _codec(connection, scope, epochs), descending=descending
    )


async def events_each(
    connection: "AsyncConnection",
    scope: str,
    epochs: Epochs,
    position_ids: Sequence[str],
    conditions: Conditions,
    request: PageRequest,
    *,
    descending: bool,
) -> Mapping[str, Page[Event]]:
    """One page of the history of each position, in one statement (and the head's, when a cursor is given)."""
    plain = request.after is None and request.before is None
    codec = _spelling(scope, epochs) if plain else await _codec(connection, scope, epochs)
    return await queries.fetch_events_each(
        connection, scope, position_ids, conditions, request, codec, descending=descending
    )


count_events = queries.count_events
count_events_each = queries.count_events_each


async def fetch_by_id(connection: "AsyncConnection", scope: str, ids: Sequence[str]) -> Mapping[str, Event]:
    """Events by id; those of others, and what is not spelled like one, are not there."""
    return await queries.fetch_by_id(connection, scope, [key for key in ids if is_id(key, "evt")])


async def personal(
    connection: "AsyncConnection", scope: str, event_ids: Sequence[str], holders: "Holders"
) -> Mapping[str, Personal]:
    """The personal values of events; those without, or erased, are not there."""
    return await queries.fetch_personal(connection, scope, event_ids, holders)


async def statement(
    connection: "AsyncConnection",
    institution_id: str,
    epochs: Epochs,
    account: str,
    currency: str,
    request: PageRequest,
) -> Page[StatementLine]:
    """One page of the postings on an account in one currency, oldest first, with the balance after each."""
    place = _account(account, currency)
    codec = await _codec(connection, institution_id, epochs)
    page = await queries.fetch_events(connection, institution_id, place, request, codec, descending=False)
    if account.startswith(HELD_PREFIX) or not page.rows:
        return _lines(page, account, lambda event, _before: event.balances.held, money.ZERO)
    first = page.rows[0][1].sequence
    before = await queries.sum_before(
        connection, institution_id, EFFECT_OF[Account(account)], currency, first
    )
    opening = money.negate(before) if account == Account.CLEARING_IN else before
    return _lines(page, account, lambda event, balance: money.add(balance, _on(event, account)), opening)


async def count_statement(
    connection: "AsyncConnection", institution_id: str, account: str, currency: str
) -> int:
    """How many postings the account has in that currency."""
    return await queries.count_events(connection, institution_id, _account(account, currency))


def is_account(account: str) -> bool:
    """Whether an account can have that name."""
    if account.startswith(HELD_PREFIX):
        return is_id(account.removeprefix(HELD_PREFIX), "pos")
    return account in set(Account)


def _account(account: str, currency: str) -> Conditions:
    if account.startswith(HELD_PREFIX):
        which = Condition("position_id", "eq", account.removeprefix(HELD_PREFIX))
        return (
            which,
            Condition("currency", "eq", currency),
            Condition("effect", "in", list(EFFECT_OF.values())),
        )
    return (Condition("currency", "eq", currency), Condition("effect", "eq", EFFECT_OF[Account(account)]))


def _lines(
    page: Page[Event], account: str, balance_after: Callable[[Event, Decimal], Decimal], opening: Decimal
) -> Page[StatementLine]:
    rows = []
    balance = opening
    for spelling, event in page.rows:
        balance = balance_after(event, balance)
        rows.append((spelling, StatementLine(event, _on(event, account), balance)))
    return Page(tuple(rows), page.has_next, page.has_previous)


def _on(event: Event, account: str) -> Decimal:
    return money.add(*(leg.amount for leg in event.postings if leg.account == account))


async def _codec(connection: "AsyncConnection", scope: str, epochs: Epochs) -> queries.Codec:
    last, _hash = await queries.fetch_head(connection, scope)
    return queries.Codec(_spelling(scope, epochs).spell, lambda cursor: [epochs.place(scope, cursor, last)])


def _spelling(scope: str, epochs: Epochs) -> queries.Codec:
    return queries.Codec(lambda values: epochs.cursor(scope, values[0]), None)


def place_of(scope: str, event: Event) -> int:
    """The event's number in the order of `scope`."""
    return event.global_sequence if scope == ALL_INSTITUTIONS else event.sequence
