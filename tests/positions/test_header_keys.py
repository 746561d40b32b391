"""The Idempotency-Key header: it names the command of a document's one mutation, or is refused."""

import asyncio
from typing import Any

import pytest

from app.context import Request
from app.positions.model import State
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
    ("header", "second"),
    [("k", "k:1"), ("x" * 253, "x" * 253 + ":1"), ("x" * 254, "sha256:"), ("y" * 255, "sha256:")],
)
async def test_a_header_of_any_length_names_the_items_of_a_list(
    shared: Desk, header: str, second: str
) -> None:
    input_ = {"items": [shared.terms(), shared.terms(amount="2.00")]}
    first = (await sent(shared, LIST, input_, header)).data["createPositions"]["results"]
    again = (await sent(shared, LIST, input_, header)).data["createPositions"]["results"]
    assert [result["userErrors"] for result in (*first, *again)] == [[]] * 4
    assert [result["replayed"] for result in (*first, *again)] == [False, False, True, True]
    assert [result["position"] for result in first] == [result["position"] for result in again]
    keys = [result["event"]["idempotencyKey"] for result in first]
    assert keys[0] == header
    assert keys[1].startswith(second)
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


MOVES = """mutation ($input: TransitionPositionsInput!) { transitionPositions(input: $input) {
  results { replayed userErrors { code field message } } userErrors { code } } }"""


async def told(desk: Desk, document: str, input_: dict[str, Any], header: str) -> Any:
    answered = await sent(desk, document, input_, header)
    assert not answered.errors, answered.errors
    (payload,) = answered.data.values()
    return payload


async def conflicts(desk: Desk, document: str, inputs: list[dict[str, Any]], header: str) -> None:
    """Each of these is refused as a whole, and nothing is done."""
    before = await factories.footprint(desk.owner)
    for input_ in inputs:
        payload = await told(desk, document, input_, header)
        assert payload == {"results": [], "userErrors": [{"code": "IDEMPOTENCY_CONFLICT"}]}, input_
    assert await factories.footprint(desk.owner) == before


async def test_another_list_with_the_same_header_is_refused_whole(shared: Desk) -> None:
    one, two, three = (shared.terms(amount=f"{n}.00") for n in (1, 2, 3))
    first = await told(shared, LIST, {"items": [one, two]}, "a list")
    assert [result["userErrors"] for result in first["results"]] == [[], []]
    others = [[one, two, three], [one], [two], [two, one], [one, three], [one, two, one, two], [three]]
    await conflicts(shared, LIST, [{"items": items} for items in others], "a list")
    again = await told(shared, LIST, {"items": [one, two | {"amount": "2.0"}]}, "a list")
    assert [result["replayed"] for result in again["results"]] == [True, True]
    assert [r["position"] for r in again["results"]] == [r["position"] for r in first["results"]]


@pytest.mark.parametrize("atomic", [False, True])
async def test_another_list_of_moves_with_the_same_header_is_refused_whole(
    shared: Desk, atomic: bool
) -> None:
    moves = [{"id": (await shared.position()).id, "toState": "FUNDED"} for _ in range(3)]
    given, header = {"items": moves[:2], "atomic": atomic}, f"moves {atomic}"
    assert [r["userErrors"] for r in (await told(shared, MOVES, given, header))["results"]] == [[], []]
    changed = [given | {"items": items} for items in (moves, moves[:1], moves[1::-1], moves[2:])]
    changed += [
        given | {"atomic": not atomic},
        given | {"items": [moves[0], moves[1] | {"expectedVersion": 1}]},
    ]
    await conflicts(shared, MOVES, changed, header)
    assert [r["replayed"] for r in (await told(shared, MOVES, given, header))["results"]] == [True, True]


async def test_what_was_refused_of_a_list_may_be_tried_again_with_it_but_not_with_another(
    shared: Desk,
) -> None:
    """As after a crash in the middle: some of it was done, some of it was not."""
    late, ready = await shared.position(), await shared.position(state=State.FUNDED)
    release = {"toState": "PARTIALLY_RELEASED", "amount": "10.00"}
    items = [{"id": late.id} | release, {"id": ready.id} | release]
    first = (await told(shared, MOVES, {"items": items}, "half"))["results"]
    assert [bool(result["userErrors"]) for result in first] == [True, False]
    # The place that was accepted is not in these, and still it tells.
    await conflicts(shared, MOVES, [{"items": items[:1]}, {"items": [*items, items[0]]}], "half")
    await shared.services.writer.submit(factories.move(shared.services, late, factories.FUND))
    again = (await told(shared, MOVES, {"items": items}, "half"))["results"]
    assert [(result["userErrors"], result["replayed"]) for result in again] == [([], False), ([], True)]


async def test_a_list_of_which_nothing_was_accepted_has_used_no_key(shared: Desk) -> None:
    bad = shared.terms(amount="0.001")
    first = (await told(shared, LIST, {"items": [bad]}, "unused"))["results"]
    assert first[0]["userErrors"]
    mended = (await told(shared, LIST, {"items": [shared.terms(), shared.terms()]}, "unused"))["results"]
    assert [result["userErrors"] for result in mended] == [[], []]


async def test_a_header_that_named_one_command_names_no_list(shared: Desk) -> None:
    await sent(shared, ONE, shared.terms(), "of one")
    await conflicts(shared, LIST, [{"items": [shared.terms()]}, {"items": [shared.terms()] * 2}], "of one")


async def test_of_equal_and_other_lists_at_once_one_is_done(shared: Desk) -> None:
    lists = [[shared.terms(amount=f"{n}.00") for n in range(1, length + 1)] for length in (1, 2, 3)]
    made = "SELECT count(*) FROM positions"
    before = await shared.owner.fetchval(made)
    answers = await asyncio.gather(
        *(told(shared, LIST, {"items": lists[number % 3]}, "at once") for number in range(30))
    )
    done = [answer["results"] for answer in answers if answer["results"]]
    assert len(done) == 10, "the same list each time"
    assert len({str([result["position"] for result in results]) for results in done}) == 1
    assert await shared.owner.fetchval(made) - before == len(done[0])
