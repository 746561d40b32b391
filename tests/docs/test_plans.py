"""Every document that is handed out is run by a plan: graphql-core is asked for none of them."""

from pathlib import Path
from random import Random
from typing import Any

from graphql import (
    OperationDefinitionNode,
    OperationType,
    parse,
    parse_value,
    type_from_ast,
    value_from_ast_untyped,
)

from app import schema
from app.context import Context, Request, Services
from app.engine.compiled import Plans
from app.principal import root
from app.settings import Settings
from tests.docs.blocks import blocks
from tests.docs.test_documents import DOCUMENTS, OPERATIONS, _in_block, fill
from tests.engine.documents import Author, Known
from tests.serving import ROOT

SAVED = {operation["name"]: operation["variables"] for operation in OPERATIONS}
KNOWN = Known(ids=["pos_" + "0" * 26], cursors=["x"], texts=["USD"], times=["2026-01-01T00:00:00Z"])


def in_pages() -> dict[str, str]:
    """Those in the pages under docs/ and beside the examples."""
    pages: list[Path] = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / "frontend-examples").rglob("*.md")]
    return {
        f"{page.name}-{block.line}-{number}": text
        for page in pages
        for block in blocks(page)
        for number, text in enumerate(_in_block(block.language, block.text))
    }


class Anything(dict[str, Any]):
    """What a question is filled in from: each thing that it looks for is there, and so is what is inside of it."""

    def __missing__(self, name: str) -> Any:
        if name in {"asset", "institution", "template"}:
            return Anything()
        return KNOWN.ids[0] if name == "id" else "USD"


def variables(built: Any, operation: OperationDefinitionNode, saved: Any) -> dict[str, Any]:
    """Something for each variable that has to be given."""
    author = Author(Random(1), built._schema, KNOWN)
    found = fill(dict(saved), Anything())
    for one in operation.variable_definitions or ():
        name = one.variable.name.value
        if name not in found and one.default_value is None:
            type_ = type_from_ast(built._schema, one.type)
            found[name] = value_from_ast_untyped(parse_value(author.literal(name, type_)))
    return found


async def test_no_document_that_is_handed_out_is_left_to_graphql_core(services: Services) -> None:
    plans = Plans()
    built = schema.build(Settings(), plans)
    run = 0
    for name, text in {**DOCUMENTS, **in_pages()}.items():
        for operation in parse(text).definitions:
            if not isinstance(operation, OperationDefinitionNode):
                continue
            if operation.operation is OperationType.SUBSCRIPTION:
                continue
            context = Context(services, root(), Request(services.ids.new("req")))
            given = variables(built, operation, SAVED.get(name, {}))
            try:
                called = operation.name.value if operation.name else None
                await built.execute(text, given, context_value=context, operation_name=called)
            finally:
                await context.close()
            run += 1
            assert plans.fallbacks == 0, f"{name} is left to graphql-core"
            assert plans.used == run, f"{name} did not get as far as a plan, given {given}"
    assert run >= 15


def test_a_directive_that_plans_do_not_know_is_seen() -> None:
    plans = Plans()
    assert plans.conditions(parse("{ viewer @other { role } }")) is None
    assert plans.conditions(parse("query($a: Boolean!) { viewer @skip(if: $a) { role } }")) == ("a",)
