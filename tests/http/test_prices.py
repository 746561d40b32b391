"""What operations cost: estimated before they run, reckoned again from their answers. No transport, no database."""

import time
from typing import Annotated, Any, cast

import pytest
import strawberry
from graphql import parse
from strawberry.schema.config import StrawberryConfig

from app.engine.limits import extensions
from app.engine.masking import Schema
from app.engine.measures import fragments_of, operations_of
from app.engine.prices import Prices, sizing_variables
from app.engine.reckoning import Reckoner
from app.engine.scalars import SCALARS
from app.settings import Settings

from .conftest import schema_of
from .test_documents import Asking

LISTS: list[tuple[str, Any, int]] = [
    ("{ping}", None, 1),
    ('{ping echo(text: "") __typename}', None, 1),
    ("{item {number}}", None, 1),
    ("{a: item {number} b: item {number}}", None, 2),
    ("{items(first: 5) {number}}", None, 5),
    ("{items {number}}", None, 50),
    ("{items(first: null) {number}}", None, 50),
    ("{items(last: 7) {number}}", None, 7),
    ("{items(first: -5) {number}}", None, 1),
    ("{items(first: 5) {items(first: 3) {items(first: 2) {number}}}}", None, 5 + 15 + 30),
    ("{items(first: 5) {a: items(first: 3) {number} b: items(last: 2) {number}}}", None, 5 + 15 + 10),
    ("query($n: Int) {items(first: $n) {number}}", {"n": 9}, 9),
    ("query($n: Int) {items(first: $n) {number}}", {"n": None}, 50),
    ("query($n: Int) {items(first: $n) {number}}", {}, 50),
    ("query($n: Int = 4) {items(first: $n) {number}}", {}, 4),
    ("query($n: Int = 4) {items(first: $n) {number}}", {"n": 6}, 6),
    ("query($b: Boolean!) {items(first: 3) @skip(if: $b) {number}}", {"b": True}, 1),
    ("query($b: Boolean!) {items(first: 3) @skip(if: $b) {number}}", {"b": False}, 3),
    ("query($b: Boolean!) {items(first: 3) @include(if: $b) {number}}", {"b": True}, 3),
    ("query($b: Boolean = false) {... @include(if: $b) {items(first: 3) {number}}}", {}, 1),
    ("{item @include(if: false) {items(first: 3) {number}}}", None, 1),
    ("{items(first: 2) {...F}} fragment F on Item {items(first: 3) {number}}", None, 8),
    ("{items(first: 2) {... on Item {items(first: 3) {number}}}}", None, 8),
    ("{item {items(first: 4) {number}} ping __typename}", None, 5),
    ('{__type(name: "Item") {name}}', None, 50),
    ("{__schema {types {name}}}", None, 500),
]


@pytest.mark.parametrize(("query", "variables", "expected"), LISTS)
async def test_lists_are_multiplied(query: str, variables: Any, expected: int) -> None:
    schema, context = schema_of(Settings()), Asking()
    result = await schema.execute(query, variables, context_value=context)
    assert result.errors is None
    assert context.bill is not None
    assert context.bill.estimate.requested == expected


@strawberry.type
class Row:
    id: strawberry.ID
    parts: list["Row"] = strawberry.field(default_factory=list)
    one: "Row | None" = None

    @strawberry.field
    def below(self, first: int | None = None) -> "Rows":
        return rows(first or 2)


@strawberry.type
class RowEdge:
    cursor: str
    node: Row


@strawberry.type
class Info:
    end: str = ""


@strawberry.type
class Rows:
    edges: list[RowEdge]
    page_info: Info
    total_count: int = 0


def rows(count: int) -> Rows:
    made = [RowEdge(cursor="", node=Row(id=strawberry.ID(str(n)))) for n in range(count)]
    return Rows(edges=made, page_info=Info())


@strawberry.type
class Made:
    results: list[Row]


@strawberry.input
class Things:
    items: list[int]
    note: str = ""


@strawberry.type
class Query:
    @strawberry.field
    def rows(self, first: int | None = None, after: str | None = None) -> Rows:
        return rows(min(first or 3, 3))

    @strawberry.field
    def row(self, there: bool = True) -> Row | None:
        parts = [Row(id=strawberry.ID(str(n))) for n in range(4)]
        return Row(id=strawberry.ID("1"), parts=parts) if there else None

    @strawberry.field(metadata={"cost": 40})
    def summary(self) -> list[Row]:
        return [Row(id=strawberry.ID("1"))]

    @strawberry.field
    def broken(self, first: int = 2) -> list[Row] | None:
        raise RuntimeError("the secret of the house")


