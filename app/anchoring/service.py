"""What can be asked about anchors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.anchoring import store
from app.anchoring.model import Account, Anchor, Record
from app.kit.ids import is_id
from app.ledger import service as ledger
from app.storage.conditions import Condition
from app.storage.paging import Page, PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from app.ledger.model import Event


async def by_id(connection: "AsyncConnection", scope: str, ids: Sequence[str]) -> Mapping[str, Anchor]:
    """Anchors by id; what is not spelled like one is not there."""
    return await store.by_id(connection, scope, [one for one in ids if is_id(one, "anc")])


async def page(
    connection: "AsyncConnection",
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition],
    *,
    descending: bool,
) -> Page[Anchor]:
    """One page of them."""
    return await store.page(connection, scope, request, conditions, descending=descending)


async def count(connection: "AsyncConnection", scope: str, conditions: Sequence[Condition]) -> int:
    """How many there are."""
    return await store.count(connection, scope, conditions)


async def covering(
    connection: "AsyncConnection", scope: str, event_ids: Sequence[str], *, on_chain: bool = False
) -> "Mapping[str, tuple[Event, Anchor]]":
    """The first head that covers each event; with `on_chain` the first one that the chain has taken."""
    events = await ledger.fetch_by_id(connection, scope, event_ids)
    places = sorted({event.global_sequence for event in events.values()})
    found = await store.covering(connection, scope, places, on_chain=on_chain)
    return {
        id_: (event, found[event.global_sequence])
        for id_, event in events.items()
        if event.global_sequence in found
    }


async def records(
    connection: "AsyncConnection", scope: str, event_ids: Sequence[str]
) -> Mapping[str, Record]:
    """How single events are recorded."""
    return await store.records(connection, scope, event_ids)


async def accounts(connection: "AsyncConnection", scope: str) -> Sequence[Account]:
    """How the chains looked."""
    return await store.accounts(connection, scope)


async def changed(connection: "AsyncConnection", scope: str, after: int) -> Sequence[tuple[int, Anchor]]:
    """What changed after a revision, each with its own."""
    return await store.changed(connection, scope, after)


async def revision(connection: "AsyncConnection", scope: str) -> int:
    """The newest revision."""
    return await store.revision(connection, scope)
