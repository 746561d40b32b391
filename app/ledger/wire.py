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

Column = Callable[[Sequence[Any]], list[Any]]


class Shape:
    """The SQL columns that a selection needs, and how rows of them become nodes."""

    def __init__(self, wanted: tuple[Wanted, ...]) -> None:
        # Behind the event's number in the order of its reader.
        self.columns: list[str] = []
        self._keys = tuple(item.key for item in wanted)
        self._columns = [self._column(item) for item in wanted]

    def nodes(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """The nodes that rows (their columns in order) make: a column at a time, so that nothing is called per row."""
        return _dicts(self._keys, [column(rows) for column in self._columns], len(rows))

    def _place(self, spelled: str) -> Column:
        self.columns.append(f"{spelled} AS c{len(self.columns) + 1}")
        read = itemgetter(len(self.columns))
        return lambda rows: list(map(read, rows))

    def _column(self, item: Wanted) -> Column:
        if item.field == "__typename":
            return _same("LedgerEvent")
        if item.field == "postings":
            return self._postings(item)
        if item.field in NESTED:
            return self._nested(item)
        return self._place(SPELLED[item.field])

    def _nested(self, item: Wanted) -> Column:
        spelled, typename = NESTED[item.field], TYPENAMES[item.field]
        keys = tuple(below.key for below in item.below)
        columns = [
            _same(typename) if below.field == "__typename" else self._place(spelled[below.field])
            for below in item.below
        ]
        return lambda rows: _dicts(keys, [column(rows) for column in columns], len(rows))

    def _postings(self, item: Wanted) -> Column:
        texts, typename = self._place("postings::text"), TYPENAMES["postings"]
        parts = [(below.key, POSTING.get(below.field)) for below in item.below]
        return lambda rows: [
            [{key: typename if at is None else leg[at] for key, at in parts} for leg in orjson.loads(text)]
            for text in texts(rows)
        ]


def _same(value: str) -> Column:
    return lambda rows: [value] * len(rows)


def _dicts(keys: tuple[str, ...], columns: Sequence[Sequence[Any]], size: int) -> list[dict[str, Any]]:
    """A dict for each row of the columns."""
    if not keys:
        return [{} for _ in range(size)]
    return [dict(zip(keys, values, strict=False)) for values in zip(*columns, strict=True)]


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
        spell = context.services.tail.epochs.cursor
        answers = connection.answers(rows, len(ids), request, lambda number: spell(scope, number))
        told = dict(zip(zip(ids, versions, strict=True), answers, strict=True))
        return [told[parent] for parent in parents]


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
            "SELECT e.*, p.place FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS p (id, upto, place) "
            f"CROSS JOIN LATERAL (SELECT {columns} FROM ledger_events "
            f"WHERE position_id = p.id AND position_version <= p.upto {tenant}"
            f"ORDER BY position_version {'DESC' if down else 'ASC'} LIMIT $3) AS e"
        )

    def answers(
        self, rows: Sequence[Any], parents: int, request: PageRequest, cursor: Callable[[int], str]
    ) -> list[dict[str, Any]]:
        """The connection of each parent; each row ends with the number of its parent, from 1."""
        pages: list[list[Any]] = [[] for _ in range(parents)]
        for place, group in itertools.groupby(rows, key=itemgetter(len(self._shape.columns) + 1)):
            pages[place - 1] += group
        has_more = [len(page) > request.size for page in pages]
        pages = [page[: request.size] for page in pages]
        if request.backward:
            pages = [page[::-1] for page in pages]
        nodes = iter(self._shape.nodes([row for page in pages for row in page]))
        return [
            self._answer(page, list(itertools.islice(nodes, len(page))), request, more, cursor)
            for page, more in zip(pages, has_more, strict=True)
        ]

    def _answer(
        self,
        rows: Sequence[Any],
        nodes: Sequence[dict[str, Any]],
        request: PageRequest,
        more: bool,  # noqa: FBT001 - of this page
        cursor: Callable[[int], str],
    ) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for item in self._wanted:
            if item.field == "edges":
                told[item.key] = self._edges(item, rows, nodes, cursor)
            elif item.field == "pageInfo":
                info = {
                    "hasNextPage": more and not request.backward,
                    "hasPreviousPage": more and request.backward,
                    "startCursor": cursor(rows[0][0]) if rows else None,
                    "endCursor": cursor(rows[-1][0]) if rows else None,
                    "__typename": "PageInfo",
                }
                told[item.key] = {below.key: info[below.field] for below in item.below}
            else:
                told[item.key] = "LedgerEventConnection"
        return told

    @staticmethod
    def _edges(
        edges: Wanted, rows: Sequence[Any], nodes: Sequence[dict[str, Any]], cursor: Callable[[int], str]
    ) -> list[dict[str, Any]]:
        columns: list[Sequence[Any]] = []
        for item in edges.below:
            if item.field == "node":
                columns.append(nodes)
            elif item.field == "cursor":
                columns.append([cursor(row[0]) for row in rows])
            else:
                columns.append(["LedgerEventEdge"] * len(rows))
        return _dicts(tuple(item.key for item in edges.below), columns, len(rows))


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
