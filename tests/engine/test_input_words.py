"""What is said of bad input is said in the words of who sent it: their names, and nothing of Python's."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLScalarType,
    is_required_input_field,
    parse,
)
from graphql.execution.values import get_variable_values

from app import schema
from app.context import Services
from app.engine.masking import told_all
from app.http.wire import decode
from app.settings import Settings
from tests import factories
from tests.conftest import Run
from tests.factories import Place

FRACTION = decode("1.5")
AS_OF = "query ($at: AsOf!, $id: ID!) { position(id: $id, asOf: $at) { id } }"
BAD = [FRACTION, [[FRACTION]], {"b": {"c": FRACTION}}, 7, -1, 2**40, "x", "", True, [], {}, None]
GOOD = {
    "Int": 1,
    "Long": 1,
    "Boolean": True,
    "Decimal": "1",
    "DateTime": "2026-01-01T00:00:00Z",
    "JSONObject": {},
}
PYTHONS = re.compile(r"instance>|Decimal\(|object at 0x|\b[a-z]+_[a-z]+\b")


@pytest.fixture
async def place(services: Services) -> Place:
    return await factories.place(services)


def good(wanted: Any) -> Any:
    """The smallest value of an input type."""
    match wanted:
        case GraphQLNonNull():
            return good(wanted.of_type)
        case GraphQLList():
            return [good(wanted.of_type)]
        case GraphQLEnumType():
            return next(iter(wanted.values))
        case GraphQLInputObjectType():
            return {
                name: good(one.type) for name, one in wanted.fields.items() if is_required_input_field(one)
            }
    return GOOD.get(wanted.name, "x")


def bad_values(wanted: Any) -> Iterator[Any]:
    """Values that are not of the type, or whose fields are not of theirs."""
    yield from BAD
    if isinstance(wanted, GraphQLInputObjectType):
        yield from ({**good(wanted), name: value} for name in wanted.fields for value in BAD)


def test_no_input_type_speaks_of_python() -> None:
    core = schema.build(Settings())._schema
    kinds = (GraphQLInputObjectType, GraphQLScalarType, GraphQLEnumType)
    types = [one for name, one in core.type_map.items() if isinstance(one, kinds) and name[:2] != "__"]
    refused = 0
    for wanted in types:
        (operation,) = parse(f"query ($v: {wanted.name}!) {{ __typename }}").definitions
        for value in bad_values(wanted):
            try:
                found = get_variable_values(core, operation.variable_definitions, {"v": value})  # type: ignore[attr-defined]
            except GraphQLError as error:
                found = [error]
            for error in told_all(found if isinstance(found, list) else [], "req"):
                assert error.extensions is not None
                assert error.extensions["code"] == "BAD_USER_INPUT"
                assert not PYTHONS.search(error.message), error.message
                refused += 1
    assert refused > 1_000


async def test_a_fraction_where_a_whole_number_is_asked_is_called_one(run: Run, place: Place) -> None:
    variables = json.loads('{"n": 1.5}', parse_float=decode)
    answered = await run(
        "query ($n: Int!) { positions(first: $n) { totalCount } }", variables, principal=place.admin
    )
    assert answered.codes == ["BAD_USER_INPUT"]
    assert "Int cannot represent non-integer value: a fraction" in answered.errors[0].message


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"holderReference": {}}, "holderReference: its test has no value"),
        ({"holderReference": {"in": ["x"] * 101}}, "`in` of holderReference takes at most 100 values"),
        ({"externalReference": {"eq": "x" * 2000}}, "externalReference: text must have between"),
        ({"institutionId": {"eq": "a\0"}}, "institutionId: "),
    ],
)
async def test_a_filter_is_called_as_it_was_written(
    run: Run, place: Place, where: dict[str, Any], words: str
) -> None:
    answered = await run(
        "query ($where: PositionWhere) { positions(where: $where) { totalCount } }",
        {"where": where},
        principal=place.admin,
    )
    assert answered.codes == ["BAD_REQUEST"]
    assert answered.errors[0].message.startswith(words)


@pytest.mark.parametrize(
    "at", [{}, {"sequence": 1, "time": "2126-01-01T00:00:00Z"}, {"sequence": None}], ids=str
)
async def test_an_input_that_takes_exactly_one_field_says_so(
    run: Run, services: Services, place: Place, at: dict[str, Any]
) -> None:
    position = await factories.position(services, place.asset)
    answered = await run(AS_OF, {"at": at, "id": position.id}, principal=place.admin)
    assert answered.codes == ["BAD_USER_INPUT"]
    assert re.search("exactly one key|must be non-null", answered.errors[0].message)
