"""The ledger as lists: pages by its own cursors, histories of positions, account statements."""

from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from app.context import Services
from app.positions.model import State
from app.principal import Role
from tests import factories
from tests.conftest import Run
from tests.factories import FUND, Place, release
from tests.ledger.conftest import Ledger

EVENTS = """
query ($first: Int, $after: String, $last: Int, $before: String, $direction: OrderDirection! = ASC) {
  ledgerEvents(first: $first, after: $after, last: $last, before: $before, direction: $direction) {
    totalCount edges { cursor node { sequence } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}
"""
HISTORY = """
query ($id: ID!, $first: Int, $after: String, $last: Int, $before: String, $direction: OrderDirection! = ASC) {
  position(id: $id) {
    events(first: $first, after: $after, last: $last, before: $before, direction: $direction) {
      totalCount edges { cursor node { positionVersion } }
      pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
    }
  }
}
"""


async def pages(run: Run, document: str, key: str, *, size: int, back: bool, **variables: Any) -> list[int]:
    """Every number of a list, read page by page; checks what each page says of itself."""
    principal = variables.pop("principal")
    found: list[int] = []
    cursor: str | None = None
    while True:
        page = {"last": size, "before": cursor} if back else {"first": size, "after": cursor}
        answered = await run(document, {**variables, **page}, principal=principal)
        assert not answered.errors
        data = answered.data["ledgerEvents"] if key == "sequence" else answered.data["position"]["events"]
        numbers = [edge["node"][key] for edge in data["edges"]]
        found = numbers + found if back else found + numbers
        info = data["pageInfo"]
        assert info["startCursor"] == (data["edges"][0]["cursor"] if data["edges"] else None)
        assert info["endCursor"] == (data["edges"][-1]["cursor"] if data["edges"] else None)
        more, behind = ("hasPreviousPage", "hasNextPage") if back else ("hasNextPage", "hasPreviousPage")
        assert info[behind] == (cursor is not None)
        assert data["totalCount"] >= len(found)
        if not info[more]:
            assert data["totalCount"] == len(found)
            return found
        assert len(numbers) == size
        cursor = info["startCursor"] if back else info["endCursor"]


@pytest.mark.parametrize("direction", ["ASC", "DESC"])
@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
async def test_the_ledger_is_read_in_pages_from_either_end(
    services: Services, place: Place, elsewhere: Place, run: Run, direction: str, back: bool
) -> None:
    for where in (place, elsewhere, place):
        await factories.position(services, where.asset, state=State.RELEASED)
    await factories.position(services, place.asset)
    wanted = list(range(1, 8))[:: 1 if direction == "ASC" else -1]
    for size in (1, 2, 3, 7, 50):
        for admin in (place.admin,):
            found = await pages(
                run, EVENTS, "sequence", size=size, back=back, direction=direction, principal=admin
            )
            assert found == wanted


@pytest.mark.parametrize("direction", ["ASC", "DESC"])
@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
async def test_the_history_of_a_position_is_read_in_pages_by_the_same_cursors(
    services: Services, place: Place, run: Run, direction: str, back: bool
) -> None:
    one, other = [await factories.position(services, place.asset, state=State.FUNDED) for _ in range(2)]
    for _ in range(3):
        for position in (one, other):
            await services.writer.submit(factories.move(services, position, release("1.00")))
    wanted = list(range(1, 6))[:: 1 if direction == "ASC" else -1]
    for size in (1, 2, 5, 50):
        found = await pages(
            run,
            HISTORY,
            "positionVersion",
            size=size,
            back=back,
            id=one.id,
            direction=direction,
            principal=place.admin,
        )
        assert found == wanted
    # The ledger's own cursor serves: what of one position follows the fourth event of the ledger.
    answered = await run(
        HISTORY,
        {"id": one.id, "after": services.tail.epochs.cursor(place.institution.id, 5)},
        principal=place.admin,
    )
    versions = [edge["node"]["positionVersion"] for edge in answered.data["position"]["events"]["edges"]]
    assert versions == [4, 5]


async def test_the_cursors_of_a_history_are_those_of_the_ledger_for_root_too(
    services: Services, place: Place, elsewhere: Place, run: Run
) -> None:
    for where in (place, elsewhere, place, elsewhere):
        await factories.position(services, where.asset, state=State.FUNDED)
    for principal in (None, elsewhere.admin):
        listed = await run("{ ledgerEvents { edges { cursor node { id } } } }", principal=principal)
        histories = await run(
            "{ positions { edges { node { events { edges { cursor node { id } } } } } } }",
            principal=principal,
        )
        cursors = {edge["node"]["id"]: edge["cursor"] for edge in listed.data["ledgerEvents"]["edges"]}
        nested = {
            edge["node"]["id"]: edge["cursor"]
            for position in histories.data["positions"]["edges"]
            for edge in position["node"]["events"]["edges"]
        }
        assert nested == cursors


