"""The Idempotency-Key header: it names the command of a document's one mutation, or is refused."""

from typing import Any

import pytest

from app.context import Request
from tests import factories
from tests.conftest import Answered
from tests.positions.conftest import Desk

LIST = """mutation ($input: CreatePositionsInput!) { createPositions(input: $input) {
  results { replayed position { id } event { idempotencyKey } userErrors { code field message } } userErrors { code } } }"""
ONE = """mutation ($input: CreatePositionInput!) { createPosition(input: $input) {
  replayed position { id } event { idempotencyKey } userErrors { code field } } }"""


async def sent(desk: Desk, document: str, input_: dict[str, Any], header: str) -> Answered:
    request = Request(desk.services.ids.new("req"), idempotency_key=header)
    return await desk.run(document, {"input": input_}, request=request)


@pytest.mark.parametrize(
    ("header", "start"),
    [("k", "k:0"), ("x" * 253, "x" * 253 + ":0"), ("x" * 254, "sha256:"), ("y" * 255, "sha256:")],
)
async def test_a_header_of_any_length_names_the_items_of_a_list(
    shared: Desk, header: str, start: str
) -> None:
    input_ = {"items": [shared.terms(), shared.terms(amount="2.00")]}
    first = (await sent(shared, LIST, input_, header)).data["createPositions"]["results"]
    again = (await sent(shared, LIST, input_, header)).data["createPositions"]["results"]
    assert [result["userErrors"] for result in (*first, *again)] == [[]] * 4
    assert [result["replayed"] for result in (*first, *again)] == [False, False, True, True]
    assert [result["position"] for result in first] == [result["position"] for result in again]
    keys = [result["event"]["idempotencyKey"] for result in first]
    assert keys[0].startswith(start)
    assert keys[0] != keys[1]
    assert max(map(len, keys)) <= 255


async def test_a_key_and_a_header_that_differ_are_refused_and_the_same_are_one(shared: Desk) -> None:
    before = await factories.footprint(shared.owner)
    for document, input_ in (
        (ONE, shared.terms(idempotencyKey="mine")),
        (LIST, {"items": [shared.terms(), shared.terms(idempotencyKey="mine")]}),
    ):
        answered = await sent(shared, document, input_, "of the header")
        assert answered.codes == ["BAD_REQUEST"]
        assert "different keys" in answered.errors[0].message
    assert await factories.footprint(shared.owner) == before
    agreed = await sent(shared, ONE, shared.terms(idempotencyKey="both"), "both")
    assert agreed.data["createPosition"]["event"] == {"idempotencyKey": "both"}


@pytest.mark.parametrize(
    "mutation",
    [
        'createInstitution(input: {name: "X", regions: [US]})',
        'createApiKey(input: {label: "x", role: ADMIN})',
        'createAsset(input: {templateId: "tmpl_1", label: "x"})',
        "setPolicy(input: {region: US})",
    ],
)
async def test_a_header_that_would_name_nothing_is_refused(shared: Desk, mutation: str) -> None:
    tables = ("institutions", "api_keys", "assets", "policies")
    counted = " UNION ALL ".join(f"SELECT count(*) FROM {table}" for table in tables)
    before = await shared.owner.fetch(counted)
    request = Request(shared.services.ids.new("req"), idempotency_key="k")
    answered = await shared.run(f"mutation {{ m: {mutation} {{ userErrors {{ code }} }} }}", request=request)
    assert answered.codes == ["BAD_REQUEST"]
    assert mutation.partition("(")[0] in answered.errors[0].message
    assert await shared.owner.fetch(counted) == before


async def test_a_header_beside_a_query_does_no_harm(shared: Desk) -> None:
    request = Request(shared.services.ids.new("req"), idempotency_key="k")
    assert not (await shared.run("{ viewer { role } }", request=request)).errors