@strawberry.type
class Mutation:
    @strawberry.mutation
    def make(self, input: Annotated[Things, strawberry.argument(description="x")]) -> Made:
        return Made(results=[Row(id=strawberry.ID(str(n))) for n in input.items])

    @strawberry.mutation
    def set(self, note: str = "") -> Row:
        return Row(id=strawberry.ID("1"))


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def row(self) -> Any:
        yield None


def schema_of_rows(**settings: Any) -> Schema:
    return Schema(
        Query,
        Mutation,
        extensions=extensions(Settings(**settings)),
        config=StrawberryConfig(scalar_map=cast("Any", SCALARS)),
    )


PAGES: list[tuple[str, Any, int, int]] = [
    # rows of a page, edges and all, are what the nodes are
    ("{rows(first: 10) {edges {node {id}}}}", None, 10, 3),
    ("{rows(first: 10) {edges {cursor}}}", None, 10, 3),
    ("{rows {edges {node {id}}}}", None, 50, 3),
    ("{rows(first: 10) {totalCount}}", None, 10, 10),
    ("{rows(first: 10) {edges {node {id}} pageInfo {end}}}", None, 11, 4),
    ("{rows(first: 10) {edges {node {id below(first: 5) {edges {node {id}}}}}}}", None, 60, 3 + 15),
    (
        "{rows(first: 10) {...F}} fragment F on Rows {edges {...G}} fragment G on RowEdge {node {id}}",
        None,
        10,
        3,
    ),
    ("{a: rows(first: 2) {b: edges {c: node {id}}}}", None, 2, 2),
    # a plain list says nothing of its length
    ("{row {parts {id}}}", None, 1 + 10, 1 + 4),
    ("{row {parts {one {id}}}}", None, 1 + 20, 1 + 8),
    ("{row(there: false) {parts {id}}}", None, 11, 1),
    # what a field declares
    ("{summary {id}}", None, 50, 41),
    # mutations by the items of their input
    ("mutation {set {id}}", None, 11, 11),
    ("mutation {a: set {id} b: set {id}}", None, 22, 22),
    ("mutation {make(input: {items: [1, 2, 3]}) {results {id}}}", None, 30 + 1 + 3, 34),
    ("mutation($i: Things!) {make(input: $i) {results {id}}}", {"i": {"items": [1, 2]}}, 23, 23),
    ("mutation($i: [Int!]!) {make(input: {items: $i}) {results {id}}}", {"i": [1] * 100}, 1101, 1101),
    ("mutation {make(input: {items: [1]}) {results {parts {id}}}}", None, 10 + 1 + 2 * 11, 12),
]


@pytest.mark.parametrize(("query", "variables", "requested", "actual"), PAGES)
async def test_the_answer_says_what_it_came_to(
    query: str, variables: Any, requested: int, actual: int
) -> None:
    context = Asking()
    result = await schema_of_rows().execute(query, variables, context_value=context)
    assert result.errors is None
    assert context.bill is not None
    assert context.bill.estimate.requested == requested
    assert context.bill.estimate.reckoning.of(result.data) == actual


async def test_what_costs_too_much_runs_nothing_and_names_the_setting() -> None:
    query = "query($n: Int) {items(first: $n) {items(first: $n) {number}}}"
    schema = schema_of(Settings(cost_max=100))
    assert (await schema.execute(query, {"n": 9}, context_value=Asking())).errors is None
    result = await schema.execute(query, {"n": 10}, context_value=Asking())
    assert result.data is None
    (error,) = result.errors or ()
    assert error.extensions == {"code": "LIMIT_EXCEEDED", "limit": "cost_max", "max": 100, "found": 110}


async def test_a_broken_list_is_reckoned_as_none(noisy: None) -> None:
    context = Asking()
    result = await schema_of_rows().execute("{broken {id}}", context_value=context)
    assert context.bill is not None
    assert context.bill.estimate.reckoning.of(result.data) == 0


def test_reckoning_a_large_page_costs_little_beside_the_page() -> None:
    core = schema_of_rows()._schema
    query = "{rows(first: 50) {edges {node {id below(first: 10) {edges {node {id}}}}}}}"
    document = parse(query)
    (operation,) = operations_of(document)
    prices = Prices(core, fragments_of(document), sizing_variables(operation, {}), 50)
    assert prices.of(operation) == 550
    inner = {"below": {"edges": [{"node": {"id": "1"}}] * 10}, "id": "1"}
    data = {"rows": {"edges": [{"node": inner}] * 50}}
    reckoning = Reckoner(prices).of(operation)
    began = time.perf_counter()
    for _ in range(20):
        assert reckoning.of(data) == 550
    assert (time.perf_counter() - began) / 20 < 0.002
