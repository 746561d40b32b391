"""Every GraphQL document that is handed out fits the schema, and the saved operations do what they say."""

import asyncio
import functools
import json
import operator
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from graphql import OperationDefinitionNode, OperationType, parse, validate
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

import app.http.graphiql
from app.engine.masking import Schema
from tests.docs.blocks import blocks
from tests.serving import ROOT, Bookkeeper, Server

OPERATIONS = json.loads((Path(app.http.graphiql.__file__).parent / "operations.json").read_text())
PAGE = ROOT / "frontend-examples" / "browser" / "index.html"
IN_PAGE = re.compile(r'<script type="application/graphql" id="(\w+)">(.*?)</script>', re.DOTALL)
IN_SHELL = re.compile(r"ask '(.*?)'", re.DOTALL)
IN_JSON = re.compile(r"""-d '(\{"query": .*?\})'""")
IN_FORM = re.compile(r"'query=(.*?)'", re.DOTALL)
IN_PYTHON = re.compile(r'^FOLLOW = """(.*?)"""', re.MULTILINE | re.DOTALL)
# Documents inside of scripts: between the marks of their language.
IN_SCRIPTS = {
    ".mjs": re.compile(r"/\* GraphQL \*/ `(.*?)`", re.DOTALL),
    ".sh": re.compile(r"<<'GRAPHQL'[^\n]*\n(.*?)\nGRAPHQL", re.DOTALL),
    ".ipynb": re.compile(r'[A-Z]+ = """(.*?)"""', re.DOTALL),
}
# A variable that the page fills in from what the operation's `find` is answered with; after the bar, when there is none.
GAP = re.compile(r"\$([\w.]+)\|(.*)")
# A day that the page fills in: today, today+7 and the like.
DAY = re.compile(r"today([+-]\d+)?")
# Nothing happened yesterday in a demo that began just now.
MAY_BE_EMPTY = {"MovedYesterday"}
PATIENCE_SECONDS = 15


def documents() -> Iterator[tuple[str, str]]:
    """Every document by a name of its own."""
    for file in examples():
        if file.suffix == ".graphql":
            yield f"{place(file)}-{file.name}", file.read_text()
        for number, text in enumerate(in_script(file)):
            yield f"{file.name}-{number}", text
        if file.name == PAGE.name:
            for name, text in IN_PAGE.findall(file.read_text()):
                yield f"{place(file)}-{file.name}-{name}", text
    for operation in OPERATIONS:
        yield operation["name"], operation["document"]
        if "find" in operation:
            yield f"{operation['name']}-find", operation["find"]
    for block in blocks(ROOT / "README.md"):
        for number, text in enumerate(_in_block(block.language, block.text)):
            yield f"README-{block.line}-{number}", text


def examples() -> list[Path]:
    """The files of the examples, without what npm installs beside them."""
    found = (ROOT / "frontend-examples").rglob("*")
    return sorted(path for path in found if path.is_file() and "node_modules" not in path.parts)


def place(file: Path) -> str:
    """Which example a file belongs to."""
    return file.relative_to(ROOT / "frontend-examples").parts[0]


def in_script(file: Path) -> list[str]:
    pattern = IN_SCRIPTS.get(file.suffix)
    found = pattern.findall(_source(file)) if pattern else []
    assert found or not pattern, f"{file.name} has a document that is checked"
    return found


