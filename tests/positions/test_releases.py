"""Releases: in parts, in any number, and never more than what is held."""

import asyncio
import random
from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pytest

from app.context import Services
from app.errors import ErrorCode, Refusal
from app.kit import money
from app.ledger.writer import Answer
from app.main import Parts, assemble
from app.positions.model import Position, State
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.factories import release
from tests.positions.conftest import Desk, check_money


@pytest.mark.parametrize("last", [None, "10.00"], ids=["without an amount", "with the amount left"])
async def test_partial_releases_go_on_until_all_is_released(shared: Desk, last: str | None) -> None:
    position = await shared.position(state=State.FUNDED)
    for number in range(1, 10):
        payload = await shared.accepted("releasePosition", id=position.id, amount="10.00")
        after = payload["position"]
        check_money(after)
        assert (after["state"], after["version"]) == ("PARTIALLY_RELEASED", number + 2)
        assert (after["released"], after["held"]) == (f"{number * 10}.00", f"{100 - number * 10}.00")
    ended = (await shared.accepted("releasePosition", id=position.id, amount=last))["position"]
    check_money(ended)
    assert (ended["state"], ended["held"], ended["released"]) == ("RELEASED", "0.00", "100.00")
    assert ended["closedAt"] is not None
    error = await shared.refused("releasePosition", id=position.id, amount="0.01")
    assert error["code"] == "TRANSITION_NOT_ALLOWED"


async def test_what_was_released_in_parts_and_the_rest_refunded_adds_up(shared: Desk) -> None:
    position = await shared.position(state=State.FUNDED)
    await shared.accepted("releasePosition", id=position.id, amount="33.33")
    await shared.accepted("releasePosition", id=position.id, amount="0.01")
    after = (await shared.accepted("cancelPosition", id=position.id))["position"]
    check_money(after)
    amounts = [after[name] for name in ("funded", "released", "refunded", "held")]
    assert amounts == ["100.00", "33.34", "66.66", "0.00"]


@pytest.mark.parametrize("amount", ["100.01", "1000000000000000.00", "9" * 30])
async def test_more_than_what_is_held_is_refused_with_what_is(shared: Desk, amount: str) -> None:
    position = await shared.position(state=State.FUNDED)
    error = await shared.refused("releasePosition", id=position.id, amount=amount)
    assert error["field"] == "amount"
    if amount.startswith("9"):
        assert error["code"] == "VALIDATION_FAILED"
    else:
        assert (error["code"], error["message"]) == ("INSUFFICIENT_HELD", "only 100.00 USD is held")


@pytest.mark.parametrize(
    "whole",
    ["1000000000000000.000000000000000000", "999999999999999.999999999999999999", "0.000000000000000003"],
)
@pytest.mark.parametrize("end", ["releasePosition", "cancelPosition"])
async def test_the_smallest_unit_of_the_largest_amount_is_moved_exactly(
    shared: Desk, whole: str, end: str
) -> None:
    """Thirty-three digits are more than Python's decimals keep unless told to."""
    eth = await factories.place(shared.services, currency="ETH")
    position = await factories.position(shared.services, eth.asset, whole)
    wei = "0.000000000000000001"
    left = money.spell(money.add(Decimal(whole), Decimal(f"-{wei}")), 18)
    funded = await shared.accepted("fundPosition", eth.admin, id=position.id)
    part = await shared.accepted("releasePosition", eth.admin, id=position.id, amount=wei)
    ended = await shared.accepted(end, eth.admin, id=position.id)
    assert (part["position"]["released"], part["position"]["held"]) == (wei, left)
    assert ended["position"]["held"] == "0.000000000000000000"
    assert ended["position"]["funded"] == whole
    for payload, amount in ((funded, whole), (part, wei), (ended, left)):
        legs = [Decimal(leg["amount"]) for leg in payload["event"]["postings"]]
        assert {leg.copy_abs() for leg in legs} == {Decimal(amount)}
        assert money.add(*legs) == 0
    document = """query ($account: String!) { accountStatement(account: $account, currency: "ETH", last: 1) {
        edges { node { balanceAfter } } } }"""
    balances = {}
    for account in ("clearing:in", "clearing:out:beneficiary", "clearing:out:funder", f"held:{position.id}"):
        told = await shared.run(document, {"account": account}, principal=eth.admin)
        edges = told.data["accountStatement"]["edges"]
        balances[account] = Decimal(edges[0]["node"]["balanceAfter"]) if edges else Decimal(0)
    assert balances["clearing:in"] == money.negate(Decimal(whole))
    assert money.add(*balances.values()) == 0


