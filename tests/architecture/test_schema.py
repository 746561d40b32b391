"""What holds for the whole GraphQL schema: described throughout, permitted field by field, and written down."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
    is_specified_directive,
    is_specified_scalar_type,
)

from app.context import Context, Request, Services, may
from app.engine.masking import Schema
from app.main import assemble
from app.principal import Scope
from app.settings import Settings
from app.storage.database import Address

REPOSITORY = Path(__file__).resolve().parents[2]
# Whoever has a valid key may ask who they are.
OPEN_FIELDS = {"viewer"}
WRITES = {may(scope) for scope in Scope if scope not in (Scope.READ, Scope.AUDIT_READ)}


@pytest.fixture(scope="module")
def core(built_schema: Schema) -> GraphQLSchema:
    return built_schema._schema


def fields_of(schema: Schema, root: str) -> list[Any]:
    definition = schema.schema_converter.type_map[root].definition
    return list(definition.fields)  # type: ignore[union-attr]


def named_types(core: GraphQLSchema) -> list[GraphQLNamedType]:
    return [
        found
        for name, found in core.type_map.items()
        if not name.startswith("__") and not is_specified_scalar_type(found)
    ]


@pytest.mark.parametrize("root", ["Mutation", "Subscription", "Query"])
def test_every_root_field_declares_who_may(built_schema: Schema, root: str) -> None:
    fields = fields_of(built_schema, root)
    assert fields
    silent = {field.python_name for field in fields if not field.permission_classes}
    assert silent == (OPEN_FIELDS if root == "Query" else set())


def test_every_mutation_needs_more_than_reading(built_schema: Schema) -> None:
    for field in fields_of(built_schema, "Mutation"):
        assert set(field.permission_classes) <= WRITES, field.python_name


@pytest.fixture
def strangers(settings: Settings) -> Services:
    """Nobody gets so far that anything is asked of the database, which is not there."""
    return assemble(settings, Address.of("postgresql://nobody@127.0.0.1:1/none")).services


SCALARS = {"ID": '"x"', "String": '"x"', "Int": "1", "Boolean": "true", "Decimal": '"1"', "JSONObject": "{}"}


def literal(given: Any) -> str:
    """The smallest value of an input type."""
    if isinstance(given, GraphQLNonNull):
        return literal(given.of_type)
    if isinstance(given, GraphQLList):
        return f"[{literal(given.of_type)}]"
    if isinstance(given, GraphQLEnumType):
        return next(iter(given.values))
    if isinstance(given, GraphQLInputObjectType):
        return "{" + values(given.fields, is_required_input_field) + "}"
    return SCALARS[given.name]


def values(wanted: dict[str, Any], required: Any) -> str:
    return ", ".join(f"{name}: {literal(item.type)}" for name, item in wanted.items() if required(item))


def document(root: str, name: str, field: GraphQLField) -> str:
    """The shortest operation with this one field."""
    arguments = values(field.args, is_required_argument)
    selection = "" if is_leaf_type(get_named_type(field.type)) else "{ __typename }"
    return f"{root} {{ {name}{f'({arguments})' if arguments else ''} {selection} }}"


async def test_nobody_gets_anything_without_a_key(
    built_schema: Schema, core: GraphQLSchema, strangers: Services
) -> None:
    roots = {"query": core.query_type, "mutation": core.mutation_type, "subscription": core.subscription_type}
    for root, found in roots.items():
        assert found is not None
        for name, field in found.fields.items():
            context = Context(strangers, None, Request("req_test"))
            text = document(root, name, field)
            if root == "subscription":
                stream = await built_schema.stream(text, context_value=context)
                result = await anext(stream)
                await stream.aclose()
            else:
                result = await built_schema.execute(text, context_value=context)
            await context.close()
            assert [(error.extensions or {}).get("code") for error in result.errors or ()] == [
                "UNAUTHENTICATED"
            ], text


def described(core: GraphQLSchema) -> Iterator[tuple[str, Any]]:
    """Everything that can have a description, by name."""
    for found in named_types(core):
        yield found.name, found
        if isinstance(found, GraphQLObjectType | GraphQLInterfaceType):
            for name, field in found.fields.items():
                yield f"{found.name}.{name}", field
                yield from (
                    (f"{found.name}.{name}({argument}:)", item) for argument, item in field.args.items()
                )
        elif isinstance(found, GraphQLInputObjectType):
            yield from ((f"{found.name}.{name}", item) for name, item in found.fields.items())
        elif isinstance(found, GraphQLEnumType):
            yield from ((f"{found.name}.{name}", value) for name, value in found.values.items())
    yield from ((f"@{one.name}", one) for one in core.directives if not is_specified_directive(one))


def test_everything_is_described(core: GraphQLSchema) -> None:
    things = dict(described(core))
    assert len(things) > 500
    said = {name: thing.description or "" for name, thing in things.items()}
    assert not {name: words for name, words in said.items() if len(words) < 4 or words[-1] not in ".)"}


def test_lists_are_connections_with_four_arguments(core: GraphQLSchema) -> None:
    for found in named_types(core):
        if isinstance(found, GraphQLObjectType):
            for name, field in found.fields.items():
                if get_named_type(field.type).name.endswith("Connection"):
                    assert {"first", "after", "last", "before"} <= set(field.args), f"{found.name}.{name}"


def test_payloads_tell_their_refusals(core: GraphQLSchema) -> None:
    assert core.mutation_type is not None
    for name, field in core.mutation_type.fields.items():
        payload = get_named_type(field.type)
        assert isinstance(payload, GraphQLObjectType), name
        assert payload.name.endswith("Payload"), name
        assert str(payload.fields["userErrors"].type) == "[UserError!]!", name
        for other, item in payload.fields.items():
            # A refused mutation has nothing else to tell.
            allowed = other in ("userErrors", "replayed", "results") or not isinstance(
                item.type, GraphQLNonNull
            )
            assert allowed, (name, other)


def test_the_schema_is_written_down() -> None:
    """`make schema` writes it; what is written is what is served."""
    from app.schema import build

    assert (REPOSITORY / "schema.graphql").read_text() == build(Settings()).as_str() + "\n"