def _source(file: Path) -> str:
    if file.suffix != ".ipynb":
        return file.read_text()
    cells = json.loads(file.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def _in_block(language: str, text: str) -> list[str]:
    match language:
        case "graphql":
            return [text]
        case "sh":
            posted = [json.loads(found)["query"] for found in IN_JSON.findall(text)]
            return [*IN_SHELL.findall(text), *posted, *IN_FORM.findall(text)]
        case "python":
            return IN_PYTHON.findall(text)
    return []


DOCUMENTS = dict(documents())


def kind_of(operation: dict[str, Any]) -> OperationType:
    return _definition(operation).operation


def _definition(operation: dict[str, Any]) -> OperationDefinitionNode:
    found = [d for d in parse(operation["document"]).definitions if isinstance(d, OperationDefinitionNode)]
    assert len(found) == 1, f"{operation['name']} holds one operation"
    return found[0]


QUESTIONS = {operation["name"]: operation for operation in OPERATIONS}
CALLS = [name for name, o in QUESTIONS.items() if kind_of(o) is not OperationType.SUBSCRIPTION]
STREAMS = [name for name, o in QUESTIONS.items() if kind_of(o) is OperationType.SUBSCRIPTION]


@pytest.fixture(scope="module")
def filled(server: Server, books: Bookkeeper) -> dict[str, dict[str, Any]]:
    """The answers to all queries and mutations in their order, each filled in as the page does it."""
    return {
        name: server.post(QUESTIONS[name]["document"], variables(server, QUESTIONS[name]), name=name)
        for name in CALLS
    }


def variables(server: Server, operation: dict[str, Any]) -> dict[str, Any]:
    """The variables of a saved operation, filled in from the first thing that it finds."""
    found: Any = None
    if "find" in operation:
        (connection,) = server.ask(operation["find"]).values()
        found = connection["edges"][0]["node"]
    given: dict[str, Any] = fill(operation["variables"], found)
    return given


def fill(value: Any, found: Any) -> Any:
    """The variables with days, and with what was found."""
    match value:
        case dict():
            return {name: fill(item, found) for name, item in value.items()}
        case str() if gap := GAP.fullmatch(value):
            return functools.reduce(operator.getitem, gap[1].split("."), found)
        case str() if day := DAY.fullmatch(value):
            return (datetime.now(UTC) + timedelta(days=int(day[1] or 0))).isoformat()
    return value


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_fits_the_schema(built_schema: Schema, name: str) -> None:
    assert validate(built_schema._schema, parse(DOCUMENTS[name])) == []


def test_documents_were_found_wherever_there_are_any() -> None:
    places = {re.split(r"[-.]", name)[0] for name in DOCUMENTS}
    assert {
        "python",
        "dashboard",
        "browser",
        "sse",
        "follow",
        "escrowgrid",
        "held",
        "README",
        *QUESTIONS,
    } <= places


def test_saved_operations_are_a_short_lesson_that_begins_without_variables() -> None:
    assert 10 <= len(OPERATIONS) <= 16
    assert OPERATIONS[0]["variables"] == {}
    for operation in OPERATIONS:
        assert set(operation) - {"find"} == {"name", "group", "question", "document", "variables"}
        assert "…" not in json.dumps(operation["variables"], ensure_ascii=False) or operation.get("find")
        assert operation["question"].endswith("?")
    groups = [operation["group"] for operation in OPERATIONS]
    assert groups == sorted(groups, key=groups.index), "each group's questions stand together"
    assert len(QUESTIONS) == len({o["question"] for o in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_saved_operation_has_its_name_and_its_variables(name: str) -> None:
    definition = _definition(QUESTIONS[name])
    assert definition.name
    assert definition.name.value == name
    taken = {variable.variable.name.value for variable in definition.variable_definitions or ()}
    assert taken == set(QUESTIONS[name]["variables"])


@pytest.mark.parametrize("name", CALLS)
def test_a_saved_operation_is_answered_on_the_demo(filled: dict[str, dict[str, Any]], name: str) -> None:
    answered = filled[name]
    assert "errors" not in answered, answered
    for payload in answered["data"].values():
        assert payload, "there is something to see"
        if isinstance(payload, dict):
            assert payload.get("userErrors", []) == []
            assert payload.get("edges", True) or name in MAY_BE_EMPTY, "there is something to see"


@pytest.mark.parametrize("name", STREAMS)
async def test_a_saved_subscription_begins(server: Server, books: Bookkeeper, name: str) -> None:
    given = variables(server, QUESTIONS[name])
    first = await first_message(server, QUESTIONS[name]["document"], given, books)
    assert first["type"] == "next", first
    assert "errors" not in first["payload"], first


async def first_message(
    server: Server, document: str, given: dict[str, Any], books: Bookkeeper
) -> dict[str, Any]:
    """What a subscription tells first; something happens soon after it began."""
    protocol = Subprotocol("graphql-transport-ws")
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        connect(server.graphql.replace("http", "ws"), subprotocols=[protocol]) as socket,
    ):
        key = {"authorization": f"Bearer {server.root_key}"}
        await socket.send(json.dumps({"type": "connection_init", "payload": key}))
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        asked = {"query": document, "variables": given}
        await socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": asked}))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(books.open)
        told: dict[str, Any] = json.loads(await socket.recv())
        return told
