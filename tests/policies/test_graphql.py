"""Policies through GraphQL: answers, userErrors, permissions, tenants apart."""

import pytest
import pytest_asyncio

from app.institutions.model import Region
from app.principal import Role, Scope
from tests.office import principal_of

SET = """
mutation ($input: SetPolicyInput!) {
  setPolicy(input: $input) {
    policy { id region version minAmount maxAmount allowedCurrencies current institution { id } }
    userErrors { code message field }
  }
}
"""
INPUT = {"region": "US", "minAmount": "10.50", "maxAmount": "5000", "allowedCurrencies": ["USD", "EUR"]}


@pytest_asyncio.fixture
async def here(office):
    return await office.institution(Region.US, Region.EU_UK)


@pytest.fixture
def ask(run, here):
    async def asked(document, variables=None, role=Role.ADMIN):
        answer = await run(document, variables, principal=principal_of(here, role))
        assert answer.errors == []
        return answer.data

    return asked


async def made(ask, **change):
    answer = (await ask(SET, {"input": INPUT | change}))["setPolicy"]
    assert answer["userErrors"] == []
    return answer["policy"]


async def test_a_policy_is_answered_whole(ask, here):
    policy = await made(ask)
    assert policy.pop("id").startswith("pol_")
    assert policy == {
        "region": "US",
        "version": 1,
        "minAmount": "10.50",
        "maxAmount": "5000",
        "allowedCurrencies": ["USD", "EUR"],
        "current": True,
        "institution": {"id": here.id},
    }
    unlimited = await made(ask, minAmount=None, maxAmount=None, allowedCurrencies=None)
    assert (unlimited["version"], unlimited["minAmount"], unlimited["allowedCurrencies"]) == (2, None, None)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"allowedCurrencies": []}, "VALIDATION_FAILED", "allowedCurrencies"),
        ({"allowedCurrencies": ["XXX"]}, "VALIDATION_FAILED", "allowedCurrencies"),
        ({"allowedCurrencies": ["USD", "USD"]}, "VALIDATION_FAILED", "allowedCurrencies"),
        ({"minAmount": "5000.01"}, "VALIDATION_FAILED", "minAmount"),
        ({"minAmount": "0"}, "VALIDATION_FAILED", "minAmount"),
        ({"maxAmount": "1000000000000001"}, "VALIDATION_FAILED", "maxAmount"),
        ({"region": "SG"}, "POLICY_REFUSED", "region"),
    ],
)
async def test_a_refused_policy_has_one_error_and_writes_nothing(ask, office, change, code, field):
    before = await office.counts()
    answer = (await ask(SET, {"input": INPUT | change}))["setPolicy"]
    assert answer["policy"] is None
    assert [(error["code"], error["field"]) for error in answer["userErrors"]] == [(code, field)]
    assert await office.counts() == before


async def test_lists_and_histories_tell_what_holds_and_what_held(ask):
    first, second = await made(ask), await made(ask, minAmount="11")
    europe = await made(ask, region="EU_UK")
    document = """
    query ($first: ID!) {
      policy(id: $first) { version current history(first: 1) { totalCount edges { node { version } } } }
      now: policies(where: {current: true}, orderBy: {field: REGION, direction: ASC}) {
        totalCount edges { node { id current history { totalCount } } }
      }
      before: policies(where: {current: false}) { edges { node { id current } } }
      us: policies(where: {region: {eq: US}}) { edges { node { version } } }
      node(id: $first) { ... on Policy { version } }
      odd: policy(id: "nonsense") { id }
    }
    """
    data = await ask(document, {"first": first["id"]})
    assert data["policy"] == {
        "version": 1,
        "current": False,
        "history": {"totalCount": 2, "edges": [{"node": {"version": 2}}]},
    }
    assert data["now"] == {
        "totalCount": 2,
        "edges": [
            {"node": {"id": europe["id"], "current": True, "history": {"totalCount": 1}}},
            {"node": {"id": second["id"], "current": True, "history": {"totalCount": 2}}},
        ],
    }
    assert data["before"]["edges"] == [{"node": {"id": first["id"], "current": False}}]
    assert [edge["node"]["version"] for edge in data["us"]["edges"]] == [2, 1]
    assert data["node"] == {"version": 1}
    assert data["odd"] is None


async def test_another_institution_sees_nothing(ask, run, office):
    policy = await made(ask)
    stranger = principal_of(await office.institution())
    answer = await run(
        "query ($id: ID!) { policy(id: $id) { id } policies { totalCount } }",
        {"id": policy["id"]},
        principal=stranger,
    )
    assert answer.data == {"policy": None, "policies": {"totalCount": 0}}


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ROOT])
async def test_only_who_may_sets_a_policy(run, office, here, role):
    key = principal_of(here, role)
    before = (await office.counts())["policies"]
    answer = await run(SET, {"input": INPUT}, principal=key)
    if key.may(Scope.POLICIES_WRITE):
        assert answer.errors == []
    else:
        assert answer.codes == ["FORBIDDEN"]
    assert (await office.counts())["policies"] - before == int(key.may(Scope.POLICIES_WRITE))


async def test_root_names_the_institution(run, here):
    answer = await run(SET, {"input": INPUT})
    assert [e["field"] for e in answer.data["setPolicy"]["userErrors"]] == ["institutionId"]
    answer = await run(SET, {"input": INPUT | {"institutionId": here.id}})
    assert answer.data["setPolicy"]["policy"]["institution"]["id"] == here.id


async def test_naming_another_institution_writes_nothing_there_or_here(ask, office):
    there = await office.institution()
    before = await office.counts()
    answer = (await ask(SET, {"input": INPUT | {"institutionId": there.id}}))["setPolicy"]
    assert [error["code"] for error in answer["userErrors"]] == ["NOT_FOUND"]
    assert await office.counts() == before
