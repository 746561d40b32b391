"""How old an answer may be is judged where there is no replica, too: who asks is not told something else elsewhere."""

import pytest

from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.ledger.replica import Freshness
from app.principal import root
from tests.conftest import Answered

HEAD = "{ ledgerHead { cursor } positions { totalCount } }"


async def asked(services: Services, schema: Schema, at_least: str | None) -> Answered:
    context = Context(services, root(), Request("req_1"))
    context.freshness = Freshness(at_least)
    try:
        result = await schema.execute(HEAD, context_value=context)
    finally:
        await context.close()
    return Answered(result.data, result.errors or [])


async def test_a_cursor_of_the_ledger_is_answered(services: Services, built_schema: Schema) -> None:
    found = (await asked(services, built_schema, None)).data["ledgerHead"]["cursor"]
    answered = await asked(services, built_schema, found)
    assert answered.errors == []
    assert answered.data["ledgerHead"]["cursor"] == found


@pytest.mark.parametrize("words", ["x", "", "made by hand", "ahead"])
async def test_a_cursor_that_is_none_or_ahead_of_the_ledger_is_refused(
    services: Services, built_schema: Schema, words: str
) -> None:
    cursor = services.tail.epochs.cursor("*", 1_000) if words == "ahead" else words
    answered = await asked(services, built_schema, cursor)
    assert set(answered.codes) == {"CURSOR_INVALID"}
