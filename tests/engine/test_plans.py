"""Plans answer exactly what graphql-core answers, for real documents, faults and nulls included."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from graphql import OperationType, parse

from app import schema
from app.context import Context, Request, Services
from app.engine.compiled import Compiled, Plans
from app.engine.masking import Schema
from app.engine.measures import operations_of
from app.positions.model import State
from app.principal import Principal, root
from app.settings import Settings
from tests import factories
from tests.factories import Place

OPERATIONS = Path(__file__).parents[2] / "app" / "http" / "graphiql" / "operations.json"
NODE = "id state held amount currency createdAt expiresAt holderReference version"
EVENT = """id sequence globalSequence institutionId positionId positionVersion kind kindVersion previousState newState
  previousStage newStage moneyEffect amountMoved currency requestId idempotencyKey templateId policyId lifecycleName
  lifecycleVersion occurredAt recordedAt previousHash hash hashVersion"""
DOCUMENTS = {
    "nested": """query($n: Int) { positions(first: $n) { totalCount pageInfo { hasNextPage endCursor } edges { cursor
      node { __typename NODE institution { id name } asset { label template { code version } }
        events(first: 3) { totalCount edges { cursor node { id reason metadata position { id } } } } } } } }""",
    "events as data": """{ positions { edges { node { id events(first: 10) { edges { node { __typename EVENT
      postings { __typename account amount currency } balancesAfter { funded held released refunded __typename }
      actor { id role } } cursor } pageInfo { hasNextPage hasPreviousPage startCursor endCursor __typename } __typename }
      latest: events(last: 1) { edges { node { newState recordedAt } } pageInfo { hasPreviousPage hasNextPage } }
      newest: events(first: 2, direction: DESC) { edges { cursor node { s: sequence q: sequence } } } } } } }""",
    "events with filters": """{ positions(first: 4) { edges { node { events(where: {kind: {eq: POSITION_STATE_CHANGED}},
      first: 2) { edges { node { sequence newState } } } } } } }""",
    "no events at all": "{ positions { edges { node { events(first: 0) { edges { cursor } pageInfo { endCursor } } } } } }",
    "fragments and conditions": """query($yes: Boolean = true, $no: Boolean = false) { positions(first: 2) { edges { node {
      ...P ... on Position @skip(if: $no) { stage } ... @include(if: $yes) { version } amount @include(if: $no) } } } }
      fragment P on Position { id held ... on Node { id } availableTransitions { toState allowed reason amount } }""",
    "interfaces": "query($a: ID!, $b: ID!) { a: node(id: $a) { id __typename ... on Position { state } ... on LedgerEvent { kind } } "
    "b: node(id: $b) { id ... on Institution { name regions } } }",
    "lists of data": "{ currencies { code exponent kind } lifecycles { name stages { name state final } transitions { roles } } }",
    "sums": "{ positionSummary(groupBy: [STATE, CREATED_DAY]) { state createdDay currency count held } }",
    "introspection": "{ __schema { types { name kind fields { name args { name defaultValue } type { name kind ofType { name } } } } } "
    '__type(name: "Position") { interfaces { name } } }',
    "one field fails": '{ positions(first: 2) { edges { node { id } } } accountStatement(account: "nonsense", currency: "USD") { edges { cursor } } }',
    "a limit is told": "{ positions(first: 501) { edges { cursor } } viewer { role } }",
    "a bad cursor": '{ positions(after: "nonsense") { edges { cursor } } ledgerHead { sequence } }',
}
MUTATION = """mutation($id: ID!) { a: releasePosition(input: {id: $id, amount: "1.00"}) { position { held version } userErrors { code } }
  b: releasePosition(input: {id: $id, amount: "2.00"}) { position { held version events(last: 1) { edges { node { amountMoved } } } } }
  c: releasePosition(input: {id: $id, amount: "100000"}) { position { id } userErrors { code field } } }"""

Both = Callable[..., Awaitable[tuple[Any, Any]]]


def document(name: str) -> str:
    return DOCUMENTS[name].replace("NODE", NODE).replace("EVENT", EVENT)


@pytest.fixture
async def place(services: Services) -> Place:
    place = await factories.place(services)
    for number, state in enumerate((*State, *State)):
        await factories.position(
            services, place.asset, "100.00", state=state, reason=f"reason {number}", metadata={"n": number}
        )
    return place


@pytest.fixture
def plans() -> Plans:
    return Plans()


@pytest.fixture
def both(services: Services, plans: Plans) -> Both:
    """Runs a document by graphql-core and by plans."""
    slow, fast = schema.build(Settings()), schema.build(Settings())
    slow.extensions = slow.extensions[:-1]
    fast.extensions = [*slow.extensions, lambda: Compiled(plans)]

    async def one(by: Schema, text: str, variables: dict[str, Any], principal: Principal) -> Any:
        context = Context(services, principal, Request("req_1"))
        try:
            return await by.execute(text, variable_values=variables, context_value=context)
        finally:
            await context.close()

    async def run(
        text: str, variables: dict[str, Any] | None = None, principal: Principal | None = None
    ) -> tuple[Any, Any]:
        asker = principal or root()
        return await one(slow, text, variables or {}, asker), await one(fast, text, variables or {}, asker)

    return run


def told(result: Any) -> tuple[str, set[tuple[str, str, str]]]:
    """The answer as text, so that the order of keys counts, and the set of its errors."""
    errors = {(str(e.path), e.message, str(e.locations)) for e in result.errors or ()}
    return json.dumps(result.data, default=str), errors


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_a_plan_answers_what_graphql_core_answers(
    name: str, both: Both, plans: Plans, place: Place, services: Services
) -> None:
    position = await factories.position(services, place.asset)
    variables = (
        {"n": 5}
        if name == "nested"
        else {"a": position.id, "b": place.institution.id}
        if name == "interfaces"
        else {}
    )
    for principal in (root(), place.admin):
        slow, fast = await both(document(name), variables, principal)
        assert told(fast) == told(slow)
    assert plans.fallbacks == 0
    assert plans.used == 2


@pytest.mark.parametrize("yes", [True, False])
@pytest.mark.parametrize("no", [True, False])
async def test_conditions_by_variables_each_have_their_plan(
    both: Both, plans: Plans, place: Place, *, yes: bool, no: bool
) -> None:
    slow, fast = await both(document("fragments and conditions"), {"yes": yes, "no": no}, place.admin)
    assert told(fast) == told(slow)


async def test_saved_operations_are_all_run_by_plans(both: Both, plans: Plans, place: Place) -> None:
    for saved in json.loads(OPERATIONS.read_text()):
        text = saved["document"]
        if any(found.operation is not OperationType.QUERY for found in operations_of(parse(text))):
            continue
        slow, fast = await both(text, saved.get("variables") or {}, place.admin)
        assert told(fast) == told(slow), (saved["name"], fast.errors)
    assert plans.fallbacks == 0


async def test_mutations_run_one_after_the_other_and_see_each_other(
    services: Services, run: Any, place: Place
) -> None:
    position = await factories.position(services, place.asset, "10.00", state=State.FUNDED)
    answered = await run(MUTATION, {"id": position.id}, principal=place.admin)
    assert not answered.errors
    assert answered.data["a"]["position"] == {"held": "9.00", "version": 3}
    assert answered.data["b"]["position"]["held"] == "7.00"
    assert answered.data["b"]["position"]["events"]["edges"] == [{"node": {"amountMoved": "2.00"}}]
    assert answered.data["c"] == {
        "position": None,
        "userErrors": [{"code": "INSUFFICIENT_HELD", "field": "amount"}],
    }
