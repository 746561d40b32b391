"""What a process keeps in memory stays at its bound when it is fed twice as much, and the runbook tells the bounds."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from graphql import GraphQLError, parse
from prometheus_client import CollectorRegistry
from sqlalchemy import Integer, literal, select, text

import app
from app import schema
from app.assets import cache
from app.audit import recorder
from app.context import Context, Request
from app.documents import service as trusted
from app.engine import documents as parsed
from app.engine.compiled import FIELD_CHARACTERS, Plans
from app.engine.documents import Documents
from app.http import door, gate, groups, told
from app.http import metrics as http_metrics
from app.http.metrics import Metrics
from app.identity import service as tokens
from app.institutions import authenticator
from app.kit.memo import Memo
from app.ledger import pages
from app.limits import service as limits
from app.main import Parts
from app.personal import service as personal
from app.settings import Settings
from app.storage import database as databases
from app.storage.database import Database
from app.webhooks import post
from tests.factories import Place
from tests.serving import ROOT

RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
ALIASES = 60
FRAGMENTS = """
fragment P on Position { id state stage version amount funded released refunded held currency expiresAt closedAt
  institution { ...I } asset { id label createdAt institution { ...I } template { id code name version createdAt
  institution { ...I } } } }
fragment I on Institution { id name regions verticals createdAt updatedAt }
"""


def wide(number: int) -> str:
    """A short document that asks for much: each alias is planned with all that the fragments name."""
    asked = " ".join(f"a{i}: positions(first: 1) {{ edges {{ node {{ ...P }} }} }}" for i in range(ALIASES))
    return f"query Q{number} {{ {asked} }} {FRAGMENTS}"


async def test_plans_are_bounded_by_what_was_planned_and_not_by_their_number(
    parts: Parts, place: Place
) -> None:
    """Sixty such documents, of five kilobytes each, took 440 MB while five hundred plans were kept of any size."""
    size_max = 150_000
    plans = Plans(size_max)
    built = schema.build(parts.services.settings, plans)

    async def ask(document: str) -> None:
        context = Context(parts.services, place.admin, Request("req"))
        try:
            answer = await built.execute(document, context_value=context)
        finally:
            await context.close()
        assert not answer.errors

    await ask(wide(0))
    one = plans.characters
    assert one > len(wide(0)) + ALIASES * 40 * FIELD_CHARACTERS
    for number in range(1, 2 * size_max // one + 1):
        await ask(wide(number))
        assert plans.characters <= size_max
    assert plans.characters > size_max - one
    assert len(plans) == size_max // one
    compiled = plans.compiled
    await ask(wide(number))
    assert plans.characters <= size_max
    assert plans.compiled <= compiled + 1


async def test_a_plan_larger_than_the_bound_runs_and_is_not_kept(parts: Parts, place: Place) -> None:
    plans = Plans(1_000)
    built = schema.build(parts.services.settings, plans)
    context = Context(parts.services, place.admin, Request("req"))
    answer = await built.execute(wide(0), context_value=context)
    await context.close()
    assert not answer.errors
    assert (len(plans), plans.characters, plans.compiled) == (0, 0, 1)


def test_documents_are_bounded_with_what_was_found_out_about_them() -> None:
    documents = Documents(20_000)
    error = GraphQLError("no")
    for number in range(200):
        source = f"{{ field_{number:03} }}"
        known = documents.add(source, parse(source))
        documents.keep(known, None, (), [error] * 10)  # type: ignore[arg-type]
        for size in range(30):
            documents.keep_cost(known, size, None, size)
        assert documents.characters <= 20_000
    assert documents.characters > 15_000
    assert len(documents) < 25
    # Added anew it is not counted twice.
    before = documents.characters
    again = documents.add(source, known.document)
    assert documents.characters == before - known.size + again.size
    assert again.size == len(source)


async def test_statements_are_bounded_here_and_in_the_database(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "STATEMENTS_MAX", 20)
    monkeypatch.setattr(databases, "PREPARED_MAX", 10)
    address = parts.services.database.address
    one = Database(address, pool_size_max=1, pool_timeout=5, statement_timeout=5)
    await one.open()
    try:
        for number in range(300):
            async with one.reading("*") as connection:
                await connection.execute(select(literal(1, Integer).label(f"n{number}")))
                raw = await databases.driver_of(connection)
                await raw.fetch(f"SELECT 1 AS m{number}")
        async with one.reading("*") as connection:
            prepared = (
                await connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))
            ).scalar_one()
        cache_: Any = one.engine.sync_engine._compiled_cache
        assert len(cache_) <= 30
        # SQLAlchemy's own, a hundred and half as many, and the driver's.
        assert 100 <= prepared <= 150 + 10 + 1
    finally:
        await one.close()


@pytest.mark.parametrize("size_max", [1, 100])
def test_answers_remembered_are_bounded(size_max: int) -> None:
    memo: Memo[int, int] = Memo(size_max)
    for number in range(2 * size_max + 1):
        assert memo.keep(number, number) == memo.get(number) == number
        assert len(memo) <= size_max


def test_names_of_operations_are_bounded_in_metrics() -> None:
    registry = CollectorRegistry()
    counted = Metrics(registry)
    for number in range(2 * http_metrics.OPERATION_NAMES_MAX):
        counted.request("POST", 200, f"Operation{number}", 0.1, timed=True)
    (requests,) = [one for one in registry.collect() if one.name == "escrowgrid_http_requests"]
    names = {sample.labels["operation"] for sample in requests.samples}
    assert len(names) == http_metrics.OPERATION_NAMES_MAX + 1


def test_every_function_that_remembers_names_how_much() -> None:
    """Or is asked for one of a few things that are the same for ever."""
    bounded, few = 0, set()
    for file in Path(app.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and "cache" in map(ast.unparse, node.decorator_list):
                given = [*node.args.args, *filter(None, [node.args.vararg])]
                few.add((node.name, *(ast.unparse(one.annotation or one) for one in given)))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("lru_cache"):
                (bound,) = node.keywords
                assert re.fullmatch(r"maxsize=[A-Z_]+_MAX", ast.unparse(bound)), file
                bounded += 1
    assert bounded > 5
    assert few == {("may", "Scope"), ("artifact",)}


SETTINGS = Settings()
TOLD: dict[str, int] = {
    "Documents, parsed": parsed.CHARACTERS_MAX,
    "Plans": parsed.CHARACTERS_MAX,
    "Statements in SQL": databases.STATEMENTS_MAX + databases.STATEMENTS_MAX // 2,
    "Prepared statements": 150 + databases.PREPARED_MAX,
    "Trusted documents": trusted.CHARACTERS_MAX,
    "Recent events": SETTINGS.ring_bytes_max,
    "Pages for who catches up": pages.KEPT_MAX * SETTINGS.tail_page_size,
    "Results of live groups": groups.GROUPS_BYTES_MAX,
    "Assets": cache.ASSETS_CACHED_MAX,
    "Their metadata": cache.METADATA_CACHED_MAX,
    "Keys of holders": personal.KEYS_KEPT_MAX,
    "What holders are called": personal.REFERENCES_KEPT_MAX,
    "API keys": authenticator.CACHE_MAX,
    "Tokens": tokens.TOKENS_MAX,
    "Rate limits": limits.PURSES_MAX,
    "Addresses": gate.ADDRESSES_MAX + gate.FAMILIAR_MAX,
    "Turned away at the door": door.NAMES_MAX,
    "Audit rows that wait": recorder.QUEUE_MAX,
    "Commands that wait": 2 * SETTINGS.writer_queue_max,
    "Events for webhooks": post.EVENTS_KEPT_MAX,
}
ROW = re.compile(
    r"^\| (?P<what>[^|]+?) \| (?P<most>[\d,]+) (?P<unit>[^|]+?) \| (?P<megabytes>\d+) MB", re.MULTILINE
)


def test_the_runbook_tells_every_bound_and_what_they_add_up_to() -> None:
    section = RUNBOOK.partition("## Memory")[2].partition("\n## ")[0]
    rows = {row["what"]: row for row in ROW.finditer(section)}
    assert {what: int(row["most"].replace(",", "")) for what, row in rows.items()} == TOLD
    total = sum(int(row["megabytes"]) for row in rows.values())
    assert f"{total} MB" in section
    # Of one group the runbook speaks in words.
    assert (groups.GROUP_BYTES_MIN, told.ENTRIES_MAX) == (64 * 1024, 1_024)
