"""Events of positions as the wire wants them: SQL that spells the values, rows that are the answer."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import orjson

from app.engine.connection import OrderDirection
from app.engine.direct import Direct, Wanted
from app.principal import ALL_INSTITUTIONS
from app.storage.database import driver_of
from app.storage.paging import PageRequest
from app.storage.statements import fetched

if TYPE_CHECKING:
    from app.context import Context


def _time(column: str) -> str:
    # As datetime.isoformat() spells it: no fraction where there is none.
    spelled = f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
    return f"replace({spelled}, '.000000', '') || 'Z'"


def _hex(column: str) -> str:
    return f"encode({column}, 'hex')"


def _text(column: str) -> str:
    return f"{column}::text"


# What each plain field of LedgerEvent is in SQL. A field that is not here is left to the resolver.
SPELLED = {
    "id": "id",
    "sequence": "sequence",
    "institutionId": "institution_id",
    "positionId": "position_id",
    "positionVersion": "position_version",
    "kind": "kind",
    "kindVersion": "kind_version",
    "previousState": "previous_state",
    "newState": "new_state",
    "previousStage": "previous_stage",
    "newStage": "new_stage",
    "moneyEffect": "effect",
    "amountMoved": _text("amount_moved"),
    "currency": "currency",
    "requestId": "request_id",
    "idempotencyKey": "idempotency_key",
    "templateId": "template_id",
    "policyId": "policy_id",
    "lifecycleName": "lifecycle_name",
    "lifecycleVersion": "lifecycle_version",
    "occurredAt": _time("occurred_at"),
    "recordedAt": _time("recorded_at"),
    "previousHash": _hex("previous_hash"),
    "hash": _hex("hash"),
    "hashVersion": "hash_version",
}
NESTED = {
    "balancesAfter": {name: _text(name) for name in ("funded", "released", "refunded", "held")},
    "actor": {"id": "actor_id", "role": "actor_role"},
}
POSTING = {"account": 0, "amount": 1, "currency": 2}
ARGUMENTS = frozenset({"first", "last", "direction"})
TYPENAMES = {"balancesAfter": "Balances", "actor": "Actor", "postings": "Posting"}

# Of a position as it is: all of its history.
VERSION_MAX = 2**31 - 1

Shaper = Callable[[Sequence[Any]], Any]


class Shape:
    """The SQL columns that a selection needs, and how a row of them becomes a node."""

    def __init__(self, wanted: tuple[Wanted, ...]) -> None:
        # Behind the event's number in the order of its reader.
        self.columns: list[str] = []
        self.flat = all(not item.below and item.field != "__typename" for item in wanted)
        self.keys = tuple(item.key for item in wanted)
        self._makers = [self._maker(item) for item in wanted]

    def node(self, row: Sequence[Any]) -> dict[str, Any]:
        """The node that a row (its columns in order, the parent after them) makes."""
        if self.flat:
            return dict(zip(self.keys, row[1:], strict=False))
        return dict(zip(self.keys, [make(row) for make in self._makers], strict=True))

    def _column(self, spelled: str) -> int:
        self.columns.append(f"{spelled} AS c{len(self.columns) + 1}")
        return len(self.columns)

    def _maker(self, item: Wanted) -> Shaper:
        if item.field == "__typename":
            return lambda _row: "LedgerEvent"
        if item.field == "postings":
            return self._postings(item)
        if item.field in NESTED:
            return self._nested(item)
        place = self._column(SPELLED[item.field])
        return lambda row: row[place]

    def _nested(self, item: Wanted) -> Shaper:
        spelled, typename = NESTED[item.field], TYPENAMES[item.field]
        keys = tuple(below.key for below in item.below)
        places = [None if b.field == "__typename" else self._column(spelled[b.field]) for b in item.below]
        return lambda row: {
            key: typename if place is None else row[place] for key, place in zip(keys, places, strict=True)
        }

    def _postings(self, item: Wanted) -> Shaper:
        place, typename = self._column("postings::text"), TYPENAMES["postings"]
        parts = [(below.key, POSTING.get(below.field)) for below in item.below]

        def shape(row: Sequence[Any]) -> list[dict[str, Any]]:
            legs = orjson.loads(row[place])
            return [{key: typename if at is None else leg[at] for key, at in parts} for leg in legs]

        return shape


class PositionEvents(Direct):
    """`Position.events` without objects."""

    def takes(self, arguments: Mapping[str, Any], wanted: tuple[Wanted, ...]) -> bool:
        """Pages without filter or cursor, of fields that SQL can spell."""
        given = {name for name, value in arguments.items() if value is not None}
        return given <= ARGUMENTS and not {"first", "last"} <= given and _is_spelled(wanted)

    async def read(
        self,
        context: "Context",
        sources: Sequence[Any],
        arguments: Mapping[str, Any],
        wanted: tuple[Wanted, ...],
    ) -> list[Any]:
        """A connection for each position, in one statement."""
        request = context.page(arguments.get("first"), None, arguments.get("last"), None)
        direction = arguments.get("direction") or OrderDirection.ASC
        connection = _connection_of(wanted)
        scope = context.scope
        parents = [(source.model.id, source.events_upto or VERSION_MAX) for source in sources]
        # Once each: several parents of a level may be the same position.
        ids, versions = zip(*dict.fromkeys(parents), strict=True)
        values: list[object] = [ids, versions, request.size + 1]
        values += [] if scope == ALL_INSTITUTIONS else [scope]
        sql = connection.sql(scope, request, direction)
        async with context.reading() as reading:
            rows = await fetched(reading, await driver_of(reading), sql, values)
        found: dict[tuple[str, int], list[Any]] = {
            parent: list(group) for parent, group in itertools.groupby(rows, key=itemgetter("parent", "upto"))
        }
        spell = context.services.tail.epochs.cursor
        return [
            connection.answer(found.get(parent, []), request, lambda n: spell(scope, n)) for parent in parents
        ]


class _Connection:
    """A connection's selection, compiled."""

    def __init__(self, wanted: tuple[Wanted, ...]) -> None:
        self._wanted = wanted
        node = next((node for edges in wanted for node in edges.below if node.field == "node"), None)
        self._shape = Shape(() if node is None else node.below)

    def sql(self, scope: str, request: PageRequest, direction: OrderDirection) -> str:
        """The statement: parents $1 up to their versions $2, rows of each $3, the institution $4 unless all."""
        tenant = "" if scope == ALL_INSTITUTIONS else "AND institution_id = $4 "
        number = "global_sequence" if scope == ALL_INSTITUTIONS else "sequence"
        columns = ", ".join([f"{number} AS c0", *self._shape.columns])
        down = (direction is OrderDirection.DESC) != request.backward
        return (
            f"SELECT e.*, p.id AS parent, p.upto FROM unnest($1::text[], $2::int[]) AS p (id, upto) "
            f"CROSS JOIN LATERAL (SELECT {columns} FROM ledger_events "
            f"WHERE position_id = p.id AND position_version <= p.upto {tenant}"
            f"ORDER BY position_version {'DESC' if down else 'ASC'} LIMIT $3) AS e"
        )

    def answer(self, rows: list[Any], request: PageRequest, cursor: Callable[[int], str]) -> dict[str, Any]:
        """The connection that a parent's rows make."""
        more, backward = len(rows) > request.size, request.backward
        kept = rows[: request.size]
        if backward:
            kept.reverse()
        told: dict[str, Any] = {}
        for item in self._wanted:
            if item.field == "edges":
                told[item.key] = self._edges(item, kept, cursor)
            elif item.field == "pageInfo":
                info = {
                    "hasNextPage": more and not backward,
                    "hasPreviousPage": more and backward,
                    "startCursor": cursor(kept[0]["c0"]) if kept else None,
                    "endCursor": cursor(kept[-1]["c0"]) if kept else None,
                    "__typename": "PageInfo",
                }
                told[item.key] = {below.key: info[below.field] for below in item.below}
            else:
                told[item.key] = "LedgerEventConnection"
        return told

    def _edges(
        self, edges: Wanted, rows: Sequence[Any], cursor: Callable[[int], str]
    ) -> list[dict[str, Any]]:
        if [item.field for item in edges.below] == ["node"]:
            key, node = edges.below[0].key, self._shape.node
            return [{key: node(row)} for row in rows]
        return [self._edge(edges, row, cursor) for row in rows]

    def _edge(self, edges: Wanted, row: Any, cursor: Callable[[int], str]) -> dict[str, Any]:
        edge: dict[str, Any] = {}
        for item in edges.below:
            if item.field == "node":
                edge[item.key] = self._shape.node(row)
            elif item.field == "cursor":
                edge[item.key] = cursor(row["c0"])
            else:
                edge[item.key] = "LedgerEventEdge"
        return edge


@lru_cache(maxsize=256)
def _connection_of(wanted: tuple[Wanted, ...]) -> _Connection:
    return _Connection(wanted)


@lru_cache(maxsize=256)
def _is_spelled(wanted: tuple[Wanted, ...]) -> bool:
    nodes = [
        node for edges in wanted if edges.field == "edges" for node in edges.below if node.field == "node"
    ]
    return len(nodes) <= 1 and all(_is_field(item) for node in nodes for item in node.below)


def _is_field(item: Wanted) -> bool:
    return item.field in SPELLED or item.field in NESTED or item.field in ("postings", "__typename")