async def test_a_history_that_is_asked_for_by_several_parents_is_told_to_each_once(
    services: Services, place: Place, run: Run
) -> None:
    """Three events lead to the one position, and so does each of them to its history."""
    await factories.position(services, place.asset, state=State.PARTIALLY_RELEASED)
    for principal in (None, place.admin):
        told = await run(
            "{ ledgerEvents { edges { node { position { events(first: 10) { edges { node { sequence } } } } } } } }",
            principal=principal,
        )
        for edge in told.data["ledgerEvents"]["edges"]:
            history = edge["node"]["position"]["events"]["edges"]
            assert [event["node"]["sequence"] for event in history] == [1, 2, 3]


async def test_an_event_is_told_whole(services: Services, place: Place, run: Run, ledger: Ledger) -> None:
    policy = await factories.policy(services, place.institution.id, max_amount=Decimal(500))
    position = await factories.position(services, place.asset, "500")
    answer = await services.writer.submit(
        factories.move(
            services, position, FUND, reason="paid", metadata={"n": Decimal("1.50")}, idempotency_key="k"
        )
    )
    document = """
    query ($id: ID!) { ledgerEvent(id: $id) {
      id sequence kind kindVersion previousState newState previousStage newStage moneyEffect amountMoved currency
      postings { account amount currency } balancesAfter { funded released refunded held } actor { id role }
      requestId idempotencyKey templateId policyId lifecycleName lifecycleVersion data evidence occurredAt recordedAt
      reason metadata hash previousHash hashVersion positionVersion
    } }
    """
    told = (await run(document, {"id": answer.event.id}, principal=place.admin)).data["ledgerEvent"]
    event = answer.event
    assert told == {
        "id": event.id,
        "sequence": 2,
        "kind": "POSITION_STATE_CHANGED",
        "kindVersion": 1,
        "previousState": "CREATED",
        "newState": "FUNDED",
        "previousStage": "CREATED",
        "newStage": "FUNDED",
        "moneyEffect": "FUND",
        "amountMoved": "500.00",
        "currency": "USD",
        "postings": [
            {"account": "clearing:in", "amount": "-500.00", "currency": "USD"},
            {"account": f"held:{position.id}", "amount": "500.00", "currency": "USD"},
        ],
        "balancesAfter": {"funded": "500.00", "released": "0.00", "refunded": "0.00", "held": "500.00"},
        "actor": {"id": "key_of_admin", "role": "ADMIN"},
        "requestId": event.actor.request_id,
        "idempotencyKey": "k",
        "templateId": place.template.id,
        "policyId": policy.id,
        "lifecycleName": "escrow",
        "lifecycleVersion": 1,
        "data": {},
        "evidence": {},
        "occurredAt": told["recordedAt"],
        "recordedAt": event.recorded_at.isoformat().replace("+00:00", "Z"),
        "reason": "paid",
        "metadata": {"n": Decimal("1.50")},
        "hash": event.hash.hex(),
        "previousHash": event.previous_hash.hex(),
        "hashVersion": 1,
        "positionVersion": 2,
    }


async def test_another_institutions_event_is_not_there(
    services: Services, place: Place, elsewhere: Place, run: Run, ledger: Ledger
) -> None:
    await factories.position(services, elsewhere.asset)
    (event,) = await ledger()
    for document in (
        "query ($id: ID!) { ledgerEvent(id: $id) { id } }",
        "query ($id: ID!) { node(id: $id) { id } }",
    ):
        for principal, found in ((place.admin, None), (elsewhere.admin, {"id": event.id})):
            answered = await run(document, {"id": event.id}, principal=principal)
            assert not answered.errors
            assert list(answered.data.values()) == [found]
    listed = await run(
        "query ($where: LedgerEventWhere) { ledgerEvents(where: $where) { totalCount edges { node { id } } } }",
        {"where": {"institutionId": {"eq": elsewhere.institution.id}}},
        principal=place.admin,
    )
    assert listed.data["ledgerEvents"] == {"totalCount": 0, "edges": []}


STATEMENT = """
query ($account: String!, $currency: String!, $of: ID, $first: Int, $after: String, $last: Int, $before: String) {
  accountStatement(account: $account, currency: $currency, institutionId: $of, first: $first, after: $after,
                   last: $last, before: $before) {
    totalCount edges { cursor node { amount balanceAfter event { sequence } } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}
"""
ACCOUNTS = ["clearing:in", "clearing:out:beneficiary", "clearing:out:funder"]


@pytest.fixture
async def moved(services: Services, place: Place) -> Any:
    """Two dollar positions and one in euros, moved one after the other."""
    euros = await factories.template(
        services, place.institution.id, config={"currency": "EUR", "region": "US"}
    )
    eur = await factories.asset(services, euros)
    one = await factories.position(services, place.asset, "100.00", state=State.FUNDED)
    await factories.position(services, eur, "7.00", state=State.RELEASED)
    for amount in ("10.00", "0.01", "25.50"):
        await services.writer.submit(factories.move(services, one, release(amount)))
    await factories.position(services, place.asset, "50.00", state=State.PARTIALLY_RELEASED)
    await services.writer.submit(factories.move(services, one, factories.Intent(state=State.CANCELLED)))
    return one


