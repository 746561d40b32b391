"""A list that the Idempotency-Key header names: its items get keys of their own, another list with it is refused."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import TypeVar
from weakref import WeakValueDictionary

from app.context import Context
from app.errors import ErrorCode, Refused
from app.kit.canonical import Json, canonical_json
from app.kit.chain import digest
from app.ledger import service as ledger
from app.positions.model import KEY_LENGTH_MAX
from app.positions.service import Move, Opening, listed_fingerprint, plainest

T = TypeVar("T", Opening, Move)

# Those who send one key at the same time take turns, or each would find that nobody has used it.
_TURNS: WeakValueDictionary[tuple[str | None, str], asyncio.Lock] = WeakValueDictionary()


def item_key(key: str | None, place: int) -> str | None:
    """What an item of a list is named by the header: a hash of it, where there is no room for the place."""
    if key is None:
        return None
    spelled = f"{key}:{place}"
    return spelled if len(spelled) <= KEY_LENGTH_MAX else f"sha256:{digest(spelled.encode()).hex()}"


@asynccontextmanager
async def named(
    context: Context, key: str | None, items: Sequence[T], *, atomic: bool = False
) -> AsyncIterator[Sequence[T]]:
    """The items, to be submitted in the block: they say of which list they are when the header names it.

    Raises `Refused` when something else was done under that key: nothing of this list is done then. What was
    accepted of this very list is there already, what was refused or never decided may be tried again.
    """
    if key is None:
        yield items
        return
    owner = context.principal.institution_id
    whole = digest(canonical_json([atomic, *map(_content, items)]).encode()).hex()
    listed = [replace(item, listed=f"{whole}:{place}") for place, item in enumerate(items)]
    turn = _TURNS.setdefault((owner, key), asyncio.Lock())
    async with turn:
        await _check(context, owner, key, listed)
        yield listed


async def _check(context: Context, owner: str | None, key: str, items: Sequence[Opening | Move]) -> None:
    """Looks for what was done under the key: at every place that a list may have, and under the key itself."""
    most = max(context.services.settings.batch_items_max, len(items))
    expected: Mapping[str, bytes] = {
        item.idempotency_key: listed_fingerprint(item.listed)
        for item in items
        if item.idempotency_key is not None and item.listed is not None
    }
    names = {key, *(name for place in range(most) if (name := item_key(key, place)) is not None)}
    async with context.reading() as reading:
        used = await ledger.used_keys(reading, context.scope, owner, sorted(names | set(expected)))
    await context.renew()
    if any(expected.get(name) != fingerprint for name, fingerprint in used.items()):
        raise Refused(
            ErrorCode.IDEMPOTENCY_CONFLICT,
            "this Idempotency-Key was used for something else, such as a list of other items or another length; "
            "use a new key for a new list",
        )


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
