"""A list that the Idempotency-Key header names: its items get keys of their own, and know of each other."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from app.kit.canonical import Json, canonical_json, plain_json
from app.kit.chain import digest
from app.ledger.writer import Listed
from app.positions.model import KEY_LENGTH_MAX
from app.positions.service import Move, Opening, plainest

T = TypeVar("T", Opening, Move)


def item_key(key: str | None, place: int) -> str | None:
    """What an item of a list is named by the header: a hash of it, where there is no room for the place."""
    if key is None:
        return None
    spelled = f"{key}:{place}"
    return spelled if len(spelled) <= KEY_LENGTH_MAX else f"sha256:{digest(spelled.encode()).hex()}"


def named(key: str | None, items: Sequence[T], *, atomic: bool = False) -> Sequence[T]:
    """The items, which say of which list they are when the header names it.

    The writer refuses all of them (`LIST_TAKEN`) when something else was done under that key. What was accepted of
    this very list is there already, what was refused or never decided may be tried again.
    """
    if key is None:
        return items
    whole = digest(canonical_json([atomic, *map(_content, items)]).encode()).hex()
    prints = tuple(_fingerprint(whole, place) for place in range(len(items)))
    return [replace(item, listed=Listed(key, prints, place)) for place, item in enumerate(items)]


def _fingerprint(whole: str, place: int) -> bytes:
    return digest(plain_json({"listed": f"{whole}:{place}"}).encode())


def _content(item: Opening | Move) -> Json:
    """What is asked, but for personal values: those are compared item by item, through their commitments."""
    if isinstance(item, Opening):
        terms = (item.asset_id, item.currency.upper(), item.external_reference)
        return [*terms, _amount(item.amount), _time(item.expires_at), _time(item.occurred_at)]
    intent = item.intent
    way: list[Json] = [intent.stage, intent.state, intent.effect, _amount(intent.amount)]
    return [item.operation, item.position_id, *way, item.expected_version, _time(item.occurred_at)]


def _amount(amount: Decimal | None) -> str | None:
    return None if amount is None else plainest(amount)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