async def lines(run: Run, place: Place, account: str, currency: str = "USD") -> list[tuple[str, str]]:
    answered = await run(STATEMENT, {"account": account, "currency": currency}, principal=place.admin)
    assert not answered.errors
    nodes = [edge["node"] for edge in answered.data["accountStatement"]["edges"]]
    assert answered.data["accountStatement"]["totalCount"] == len(nodes)
    return [(node["amount"], node["balanceAfter"]) for node in nodes]


async def test_a_statement_lists_every_posting_with_the_balance_after_it(
    place: Place, run: Run, moved: Any
) -> None:
    assert await lines(run, place, f"held:{moved.id}") == [
        ("100.00", "100.00"),
        ("-10.00", "90.00"),
        ("-0.01", "89.99"),
        ("-25.50", "64.49"),
        ("-64.49", "0.00"),
    ]
    assert await lines(run, place, "clearing:in") == [("-100.00", "-100.00"), ("-50.00", "-150.00")]
    assert await lines(run, place, "clearing:in", "EUR") == [("-7.00", "-7.00")]
    assert await lines(run, place, "clearing:out:beneficiary") == [
        ("10.00", "10.00"),
        ("0.01", "10.01"),
        ("25.50", "35.51"),
        ("1.00", "36.51"),
    ]
    assert await lines(run, place, "clearing:out:funder") == [("64.49", "64.49")]
    assert await lines(run, place, "clearing:out:funder", "EUR") == []
    assert await lines(run, place, f"held:{moved.id}", "EUR") == []


async def test_all_accounts_of_a_currency_sum_to_zero(
    services: Services, place: Place, run: Run, moved: Any, owner: asyncpg.Connection
) -> None:
    for currency in ("USD", "EUR"):
        held = [f"held:{row['id']}" for row in await owner.fetch("SELECT id FROM positions")]
        ends = [await lines(run, place, account, currency) for account in (*ACCOUNTS, *held)]
        balances = [Decimal(some[-1][1]) for some in ends if some]
        assert balances
        assert sum(balances) == 0


@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
async def test_the_pages_of_a_statement_carry_the_balance_on(
    place: Place, run: Run, moved: Any, back: bool
) -> None:
    for account in (*ACCOUNTS, f"held:{moved.id}"):
        whole = await lines(run, place, account)
        for size in (1, 2, 3):
            found: list[tuple[str, str]] = []
            cursor = None
            while True:
                page = {"last": size, "before": cursor} if back else {"first": size, "after": cursor}
                answered = await run(
                    STATEMENT, {"account": account, "currency": "USD", **page}, principal=place.admin
                )
                data = answered.data["accountStatement"]
                some = [(edge["node"]["amount"], edge["node"]["balanceAfter"]) for edge in data["edges"]]
                found = some + found if back else found + some
                if not data["pageInfo"]["hasPreviousPage" if back else "hasNextPage"]:
                    break
                cursor = data["pageInfo"]["startCursor" if back else "endCursor"]
            assert found == whole


async def test_root_names_the_institution_and_tenants_see_their_own(
    services: Services, place: Place, elsewhere: Place, run: Run, moved: Any
) -> None:
    asked = {"account": "clearing:in", "currency": "USD"}
    unnamed = await run(STATEMENT, asked)
    assert unnamed.codes == ["BAD_REQUEST"]
    named = await run(STATEMENT, {**asked, "of": place.institution.id})
    assert named.data["accountStatement"]["totalCount"] == 2
    # A tenant who names somebody else is told of its own.
    reader = factories.principal(elsewhere.institution.id, Role.READ_ONLY)
    foreign = await run(STATEMENT, {**asked, "of": place.institution.id}, principal=reader)
    assert foreign.data["accountStatement"]["totalCount"] == 0
    held = await run(STATEMENT, {**asked, "account": f"held:{moved.id}"}, principal=reader)
    assert held.data["accountStatement"]["edges"] == []


@pytest.mark.parametrize(
    "asked",
    [
        {"account": "clearing", "currency": "USD"},
        {"account": "", "currency": "USD"},
        {"account": "clearing:in ", "currency": "USD"},
        {"account": "clearing:in", "currency": "usd"},
        {"account": "clearing:in", "currency": "XXX"},
        {"account": "held:\x00", "currency": "USD"},
        {"account": "held:\ud800", "currency": "USD"},
        {"account": "held:nonsense", "currency": "USD"},
    ],
    ids=str,
)
async def test_an_account_or_currency_that_cannot_be_is_refused(
    place: Place, run: Run, asked: dict[str, str]
) -> None:
    answered = await run(STATEMENT, asked, principal=place.admin)
    assert answered.codes == ["BAD_REQUEST"]
