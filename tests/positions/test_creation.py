"""Opening positions: one by one, in lists, with references of the client's own."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.context import Request, Services
from app.errors import ErrorCode, Refusal
from app.ledger.writer import Answer
from app.main import Parts, assemble
from app.positions.model import State
from app.principal import root
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.positions.conftest import PAYLOAD, Desk

MANY = f"mutation ($input: CreatePositionsInput!) {{ createPositions(input: $input) {{ results {PAYLOAD} userErrors {{ code message field }} }} }}"
MOVES = f"mutation ($input: TransitionPositionsInput!) {{ transitionPositions(input: $input) {{ results {PAYLOAD} userErrors {{ code message field }} }} }}"


async def test_a_position_begins_with_its_terms_and_no_money(shared: Desk) -> None:
    expires_at = "2126-03-01T09:30:00.123456Z"
    document = """
    mutation ($input: CreatePositionInput!) { createPosition(input: $input) { position {
      id institutionId assetId holderReference externalReference currency amount funded released refunded held
      state stage version lifecycleName lifecycleVersion expiresAt createdAt updatedAt closedAt
    } event { id kind data reason metadata occurredAt recordedAt previousState postings { amount } } } }
    """
    terms = shared.terms(
        amount="1250.5",
        externalReference="INV-é-1",
        expiresAt=expires_at,
        reason="new 😀",
        metadata={"a": {"b": [1, "x", None, True]}},
    )
    payload = (await shared.run(document, {"input": terms})).data["createPosition"]
    event, position = payload["event"], payload["position"]
    assert position == {
        "id": position["id"],
        "institutionId": shared.place.institution.id,
        "assetId": shared.place.asset.id,
        "holderReference": "H",
        "externalReference": "INV-é-1",
        "currency": "USD",
        "amount": "1250.50",
        **dict.fromkeys(["funded", "released", "refunded", "held"], "0.00"),
        "state": "CREATED",
        "stage": "CREATED",
        "version": 1,
        "lifecycleName": "escrow",
        "lifecycleVersion": 1,
        "expiresAt": expires_at,
        "createdAt": event["recordedAt"],
        "updatedAt": event["recordedAt"],
        "closedAt": None,
    }
    assert event["data"] == {
        "amount": "1250.50",
        "assetId": shared.place.asset.id,
        "expiresAt": "2126-03-01T09:30:00.123456+00:00",
        "externalReference": "INV-é-1",
    }
    assert (event["kind"], event["previousState"], event["postings"]) == ("POSITION_CREATED", None, [])
    assert (event["reason"], event["metadata"]) == ("new 😀", {"a": {"b": [1, "x", None, True]}})
    assert event["occurredAt"] == event["recordedAt"]
    read = await shared.run(
        "query ($id: ID!) { position(id: $id) { version amount } }", {"id": position["id"]}
    )
    assert read.data["position"] == {"version": 1, "amount": "1250.50"}


@pytest.mark.parametrize(("given", "code"), [("usd", "USD"), ("Usd", "USD")])
async def test_a_currency_may_be_written_in_small_letters(shared: Desk, given: str, code: str) -> None:
    payload = await shared.accepted("createPosition", **shared.terms(currency=given))
    assert payload["position"]["currency"] == code


async def test_an_external_reference_is_given_once_within_an_institution(shared: Desk) -> None:
    reference = "once"
    first = await shared.accepted("createPosition", **shared.terms(externalReference=reference))
    error = await shared.refused("createPosition", **shared.terms(externalReference=reference, amount="1.00"))
    assert (error["code"], error["field"]) == ("DUPLICATE_REFERENCE", "externalReference")
    # Also when the first is over and done with; another's spelling or institution is another reference.
    await shared.accepted("cancelPosition", id=first["position"]["id"])
    assert (await shared.refused("createPosition", **shared.terms(externalReference=reference)))["code"] == (
        "DUPLICATE_REFERENCE"
    )
    await shared.accepted("createPosition", **shared.terms(externalReference="Once"))
    other = await factories.place(shared.services)
    terms = shared.terms(externalReference=reference, assetId=other.asset.id)
    await shared.accepted("createPosition", other.admin, **terms)
    # Root meets the institution's references, not some of its own.
    assert (await shared.refused("createPosition", root(), **terms))["code"] == "DUPLICATE_REFERENCE"


@pytest.fixture
async def second(settings: Settings, address: Address, parts: Parts) -> AsyncIterator[Services]:
    made = assemble(settings, address)
    async with made.running():
        yield made.services


async def test_of_many_creations_with_one_reference_at_once_exactly_one_succeeds(
    desk: Desk, second: Services
) -> None:
    """In two processes."""
    servers = [desk.services, second] * 10
    commands = [
        (server, await factories.opening(server, desk.place.asset, external_reference="once"))
        for server in servers
    ]
    results = await asyncio.gather(
        *(server.writer.submit(command) for server, command in commands), return_exceptions=True
    )
    assert sum(isinstance(result, Answer) for result in results) == 1
    refusals = [result for result in results if isinstance(result, Refusal)]
    assert {refusal.code for refusal in refusals} == {ErrorCode.DUPLICATE_REFERENCE}
    assert len(refusals) == 19


@pytest.mark.parametrize(
    "when", ["1969-12-31T23:59:59.999999Z", "0001-01-01T00:00:00.000001Z", "2020-02-29T12:00:00+05:30"]
)
async def test_what_occurred_earlier_is_recorded_now(shared: Desk, when: str) -> None:
    payload = await shared.accepted("createPosition", **shared.terms(occurredAt=when))
    occurred = datetime.fromisoformat(payload["event"]["occurredAt"])
    assert occurred == datetime.fromisoformat(when)
    assert abs(datetime.fromisoformat(payload["event"]["recordedAt"]) - datetime.now(UTC)) < timedelta(
        minutes=1
    )
    moved = await shared.accepted("fundPosition", id=payload["position"]["id"], occurredAt=when)
    assert datetime.fromisoformat(moved["event"]["occurredAt"]) == occurred


async def test_nothing_has_occurred_in_the_future(shared: Desk) -> None:
    position = await shared.position()
    late = (datetime.now(UTC) + timedelta(minutes=6)).isoformat()
    for mutation, sent in (("createPosition", shared.terms()), ("fundPosition", {"id": position.id})):
        error = await shared.refused(mutation, **sent, occurredAt=late)
        assert (error["code"], error["field"]) == ("VALIDATION_FAILED", "occurredAt")


async def test_a_list_is_opened_item_by_item(shared: Desk) -> None:
    items = [
        shared.terms(externalReference="list 1"),
        shared.terms(amount="0"),
        shared.terms(externalReference="list 1"),
        shared.terms(assetId="ast_nonsense"),
        shared.terms(externalReference="list 2", amount="7.00"),
    ]
    told = (await shared.run(MANY, {"input": {"items": items}})).data["createPositions"]
    assert told["userErrors"] == []
    errors = [[error["code"] for error in result["userErrors"]] for result in told["results"]]
    assert errors == [[], ["VALIDATION_FAILED"], ["DUPLICATE_REFERENCE"], ["NOT_FOUND"], []]
    fields = [result["userErrors"][0]["field"] for result in told["results"] if result["userErrors"]]
    assert fields == ["amount", "externalReference", "assetId"]
    amounts = [result["position"] and result["position"]["amount"] for result in told["results"]]
    assert amounts == ["100.00", None, None, None, "7.00"]


async def test_the_items_of_a_list_are_decided_in_their_order(shared: Desk) -> None:
    items = [shared.terms(amount=f"{number}.00") for number in range(1, 51)]
    told = (await shared.run(MANY, {"input": {"items": items}})).data["createPositions"]["results"]
    assert [result["position"]["amount"] for result in told] == [item["amount"] for item in items]
    ids = [result["position"]["id"] for result in told]
    rows = await shared.owner.fetch(
        "SELECT position_id FROM ledger_events WHERE position_id = ANY($1::text[]) ORDER BY sequence", ids
    )
    assert [row["position_id"] for row in rows] == ids


@pytest.mark.parametrize("count", [0, 101])
async def test_a_list_has_between_one_and_a_hundred_items(shared: Desk, count: int) -> None:
    before = await factories.footprint(shared.owner)
    position = await shared.position()
    before = await factories.footprint(shared.owner)
    for document, name, item in (
        (MANY, "createPositions", shared.terms()),
        (MOVES, "transitionPositions", {"id": position.id, "toState": "FUNDED"}),
    ):
        told = (await shared.run(document, {"input": {"items": [item] * count}})).data[name]
        assert told["results"] == []
        (error,) = told["userErrors"]
        assert (error["code"], error["field"]) == ("VALIDATION_FAILED", "items")
    assert await factories.footprint(shared.owner) == before


async def test_the_header_names_each_item_of_a_list(shared: Desk) -> None:
    items = [shared.terms(externalReference=f"header {number}") for number in range(3)]
    request = Request("req_1", idempotency_key="header")
    first = await shared.run(MANY, {"input": {"items": items}}, request=request)
    again = await shared.run(MANY, {"input": {"items": items}}, request=request)
    results = [told.data["createPositions"]["results"] for told in (first, again)]
    assert [[result["replayed"] for result in some] for some in results] == [[False] * 3, [True] * 3]
    assert [result["position"]["id"] for result in results[0]] == [
        result["position"]["id"] for result in results[1]
    ]


async def moves(desk: Desk, *items: dict[str, Any], atomic: bool) -> dict[str, Any]:
    answered = await desk.run(MOVES, {"input": {"items": list(items), "atomic": atomic}})
    assert not answered.errors
    told: dict[str, Any] = answered.data["transitionPositions"]
    return told


async def test_transitions_are_taken_each_for_itself(shared: Desk) -> None:
    one, two = [await shared.position() for _ in range(2)]
    told = await moves(
        shared,
        {"id": one.id, "toState": "FUNDED"},
        {"id": "pos_nonsense", "toState": "FUNDED"},
        {"id": two.id, "toState": "RELEASED"},
        {"id": one.id, "toState": "PARTIALLY_RELEASED", "amount": "1.00"},
        atomic=False,
    )
    assert told["userErrors"] == []
    codes = [[error["code"] for error in result["userErrors"]] for result in told["results"]]
    assert codes == [[], ["NOT_FOUND"], ["TRANSITION_NOT_ALLOWED"], []]
    assert told["results"][3]["position"]["held"] == "99.00"


async def test_an_atomic_list_is_done_whole(shared: Desk) -> None:
    one, two = [await shared.position() for _ in range(2)]
    told = await moves(
        shared,
        {"id": one.id, "toState": "FUNDED", "expectedVersion": 1},
        {"id": two.id, "toState": "CANCELLED"},
        {"id": one.id, "toState": "RELEASED", "expectedVersion": 2},
        atomic=True,
    )
    assert told["userErrors"] == []
    assert [result["position"]["state"] for result in told["results"]] == ["FUNDED", "CANCELLED", "RELEASED"]
    assert all(result["userErrors"] == [] for result in told["results"])


@pytest.mark.parametrize(
    ("bad", "code", "field"),
    [
        ({"toState": "RELEASED"}, "TRANSITION_NOT_ALLOWED", "items.1.toState"),
        ({"toState": "FUNDED", "expectedVersion": 9}, "VERSION_CONFLICT", "items.1.expectedVersion"),
        ({"toState": "FUNDED", "amount": "-1"}, "VALIDATION_FAILED", "items.1.amount"),
        ({"toState": "FUNDED", "idempotencyKey": ""}, "VALIDATION_FAILED", "items.1.idempotencyKey"),
        ({"toState": "FUNDED", "id": "pos_nonsense"}, "NOT_FOUND", "items.1.id"),
    ],
    ids=str,
)
async def test_one_bad_item_refuses_an_atomic_list(
    shared: Desk, bad: dict[str, Any], code: str, field: str
) -> None:
    one, two = [await shared.position() for _ in range(2)]
    before = await factories.footprint(shared.owner)
    told = await moves(shared, {"id": one.id, "toState": "FUNDED"}, {"id": two.id, **bad}, atomic=True)
    assert await factories.footprint(shared.owner) == before
    assert told["results"] == []
    (error,) = told["userErrors"]
    assert (error["code"], error["field"]) == (code, field)


async def test_an_atomic_list_is_replayed_by_the_header(shared: Desk) -> None:
    one, two = [await shared.position() for _ in range(2)]
    items = [{"id": one.id, "toState": "FUNDED"}, {"id": two.id, "toState": "CANCELLED"}]
    request = Request("req_1", idempotency_key="atomic header")
    told = [
        await shared.run(MOVES, {"input": {"items": items, "atomic": True}}, request=request)
        for _ in range(2)
    ]
    replays = [[r["replayed"] for r in t.data["transitionPositions"]["results"]] for t in told]
    assert replays == [[False, False], [True, True]]


async def test_an_asset_of_somebody_else_is_not_there(shared: Desk) -> None:
    other = await factories.place(shared.services)
    # Read by its owner first, so that the server remembers it.
    await shared.accepted("createPosition", other.admin, **shared.terms(assetId=other.asset.id))
    error = await shared.refused("createPosition", **shared.terms(assetId=other.asset.id))
    assert (error["code"], error["field"]) == ("NOT_FOUND", "assetId")
    payload = await shared.accepted("createPosition", root(), **shared.terms(assetId=other.asset.id))
    assert payload["position"]["state"] == State.CREATED
