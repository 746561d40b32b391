"""Remembers documents already parsed and judged, within a bound of characters, not of documents."""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphql import DocumentNode, GraphQLError, GraphQLSchema, OperationDefinitionNode, OperationType

from app.engine.measures import RootFields, fragments_of, operations_of

# One character of a document becomes about 70 to 130 bytes of syntax tree, at the very worst 280. What is found out
# about it is counted as characters that take as much.
CHARACTERS_MAX = 500_000
ERROR_CHARACTERS = 8
COST_CHARACTERS = 2
COSTS_MAX = 64
NO_FIELDS: Mapping[str, int] = {}


@dataclass(slots=True)
class Known:
    """One document and what was found out about it; the findings are None until it is judged."""

    document: DocumentNode
    size: int
    schema: GraphQLSchema | None = None
    rules: tuple[Any, ...] = ()
    errors: Sequence[GraphQLError] | None = None
    costs: dict[Hashable, Any] = field(default_factory=dict)
    # For the log: the first part of the sha-256 of its text.
    hash: str = ""
    operations: tuple[OperationDefinitionNode, ...] = ()
    key: str | int = ""
    _fields: dict[int, Mapping[str, int]] = field(default_factory=dict)

    def judged_by(self, schema: GraphQLSchema, rules: tuple[Any, ...]) -> Sequence[GraphQLError] | None:
        """What these rules found in it, if they have been applied."""
        return self.errors if self.schema is schema and self.rules == rules else None

    def root_fields(self, operation: OperationDefinitionNode) -> Mapping[str, int]:
        """How often each root field of a mutation is asked for; of others nobody asks."""
        if operation.operation is not OperationType.MUTATION:
            return NO_FIELDS
        found = self._fields.get(id(operation))
        if found is None:
            found = RootFields(fragments_of(self.document)).of(operation.selection_set)
            self._fields[id(operation)] = found
        return found


class Documents:
    """The documents used last; those set from elsewhere (trusted documents) are known by identity."""

    def __init__(self, characters_max: int = CHARACTERS_MAX) -> None:
        self._characters_max = characters_max
        self._characters = 0
        self._known: OrderedDict[str | int, Known] = OrderedDict()

    def get(self, key: str | int) -> Known | None:
        """The document with this text, or this identity."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def __len__(self) -> int:
        return len(self._known)

    @property
    def characters(self) -> int:
        """What they come to, with what was found out about them."""
        return self._characters

    def add(self, key: str | int, document: DocumentNode) -> Known:
        """Remember a document; the ones used longest ago make room."""
        source = document.loc.source.body if document.loc is not None else ""
        known = Known(document, 0, hash=short_hash(source), operations=operations_of(document), key=key)
        self._drop(key)
        self._known[key] = known
        self._weigh(known, max(len(source), 1))
        return known

    def keep(
        self, known: Known, schema: GraphQLSchema, rules: tuple[Any, ...], errors: Sequence[GraphQLError]
    ) -> None:
        """Remember what these rules found in it."""
        known.schema, known.rules, known.errors = schema, rules, errors
        known.costs.clear()
        self._weigh(known, ERROR_CHARACTERS * len(errors))

    def keep_cost(self, known: Known, key: Hashable, cost: Any, size: int = 1) -> None:
        """Remember a cost of that size, unless somebody counts through all the numbers there are."""
        if len(known.costs) < COSTS_MAX:
            known.costs[key] = cost
            self._weigh(known, COST_CHARACTERS * size)

    def _weigh(self, known: Known, more: int) -> None:
        if self._known.get(known.key) is not known:
            return
        known.size += more
        self._characters += more
        while self._characters > self._characters_max:
            self._drop(next(iter(self._known)))

    def _drop(self, key: str | int) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._characters -= known.size


def short_hash(text: str) -> str:
    """Enough of a document's sha-256 to find it again."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
