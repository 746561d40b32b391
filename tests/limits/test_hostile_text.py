"""Text that the database would not take, in every place of the schema where text or an id can be written."""

from collections.abc import Iterator
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    get_named_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
)

from app import schema
from app.settings import Settings
from tests.conftest import Live, Run

CORE: Any = schema.build(Settings())._schema
DEPTH_MAX = 3
FINE = {
    "ID": '"pos_00000000000000000000000000"',
    "String": '"x"',
    "Int": "1",
    "Long": "1",
    "Boolean": "true",
    "Decimal": '"1"',
    "DateTime": '"2026-01-01T00:00:00Z"',
    "JSONObject": "{}",
}
TEXTS = {"NUL": '"a\\u0000b"', "many": '"' + "x" * 5000 + '"'}


def fine(given: Any) -> str:
    """The smallest value of a type."""
    if isinstance(given, GraphQLNonNull):
        return fine(given.of_type)
    if isinstance(given, GraphQLList):
        return f"[{fine(given.of_type)}]"
    if isinstance(given, GraphQLEnumType):
        return next(iter(given.values))
    if isinstance(given, GraphQLInputObjectType):
        return (
            "{"
            + ", ".join(f"{n}: {fine(f.type)}" for n, f in given.fields.items() if is_required_input_field(f))
            + "}"
        )
    return FINE[given.name]


def spellings(given: Any, text: str, depth: int) -> Iterator[tuple[str, str]]:
    """The places of text in a value of a type, each with the value that has `text` there and is fine elsewhere."""
    if isinstance(given, GraphQLNonNull):
        yield from spellings(given.of_type, text, depth)
    elif isinstance(given, GraphQLList):
        yield from ((f"{place}[0]", f"[{value}]") for place, value in spellings(given.of_type, text, depth))
    elif isinstance(given, GraphQLInputObjectType) and depth:
        for name, item in given.fields.items():
            others = {
                n: fine(f.type) for n, f in given.fields.items() if is_required_input_field(f) and n != name
            }
            for place, value in spellings(item.type, text, depth - 1):
                whole = {**others, name: value}
                yield f".{name}{place}", "{" + ", ".join(f"{n}: {v}" for n, v in whole.items()) + "}"
    elif getattr(given, "name", "") in {"ID", "String"}:
        yield "", text
    elif getattr(given, "name", "") == "JSONObject":
        yield ".a", f"{{a: {text}}}"


def documents() -> Iterator[Any]:
    """One for each place in the arguments of each root field."""
    roots = {"query": CORE.query_type, "mutation": CORE.mutation_type, "subscription": CORE.subscription_type}
    for kind, root in roots.items():
        for name, field in root.fields.items():
            below = "" if is_leaf_type(get_named_type(field.type)) else "{ __typename }"
            if kind == "mutation":
                below = "{ userErrors { code } }"
            for label, text in TEXTS.items():
                for argument, definition in field.args.items():
                    for place, value in spellings(definition.type, text, DEPTH_MAX):
                        given = {
                            n: fine(d.type)
                            for n, d in field.args.items()
                            if is_required_argument(d) and n != argument
                        }
                        spelled = ", ".join(f"{n}: {v}" for n, v in {**given, argument: value}.items())
                        yield pytest.param(
                            kind,
                            f"{kind} {{ {name}({spelled}) {below} }}",
                            id=f"{name}.{argument}{place}-{label}",
                        )


@pytest.mark.parametrize("kind", ["query", "mutation", "subscription"])
async def test_hostile_text_is_the_callers_mistake_everywhere(kind: str, run: Run, live: Live) -> None:
    failed = []
    for param in documents():
        found, document = param.values
        if found != kind:
            continue
        if kind == "subscription":
            codes = await first_codes(live, document)
        else:
            codes = (await run(document)).codes
        if "INTERNAL" in codes:
            failed.append(param.id)
    assert not failed


async def first_codes(live: Live, document: str) -> list[str]:
    """The codes of the first message; a stream that has none to tell is fine."""
    import asyncio

    async with live(document) as results:
        try:
            result = await asyncio.wait_for(anext(results), 0.2)
        except (TimeoutError, StopAsyncIteration):
            return []
        return [error.extensions["code"] for error in result.errors or ()]
