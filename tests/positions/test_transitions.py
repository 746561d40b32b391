"""The lifecycle escrow@1 through the API: every state and every mutation, effect or refusal."""

from decimal import Decimal
from typing import Any

import pytest

from app.context import Request
from app.positions.model import State
from app.principal import Role, root
from tests import factories
from tests.positions.conftest import INPUTS, Desk, check_money

C, F, P, R, X, E = (
    State.CREATED,
    State.FUNDED,
    State.PARTIALLY_RELEASED,
    State.RELEASED,
    State.CANCELLED,
    State.EXPIRED,
)
NO, BAD, TOO_MUCH = "TRANSITION_NOT_ALLOWED", "VALIDATION_FAILED", "INSUFFICIENT_HELD"
PART, ALL, MORE = "40.00", "all", "more"

# Each mutation with its input (amounts by word), and what it does to a position that is
# created, and funded or released in part; on every final state it is refused.
MUTATIONS: list[tuple[str, dict[str, Any], State | str, State | str]] = [
    ("fundPosition", {}, F, NO),
    ("releasePosition", {}, NO, R),
    ("releasePosition", {"amount": PART}, NO, P),
    ("releasePosition", {"amount": ALL}, NO, R),
    ("releasePosition", {"amount": MORE}, NO, TOO_MUCH),
    ("cancelPosition", {}, X, X),
    ("expirePosition", {}, E, E),
    ("transitionPosition", {"toState": "CREATED"}, NO, NO),
    ("transitionPosition", {"toState": "FUNDED"}, F, NO),
    ("transitionPosition", {"toState": "FUNDED", "amount": "100.00"}, F, NO),
    ("transitionPosition", {"toState": "FUNDED", "amount": "99.99"}, BAD, NO),
    ("transitionPosition", {"toState": "FUNDED", "amount": "100.01"}, BAD, NO),
    ("transitionPosition", {"toState": "PARTIALLY_RELEASED"}, NO, BAD),
    ("transitionPosition", {"toState": "PARTIALLY_RELEASED", "amount": PART}, NO, P),
    ("transitionPosition", {"toState": "PARTIALLY_RELEASED", "amount": ALL}, NO, NO),
    ("transitionPosition", {"toState": "PARTIALLY_RELEASED", "amount": MORE}, NO, TOO_MUCH),
    ("transitionPosition", {"toState": "RELEASED"}, NO, R),
    ("transitionPosition", {"toState": "RELEASED", "amount": ALL}, NO, R),
    ("transitionPosition", {"toState": "RELEASED", "amount": PART}, NO, BAD),
    ("transitionPosition", {"toState": "RELEASED", "amount": MORE}, NO, TOO_MUCH),
    ("transitionPosition", {"toState": "CANCELLED"}, X, X),
    ("transitionPosition", {"toState": "CANCELLED", "amount": ALL}, BAD, X),
    ("transitionPosition", {"toState": "CANCELLED", "amount": PART}, BAD, BAD),
    ("transitionPosition", {"toState": "CANCELLED", "amount": MORE}, BAD, TOO_MUCH),
    ("transitionPosition", {"toState": "EXPIRED"}, E, E),
    ("transitionPosition", {"toState": "EXPIRED", "amount": ALL}, BAD, E),
    ("transitionPosition", {"toState": "EXPIRED", "amount": PART}, BAD, BAD),
    ("transitionPosition", {"toStage": "FUNDED"}, F, NO),
    ("transitionPosition", {"toStage": "RELEASED"}, NO, R),
    ("transitionPosition", {"toStage": "PARTIALLY_RELEASED", "amount": PART}, NO, P),
    ("transitionPosition", {"toStage": "nowhere"}, NO, NO),
    ("transitionPosition", {"toStage": "FUNDED", "toState": "FUNDED"}, F, NO),
    ("transitionPosition", {"toStage": "FUNDED", "toState": "CANCELLED"}, NO, NO),
    ("transitionPosition", {"toStage": "RELEASED", "toState": "CANCELLED"}, NO, NO),
]
TABLE = [
    (state, mutation, given, {C: created, F: opened, P: opened}.get(state, NO))
    for state in State
    for mutation, given, created, opened in MUTATIONS
]


def _name(state: State, mutation: str, given: dict[str, Any]) -> str:
    return f"{state}: {mutation} {' '.join(given.values())}".strip()


@pytest.mark.parametrize(
    ("state", "mutation", "given", "outcome"), TABLE, ids=[_name(*case[:3]) for case in TABLE]
)
async def test_every_state_and_every_mutation(
    shared: Desk, state: State, mutation: str, given: dict[str, Any], outcome: State | str
) -> None:
    position = await shared.position(state=state)
    held = position.balances.held
    spelled = {ALL: f"{held or 100:.2f}", MORE: f"{max(held, Decimal(100)) + Decimal('0.01'):.2f}"}
    sent = {name: spelled.get(value, value) for name, value in given.items()}
    if not isinstance(outcome, State):
        error = await shared.refused(mutation, id=position.id, **sent)
        assert error["code"] == outcome
        assert error["message"]
        # Only what there is in the mutation's input.
        named = {None, "amount"} if mutation != "transitionPosition" else {"amount", "toState", "toStage"}
        assert error["field"] in named
        return
    payload = await shared.accepted(mutation, id=position.id, **sent)
    after, event = payload["position"], payload["event"]
    check_money(after)
    assert (after["state"], after["stage"], after["version"]) == (outcome, outcome, position.version + 1)
    assert (event["previousState"], event["newState"]) == (state, outcome)
    assert event["positionVersion"] == after["version"]
    assert event["balancesAfter"] == {n: after[n] for n in ("funded", "released", "refunded", "held")}
    assert (after["closedAt"] is not None) == (outcome in (R, X, E))
    _check_move(position.id, held, event, outcome)


