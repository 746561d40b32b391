"""What makes subscribers alike: the same document, the same variables, the right to see the same."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from graphql import FieldNode, GraphQLError, OperationDefinitionNode, OperationType, VariableNode, parse

from app.context import Context
from app.http.operation import Asked
from app.kit.canonical import Json, NotCanonical, canonical_json

# Longer documents run alone: what is kept of each is bounded.
SHARED_CHARACTERS_MAX = 16_384
STREAMS_MAX = 512


def likeness(context: Context, asked: Asked) -> Hashable | None:
    """What members of a group have in common; None for what is never shared."""
    if asked.query is None or len(asked.query) > SHARED_CHARACTERS_MAX:
        return None
    found = _live(asked.query, asked.operation_name, context.services.settings.tokens_max)
    if found is None:
        return None
    variables = {name: value for name, value in (asked.variables or {}).items() if name != found.after}
    # Exact: the text "1.5" is not the number 1.5, and a number may be of any length.
    try:
        spelled = canonical_json(cast("Json", variables))
    except NotCanonical:
        return None
    who = context.principal
    return (asked.query, asked.operation_name, spelled, who.tenant, who.role, who.scopes)


@dataclass(frozen=True, slots=True)
class _Live:
    """A subscription, and the variable that says where each subscriber begins: it sets nobody apart."""

    after: str | None


@lru_cache(maxsize=STREAMS_MAX)
def _live(query: str, operation_name: str | None, tokens_max: int) -> _Live | None:
    try:
        document = parse(query, no_location=True, max_lexical_tokens=tokens_max)
    except (GraphQLError, RecursionError):
        return None
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    named = [node for node in operations if node.name is not None and node.name.value == operation_name]
    chosen = named or (operations if operation_name is None and len(operations) == 1 else [])
    if not chosen or chosen[0].operation is not OperationType.SUBSCRIPTION:
        return None
    for field in chosen[0].selection_set.selections:
        for argument in (field.arguments or ()) if isinstance(field, FieldNode) else ():
            if argument.name.value == "after" and isinstance(argument.value, VariableNode):
                return _Live(argument.value.name.value)
    return _Live(None)
