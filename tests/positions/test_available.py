"""`availableTransitions` says beforehand what `transitionPosition` will say."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.positions.model import Position, State
from app.principal import Role, root
from tests import factories
from tests.positions.conftest import Desk

OFFERS = """
query ($id: ID!) { position(id: $id) {
  availableTransitions { toState toStage moneyEffect portion amount allowed reason } } }
"""


async def offers(desk: Desk, position: Position, principal: Any = None) -> dict[str, dict[str, Any]]:
    answered = await desk.run(OFFERS, {"id": position.id}, principal=principal)
    assert not answered.errors
    found = answered.data["position"]["availableTransitions"]
    return {offer["toState"]: offer for offer in found}


EXPECTED: dict[State, dict[str, tuple[str, str, str | None]]] = {
    State.CREATED: {
        "FUNDED": ("FUND", "WHOLE", "100.00"),
        "CANCELLED": ("NONE", "NONE", "0.00"),
        "EXPIRED": ("NONE", "NONE", "0.00"),
    },
    State.FUNDED: {
        "PARTIALLY_RELEASED": ("RELEASE", "PART", None),
        "RELEASED": ("RELEASE", "ALL", "100.00"),
        "CANCELLED": ("REFUND", "ALL", "100.00"),
        "EXPIRED": ("REFUND", "ALL", "100.00"),
    },
    State.PARTIALLY_RELEASED: {
        "PARTIALLY_RELEASED": ("RELEASE", "PART", None),
        "RELEASED": ("RELEASE", "ALL", "99.00"),
        "CANCELLED": ("REFUND", "ALL", "99.00"),
        "EXPIRED": ("REFUND", "ALL", "99.00"),
    },
    State.RELEASED: {},
    State.CANCELLED: {},
    State.EXPIRED: {},
}


@pytest.mark.parametrize("state", State)
async def test_the_offers_of_each_state(shared: Desk, state: State) -> None:
    position = await shared.position(state=state)
    found = await offers(shared, position)
    assert {
        to: (offer["moneyEffect"], offer["portion"], offer["amount"]) for to, offer in found.items()
    } == EXPECTED[state]
    assert all(offer["allowed"] and offer["reason"] is None for offer in found.values())
    assert all(offer["toStage"] == offer["toState"] for offer in found.values())


async def check(desk: Desk, position: Position) -> None:
    """What is offered happens as offered, what is not allowed is refused for that reason; each on a twin."""
    found = await offers(desk, position)
    for target in State:
        offer = found.get(target)
        twin = await twin_of(desk, position)
        sent = {"id": twin.id, "toState": target.value}
        if target is State.PARTIALLY_RELEASED:
            sent["amount"] = "1.00"
        if offer is None:
            assert (await desk.refused("transitionPosition", **sent))["code"] == "TRANSITION_NOT_ALLOWED"
        elif not offer["allowed"]:
            assert (await desk.refused("transitionPosition", **sent))["message"] == offer["reason"]
        else:
            payload = await desk.accepted("transitionPosition", **sent)
            assert payload["position"]["state"] == offer["toState"]
            assert payload["event"]["moneyEffect"] == offer["moneyEffect"]
            if offer["amount"] is not None:
                assert Decimal(payload["event"]["amountMoved"]) == Decimal(offer["amount"])


async def twin_of(desk: Desk, position: Position) -> Position:
    """Another position in the same circumstances, made before they changed."""
    return desk_twins[position.id].pop()


desk_twins: dict[str, list[Position]] = {}


async def with_twins(desk: Desk, state: State, **terms: Any) -> Position:
    """A position and one twin of it for each state it might be taken to."""
    positions = [await desk.position(state=state, **terms) for _ in range(len(State) + 1)]
    desk_twins[positions[0].id] = positions[1:]
    return positions[0]


@pytest.mark.parametrize("state", State)
async def test_offers_agree_with_what_happens(shared: Desk, state: State) -> None:
    await check(shared, await with_twins(shared, state))


@pytest.mark.parametrize("state", [State.CREATED, State.FUNDED, State.PARTIALLY_RELEASED])
async def test_offers_agree_with_what_happens_under_a_strict_policy(desk: Desk, state: State) -> None:
    position = await with_twins(desk, state)
    await factories.policy(desk.services, desk.place.institution.id, max_amount=Decimal(1))
    if state is State.CREATED:
        fund = (await offers(desk, position))["FUNDED"]
        assert not fund["allowed"]
        assert "allows at most 1" in fund["reason"]
    await check(desk, position)


@pytest.mark.parametrize("state", [State.CREATED, State.FUNDED, State.PARTIALLY_RELEASED])
async def test_offers_agree_with_what_happens_after_the_deadline(shared: Desk, state: State) -> None:
    position = await with_twins(shared, state, expires_at=datetime.now(UTC) + timedelta(seconds=30))
    await shared.owner.execute(
        "UPDATE positions SET expires_at = now() WHERE id = ANY($1::text[])",
        [position.id, *(twin.id for twin in desk_twins[position.id])],
    )
    found = await offers(shared, position)
    assert [to for to, offer in found.items() if offer["allowed"]] == ["EXPIRED"]
    await check(shared, position)


async def test_offers_are_judged_by_the_policy_of_each_positions_institution(desk: Desk) -> None:
    """Also where root asks for positions of several in one list."""
    strict, loose = [await factories.place(desk.services) for _ in range(2)]
    for where in (strict, loose):
        await factories.position(desk.services, where.asset)
    await factories.policy(desk.services, strict.institution.id, max_amount=Decimal(1))
    answered = await desk.run(
        "{ positions { edges { node { institutionId availableTransitions { toState allowed } } } } }",
        principal=root(),
    )
    allowed = {
        edge["node"]["institutionId"]: offer["allowed"]
        for edge in answered.data["positions"]["edges"]
        for offer in edge["node"]["availableTransitions"]
        if offer["toState"] == "FUNDED"
    }
    assert allowed == {strict.institution.id: False, loose.institution.id: True}


@pytest.mark.parametrize("role", [Role.READ_ONLY, Role.AUDITOR])
async def test_a_key_that_cannot_move_is_told_what_there_is_and_that_none_is_allowed(
    shared: Desk, role: Role
) -> None:
    position = await shared.position()
    reader = factories.principal(shared.place.institution.id, role)
    found = await offers(shared, position, reader)
    assert set(found) == {"FUNDED", "CANCELLED", "EXPIRED"}
    assert not any(offer["allowed"] for offer in found.values())
    document = "mutation ($id: ID!) { fundPosition(input: {id: $id}) { position { id } } }"
    answered = await shared.run(document, {"id": position.id}, principal=reader)
    assert answered.codes == ["FORBIDDEN"]
    assert {offer["reason"] for offer in found.values()} == {answered.errors[0].message}
    assert "POSITIONS_MOVE" in answered.errors[0].message