OUTSIDE = {"FUND": "clearing:in", "RELEASE": "clearing:out:beneficiary", "REFUND": "clearing:out:funder"}


def _check_move(position_id: str, held: Decimal, event: dict[str, Any], outcome: State) -> None:
    wanted: tuple[str, Decimal] = {
        F: ("FUND", Decimal(100)),
        P: ("RELEASE", Decimal(PART)),
        R: ("RELEASE", held),
        X: ("REFUND", held) if held else ("NONE", held),
        E: ("REFUND", held) if held else ("NONE", held),
    }[outcome]
    effect, amount = event["moneyEffect"], Decimal(event["amountMoved"])
    assert (effect, amount) == wanted
    if effect == "NONE":
        assert event["postings"] == []
        return
    into = amount if effect == "FUND" else -amount
    assert event["postings"] == [
        {"account": OUTSIDE[effect], "amount": f"{-into:.2f}", "currency": "USD"},
        {"account": f"held:{position_id}", "amount": f"{into:.2f}", "currency": "USD"},
    ]


async def test_the_refusal_of_a_whole_partial_release_tells_how_to_say_it(shared: Desk) -> None:
    position = await shared.position(state=P)
    error = await shared.refused(
        "transitionPosition", id=position.id, toState="PARTIALLY_RELEASED", amount="99.00"
    )
    assert error["field"] == "toState"
    assert "99.00 USD is all that is held" in error["message"]
    assert "RELEASED or use releasePosition" in error["message"]


async def test_a_refusal_tells_where_the_position_can_go(shared: Desk) -> None:
    created = await shared.position()
    error = await shared.refused("releasePosition", id=created.id)
    assert "from CREATED it can go to CANCELLED, EXPIRED, FUNDED" in error["message"]
    released = await shared.position(state=R)
    error = await shared.refused("fundPosition", id=released.id)
    assert "RELEASED is final" in error["message"]


async def test_a_transition_without_a_target_says_that_it_needs_one(shared: Desk) -> None:
    position = await shared.position()
    error = await shared.refused("transitionPosition", id=position.id, amount="1.00")
    assert error["field"] == "toState"


@pytest.mark.parametrize("mutation", ["fundPosition", "cancelPosition", "expirePosition", "releasePosition"])
async def test_expected_version_refuses_a_stale_writer_in_every_mutation(shared: Desk, mutation: str) -> None:
    state = F if mutation == "releasePosition" else C
    position = await shared.position(state=state)
    for stale in (position.version - 1 or 7, position.version + 1):
        error = await shared.refused(mutation, id=position.id, expectedVersion=stale)
        assert (error["code"], error["field"]) == ("VERSION_CONFLICT", "expectedVersion")
    payload = await shared.accepted(mutation, id=position.id, expectedVersion=position.version)
    assert payload["position"]["version"] == position.version + 1


async def test_a_read_only_key_moves_nothing(shared: Desk) -> None:
    position = await shared.position()
    before = await factories.footprint(shared.owner)
    reader = factories.principal(shared.place.institution.id, Role.READ_ONLY)
    for mutation, sent in (
        ("fundPosition", {"id": position.id}),
        ("createPosition", shared.terms()),
        ("transitionPosition", {"id": position.id, "toState": "FUNDED"}),
    ):
        document = f"mutation ($input: {INPUTS[mutation]}!) {{ {mutation}(input: $input) {{ replayed }} }}"
        answered = await shared.run(document, {"input": sent}, principal=reader)
        assert answered.codes == ["FORBIDDEN"]
        assert answered.data is None
    assert await factories.footprint(shared.owner) == before


async def test_root_moves_positions_of_every_institution(shared: Desk) -> None:
    position = await shared.position()
    payload = await shared.accepted("fundPosition", root(), id=position.id)
    assert payload["position"]["state"] == "FUNDED"


async def test_another_institution_finds_no_such_position(shared: Desk) -> None:
    stranger = (await factories.place(shared.services, name="Stranger")).admin
    position = await shared.position()
    for mutation in ("fundPosition", "cancelPosition", "expirePosition", "releasePosition"):
        error = await shared.refused(mutation, stranger, id=position.id)
        assert (error["code"], error["field"]) == ("NOT_FOUND", "id")


async def test_the_header_serves_as_key_of_the_one_mutation(shared: Desk) -> None:
    position = await shared.position()
    document = "mutation ($id: ID!) { fundPosition(input: {id: $id}) { replayed event { idempotencyKey } } }"
    request = Request("req_1", idempotency_key="from the header")
    for replayed in (False, True):
        answered = await shared.run(document, {"id": position.id}, request=request)
        assert answered.data["fundPosition"] == {
            "replayed": replayed,
            "event": {"idempotencyKey": "from the header"},
        }