@pytest.fixture
async def second(settings: Settings, address: Address, parts: Parts) -> AsyncIterator[Services]:
    made = assemble(settings, address)
    async with made.running():
        yield made.services


async def _release_all(
    servers: list[Services], position: Position, amounts: list[str]
) -> list[Answer | Refusal]:
    """Everything at once; whatever is no answer is a refusal for want of money."""
    results = await asyncio.gather(
        *(
            servers[number % len(servers)].writer.submit(
                factories.move(servers[number % len(servers)], position, release(amount))
            )
            for number, amount in enumerate(amounts)
        ),
        return_exceptions=True,
    )
    for result in results:
        assert isinstance(result, Answer | Refusal), result
    return results  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("amount", "fitting", "left", "state"),
    [
        ("10.00", 10, "0.00", State.RELEASED),
        ("30.00", 3, "10.00", State.PARTIALLY_RELEASED),
        ("100.00", 1, "0.00", State.RELEASED),
        ("0.90", 111, "0.10", State.PARTIALLY_RELEASED),
    ],
)
async def test_of_releases_at_once_that_sum_to_ten_times_what_is_held_exactly_the_fitting_ones_succeed(
    desk: Desk,
    second: Services,
    owner: asyncpg.Connection,
    amount: str,
    fitting: int,
    left: str,
    state: State,
) -> None:
    """In two processes."""
    position = await desk.position(state=State.FUNDED)
    count = int(1000 / Decimal(amount))
    results = await _release_all([desk.services, second], position, [amount] * count)
    answers = [result for result in results if isinstance(result, Answer)]
    refusals = {result.code for result in results if isinstance(result, Refusal)}
    assert len(answers) == fitting
    expected = (
        ErrorCode.INSUFFICIENT_HELD if state is not State.RELEASED else ErrorCode.TRANSITION_NOT_ALLOWED
    )
    assert refusals <= {expected, ErrorCode.INSUFFICIENT_HELD}
    assert sorted(answer.row.position.version for answer in answers) == list(range(3, fitting + 3))
    row = await owner.fetchrow("SELECT state, held, version FROM positions WHERE id = $1", position.id)
    assert tuple(row) == (state, Decimal(left), fitting + 2)


async def test_mixed_releases_at_once_take_what_fits_in_some_order_and_nothing_else(
    desk: Desk, second: Services, owner: asyncpg.Connection
) -> None:
    chance = random.Random(23)
    position = await desk.position(state=State.FUNDED)
    amounts = [f"{chance.randint(1, 3000) / 100:.2f}" for _ in range(66)]
    results = await _release_all([desk.services, second], position, amounts)
    moved = sorted(
        (result.event.position_version, Decimal(amount), result.row.position.balances)
        for result, amount in zip(results, amounts, strict=True)
        if isinstance(result, Answer)
    )
    held = Decimal("100.00")
    for version, (number, amount, balances) in enumerate(moved, start=3):
        assert number == version
        held -= amount
        assert balances.held == held >= 0
    refused = [
        Decimal(amount)
        for result, amount in zip(results, amounts, strict=True)
        if isinstance(result, Refusal)
    ]
    assert all(amount > held for amount in refused), "what would still have fitted was not refused"
    assert await owner.fetchval("SELECT held FROM positions WHERE id = $1", position.id) == held
