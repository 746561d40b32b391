"""What a document may ask for, and what is told of errors: judged without any transport."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from graphql import GraphQLError, get_introspection_query, parse
from graphql.validation import validate
from strawberry.extensions import SchemaExtension

from app.engine import limits
from app.engine.documents import Documents
from app.engine.limits import extensions
from app.engine.masking import Schema, ToldError, told
from app.errors import Conflict, ErrorCode, Invalid
from app.settings import Settings

from .conftest import Query, schema_of


class Asking:
    """The part of a context that is read here."""

    def __init__(self, key: str | None = None) -> None:
        self.operation_kind = self.operation_name = self.document_hash = ""
        self.bill = None
        self.request = type("R", (), {"id": "r1", "idempotency_key": key})()


async def ask(query: str | None, variables: Any = None, *, name: str | None = None, **settings: Any) -> Any:
    schema = schema_of(Settings(**settings))
    return await schema.execute(query, variables, context_value=Asking(), operation_name=name)


def codes(result: Any) -> list[Any]:
    return [error.extensions["code"] for error in result.errors or ()]


async def exceeded(query: str, variables: Any = None, **settings: Any) -> dict[str, Any]:
    result = await ask(query, variables, **settings)
    assert result.data is None
    (error,) = result.errors
    assert error.extensions["code"] == "LIMIT_EXCEEDED"
    return dict(error.extensions)


def nested(levels: int) -> str:
    return "{item" + "{items(first: 1)" * (levels - 2) + "{number}" + "}" * (levels - 2) + "}"


async def test_depth() -> None:
    assert (await ask(nested(5), depth_max=5)).errors is None
    assert await exceeded(nested(6), depth_max=5) == {
        "code": "LIMIT_EXCEEDED",
        "limit": "depth_max",
        "max": 5,
        "found": 6,
    }
    by_fragments = (
        "{item {...A}} fragment A on Item {items {...B}} fragment B on Item {items {items {number}}}"
    )
    assert (await exceeded(by_fragments, depth_max=4))["found"] == 5
    inline = "{item {... on Item {... {items {items {number}}}}}}"
    assert (await exceeded(inline, depth_max=3))["found"] == 4
    second = "query A {ping} query B " + nested(9)
    assert codes(await ask(second, name="A", depth_max=5)) == ["LIMIT_EXCEEDED"]


async def test_aliases() -> None:
    query = "{" + " ".join(f"a{n}: ping" for n in range(10)) + "}"
    assert (await ask(query, aliases_max=10)).errors is None
    assert (await exceeded(query, aliases_max=9))["found"] == 10
    spread = "{a: item {...F} b: item {...F}} fragment F on Item {x: number y: number}"
    assert (await exceeded(spread, aliases_max=5))["found"] == 6


async def test_fragments_that_double_are_counted_and_not_walked() -> None:
    doubling = "".join(
        f"fragment F{n} on Item {{a: items {{...F{n + 1}}} b: items {{...F{n + 1}}}}} " for n in range(150)
    )
    query = "{item {...F0}} " + doubling + "fragment F150 on Item {number}"
    began = time.perf_counter()
    assert (await exceeded(query, depth_max=500, tokens_max=10_000))["limit"] == "aliases_max"
    assert time.perf_counter() - began < 1
    wide = "{item {...F0}} " + "".join(
        f"fragment F{n} on Item {{items(first: 9) {{...F{n + 1}}}}} " for n in range(40)
    )
    found = await exceeded(wide + "fragment F40 on Item {number}", depth_max=500)
    assert (found["limit"], found["found"]) == ("cost_max", 10**15)


async def test_cycles_are_refused_as_such() -> None:
    for query in (
        "{item {...A}} fragment A on Item {items {...B}} fragment B on Item {items {...A}}",
        "{item {...A}} fragment A on Item {...A}",
        "{item {...Nothing}}",
    ):
        assert set(codes(await ask(query))) == {"GRAPHQL_VALIDATION_FAILED"}


async def test_tokens_comments_and_length() -> None:
    assert (await ask("{" + "ping " * 98 + "}", tokens_max=100)).errors is None
    assert codes(await ask("{" + "ping " * 99 + "}", tokens_max=100)) == ["LIMIT_EXCEEDED"]
    assert codes(await ask("#\n" * 1001 + "{ping}")) == ["LIMIT_EXCEEDED"]
    assert codes(await ask("{ping}" + " " * 262_144)) == ["LIMIT_EXCEEDED"]
    assert codes(await ask("{item" * 600 + "}" * 600)) == ["LIMIT_EXCEEDED"]
    assert (await ask("{" + "... {" * 150 + "ping" + "}" * 150 + "}")).data == {"ping": "pong"}
    for number in (250, 400):
        chain = "".join(f"fragment F{n} on Item {{...F{n + 1}}} " for n in range(number))
        query = "{item {...F0}} " + chain + f"fragment F{number} on Item {{number}}"
        assert codes(await ask(query)) == ["LIMIT_EXCEEDED"]
    assert codes(await ask("{" + "ping " * 3990 + "}")) == ["LIMIT_EXCEEDED"]


async def test_directives() -> None:
    query = "query($b: Boolean = true) {" + "ping @include(if: $b) " * 10 + "}"
    assert (await ask(query, directives_max=10)).errors is None
    assert (await exceeded(query, directives_max=9))["found"] == 10
    spread = "{a: item {...F @include(if: true)} b: item {...F}} fragment F on Item {number @skip(if: false)}"
    assert (await exceeded(spread, directives_max=2))["found"] == 3
    many = "query Q @skip(if: false) @skip(if: false) {ping}"
    assert (await exceeded(many, directives_max=1))["limit"] == "directives_max"


async def test_introspection_can_be_switched_off_and_is_not_counted_as_depth() -> None:
    query = get_introspection_query()
    assert (await ask(query, depth_max=3)).errors is None
    assert set(codes(await ask(query, introspection=False))) == {"GRAPHQL_VALIDATION_FAILED"}
    assert (await ask("{__typename}", introspection=False)).errors is None


async def test_the_same_text_is_parsed_and_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"parse": 0, "validate": 0}

    def parsing(*arguments: Any, **options: Any) -> Any:
        counts["parse"] += 1
        return parse(*arguments, **options)

    def validating(schema: Any, document: Any, rules: Any) -> Any:
        counts["validate"] += 1
        return validate(schema, document, rules)

    monkeypatch.setattr(limits, "parse", parsing)
    monkeypatch.setattr(limits, "validate", validating)
    schema = schema_of(Settings())
    for number in range(200):
        result = await schema.execute("query($n: Int) {items(first: $n) {number}}", {"n": number % 3 + 1})
        assert len(result.data["items"]) == number % 3 + 1
        assert codes(await schema.execute("{nothing}")) == ["GRAPHQL_VALIDATION_FAILED"]
    assert counts == {"parse": 2, "validate": 2}


async def test_a_document_set_by_an_extension_is_judged_too() -> None:
    document = parse("{items(first: 600) {items(first: 600) {number}}}")

    class Trusted(SchemaExtension):
        def on_operation(self) -> Iterator[None]:
            self.execution_context.graphql_document = document
            yield

    schema = Schema(Query, extensions=[Trusted, *extensions(Settings())], config=schema_of(Settings()).config)
    for _ in range(2):
        assert codes(await schema.execute(None)) == ["LIMIT_EXCEEDED"]


def test_remembered_documents_are_bounded_by_their_characters() -> None:
    documents = Documents(characters_max=100)
    for number in range(20):
        text = f"{{field_{number:03}}}"
        documents.add(text, parse(text))
        documents.get("{field_000}")
    assert documents.get("{field_000}") is not None
    assert documents.get("{field_001}") is None
    assert documents.get("{field_019}") is not None
    long = "{" + "a" * 200 + "}"
    assert documents.add(long, parse(long)).document.definitions
    assert documents.get(long) is None


async def test_the_context_learns_what_runs() -> None:
    schema = schema_of(Settings())
    for query, name, expected in (
        ('query A {ping} mutation B {note(text: "")}', "B", ("mutation", "B")),
        ("{ping}", None, ("query", "")),
        ("{nothing}", None, ("", "")),
    ):
        context = Asking()
        await schema.execute(query, context_value=context, operation_name=name)
        assert (context.operation_kind, context.operation_name) == expected


async def test_errors_of_hooks_and_of_documents_are_masked(noisy: None) -> None:
    class Broken(SchemaExtension):
        def on_execute(self) -> Iterator[None]:
            raise RuntimeError("the secret of the house")
            yield

    schema = Schema(Query, extensions=[*extensions(Settings()), Broken], config=schema_of(Settings()).config)
    result = await schema.execute("{ping}", context_value=Asking())
    (error,) = [told(error, "r1") for error in result.errors or ()]
    assert (error.message, error.extensions["code"]) == (
        "something went wrong on our side; request id r1",
        "INTERNAL",
    )


def test_what_is_told_of_an_error(noisy: None) -> None:
    def located(error: Exception) -> ToldError:
        return told(GraphQLError(str(error), path=["a"], original_error=error), "r1")

    refused = located(Conflict(ErrorCode.VERSION_CONFLICT, "changed meanwhile", "input.expectedVersion"))
    assert refused.formatted["extensions"] == {"code": "VERSION_CONFLICT", "field": "input.expectedVersion"}
    assert located(Invalid("too long")).extensions == {"code": "VALIDATION_FAILED"}
    assert located(ValueError("Argument 'x' is our secret")).extensions["code"] == "INTERNAL"
    assert located(GraphQLError("Argument 'x' has invalid value")).extensions["code"] == "BAD_USER_INPUT"
    assert located(GraphQLError("a decimal that is not finite")).extensions["code"] == "INTERNAL"
    assert told(refused) is refused
    assert refused.original_error is None


async def test_a_permission_refused_is_forbidden() -> None:
    result = await ask('{refused(kind: "forbidden")}')
    assert codes(result) == ["FORBIDDEN"]
