"""Institutions and keys through the schema: who may do what, what a refusal leaves behind."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.context import Services
from app.institutions.graphql import CreateApiKeyPayload
from app.institutions.model import Institution
from app.kit.clock import system_clock
from app.principal import Role, Scope, root

from .conftest import Ask, Counted, Keyed, Opened

CREATE_INSTITUTION = """
mutation ($input: CreateInstitutionInput!) {
  createInstitution(input: $input) {
    institution { id name regions verticals createdAt apiKeys { totalCount } }
    userErrors { code message field }
  }
}
"""
CREATE_KEY = """
mutation ($input: CreateApiKeyInput!) {
  createApiKey(input: $input) {
    apiKey { id label role scopes prefix expiresAt revokedAt institution { id name } }
    secret
    userErrors { code message field }
  }
}
"""
REVOKE_KEY = """
mutation ($id: ID!) {
  revokeApiKey(input: {id: $id}) { apiKey { id revokedAt } userErrors { code message field } }
}
"""
FAILED = "audit_events WHERE outcome = 'FAILURE'"
SUCCEEDED = "audit_events WHERE outcome = 'SUCCESS'"


def fine(answer: Any) -> dict[str, Any]:
    """The data of an answer without errors."""
    assert answer.errors is None or answer.errors == [], answer.errors
    data: dict[str, Any] = answer.data
    return data


def refused(payload: dict[str, Any]) -> tuple[str, str | None]:
    """The one refusal of a payload in which nothing else is."""
    assert [name for name, value in payload.items() if value] == ["userErrors"]
    (error,) = payload["userErrors"]
    return error["code"], error["field"]


def code_of(answer: Any) -> str:
    """The code of the one top-level error."""
    (error,) = answer.errors
    return str(error.extensions["code"])


async def test_root_opens_an_institution(services: Services, ask: Ask, rows: Counted) -> None:
    given = {"name": "Baumeister AG", "regions": ["EU_UK", "US"]}
    payload = fine(await ask(CREATE_INSTITUTION, {"input": given}, principal=root()))["createInstitution"]
    assert payload["userErrors"] == []
    assert payload["institution"] | {"id": "", "createdAt": ""} == given | {
        "id": "",
        "createdAt": "",
        "verticals": ["CONSTRUCTION", "TRADE_FINANCE"],
        "apiKeys": {"totalCount": 0},
    }
    made = f"resource_id = '{payload['institution']['id']}'"
    assert (
        await rows(f"{SUCCEEDED} AND {made} AND operation = 'createInstitution' AND actor_id = 'root'") == 1
    )


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"name": ""}, "name"), ({"regions": []}, "regions"), ({"verticals": []}, "verticals")],
)
async def test_a_refused_institution_is_one_error_and_one_audit_row(
    services: Services, ask: Ask, rows: Counted, changed: dict[str, Any], field: str
) -> None:
    given = {"name": "Bank", "regions": ["US"]} | changed
    answer = await ask(CREATE_INSTITUTION, {"input": given}, principal=root())
    assert refused(fine(answer)["createInstitution"]) == ("VALIDATION_FAILED", field)
    await services.recorder.flush()
    assert await rows("institutions") == await rows(SUCCEEDED) == 0
    told = f"code = 'VALIDATION_FAILED' AND action = 'INSTITUTION_CREATED' AND payload->>'field' = '{field}'"
    assert await rows(f"{FAILED} AND {told} AND institution_id IS NULL AND request_id <> ''") == 1


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ROOT])
async def test_only_root_opens_institutions(
    services: Services, ask: Ask, opened: Opened, keyed: Keyed, rows: Counted, role: Role
) -> None:
    made = await keyed((await opened()).id, role)
    given = {"name": "Mine", "regions": ["US"]}
    answer = await ask(CREATE_INSTITUTION, {"input": given}, key=made.secret)
    assert code_of(answer) == "FORBIDDEN"
    await services.recorder.flush()
    assert await rows("institutions") == 1
    forbidden = f"action = 'AUTH_FORBIDDEN' AND code = 'FORBIDDEN' AND actor_id = '{made.key.id}'"
    assert await rows(f"{FAILED} AND {forbidden} AND operation = 'createInstitution'") == 1


async def test_without_a_key_nothing_is_told(ask: Ask) -> None:
    for document in ("{ viewer { id } }", "{ institutions { totalCount } }", "{ apiKeys { totalCount } }"):
        assert code_of(await ask(document)) == "UNAUTHENTICATED"


async def test_an_admin_makes_a_key_that_works_at_once(
    ask: Ask, opened: Opened, keyed: Keyed, rows: Counted
) -> None:
    bank = await opened()
    admin = await keyed(bank.id)
    given = {"label": "ci", "role": "OPERATOR", "scopes": ["READ"], "expiresAt": "2999-01-01T00:00:00Z"}
    payload = fine(await ask(CREATE_KEY, {"input": given}, key=admin.secret))["createApiKey"]
    assert payload["userErrors"] == []
    made = payload["apiKey"]
    assert made | {"id": ""} == given | {
        "id": "",
        "prefix": payload["secret"][:10],
        "revokedAt": None,
        "institution": {"id": bank.id, "name": bank.name},
    }
    seen = fine(await ask("{ viewer { id label role scopes institution { id } } }", key=payload["secret"]))
    expected = {"id": made["id"], "label": "ci", "role": "OPERATOR", "scopes": ["READ"]}
    assert seen["viewer"] == expected | {"institution": {"id": bank.id}}
    assert await rows(f"{SUCCEEDED} AND actor_id = '{admin.key.id}' AND resource_id = '{made['id']}'") == 1


async def test_the_payload_does_not_show_the_secret_in_its_repr() -> None:
    assert "eg_secret" not in repr(CreateApiKeyPayload(secret="eg_secret"))


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"label": ""}, "VALIDATION_FAILED", "label"),
        ({"role": "ROOT"}, "VALIDATION_FAILED", "role"),
        ({"scopes": []}, "VALIDATION_FAILED", "scopes"),
        ({"role": "READ_ONLY", "scopes": ["KEYS_WRITE"]}, "VALIDATION_FAILED", "scopes"),
        ({"expiresAt": "2001-01-01T00:00:00Z"}, "VALIDATION_FAILED", "expiresAt"),
        ({"role": "ADMIN"}, "ROLE_REFUSED", "scopes"),
    ],
)
async def test_a_refused_key_is_one_error_and_one_audit_row(
    services: Services,
    ask: Ask,
    opened: Opened,
    keyed: Keyed,
    rows: Counted,
    changed: dict[str, Any],
    code: str,
    field: str,
) -> None:
    bank = await opened()
    admin = await keyed(bank.id)
    # Without a scope that only admins have, so that lacking it shows.
    narrow = replace(admin.key.principal, scopes=admin.key.principal.scopes - {Scope.POLICIES_WRITE})
    given = {"label": "ci", "role": "READ_ONLY"} | changed
    answer = await ask(CREATE_KEY, {"input": given}, principal=narrow)
    assert refused(fine(answer)["createApiKey"]) == (code, field)
    await services.recorder.flush()
    assert await rows("api_keys") == 1
    assert await rows(f"{FAILED} AND code = '{code}' AND institution_id = '{bank.id}'") == 1


async def test_root_makes_keys_for_the_institution_it_names(
    services: Services, ask: Ask, opened: Opened, rows: Counted
) -> None:
    bank = await opened()
    given = {"label": "first", "role": "ADMIN", "institutionId": bank.id}
    payload = fine(await ask(CREATE_KEY, {"input": given}, principal=root()))["createApiKey"]
    assert payload["apiKey"]["institution"]["id"] == bank.id
    del given["institutionId"]
    nobody = (await ask(CREATE_KEY, {"input": given}, principal=root())).data["createApiKey"]
    assert [(error["code"], error["field"]) for error in nobody["userErrors"]] == [
        ("VALIDATION_FAILED", "institutionId")
    ]


@pytest.mark.parametrize("named", ["inst_01jqv5s8zk8m2x4y6t3r9wbnpc", "*", "a,b", "", "inst_'"])
async def test_an_institution_that_is_not_there_is_not_found(
    services: Services, ask: Ask, opened: Opened, rows: Counted, named: str
) -> None:
    await opened()
    given = {"label": "first", "role": "ADMIN", "institutionId": named}
    answer = await ask(CREATE_KEY, {"input": given}, principal=root())
    assert refused(fine(answer)["createApiKey"]) == ("NOT_FOUND", "institutionId")
    await services.recorder.flush()
    assert await rows("api_keys") == 0
    assert await rows(f"{FAILED} AND code = 'NOT_FOUND' AND action = 'API_KEY_CREATED'") == 1


async def test_a_tenant_cannot_make_keys_for_another(ask: Ask, opened: Opened, keyed: Keyed) -> None:
    bank, other = await opened(), await opened("Other")
    admin = await keyed(bank.id)
    given = {"label": "x", "role": "READ_ONLY", "institutionId": other.id}
    answer = await ask(CREATE_KEY, {"input": given}, key=admin.secret)
    assert refused(fine(answer)["createApiKey"]) == ("NOT_FOUND", "institutionId")


@pytest.mark.parametrize("as_root", [True, False])
async def test_a_revoked_key_is_told_and_refused(
    ask: Ask, opened: Opened, keyed: Keyed, rows: Counted, as_root: bool
) -> None:
    bank = await opened()
    admin, victim = await keyed(bank.id), await keyed(bank.id, Role.READ_ONLY)
    who = {"principal": root()} if as_root else {"key": admin.secret}
    payload = fine(await ask(REVOKE_KEY, {"id": victim.key.id}, **who))["revokeApiKey"]
    assert payload["apiKey"]["revokedAt"] is not None
    again = fine(await ask(REVOKE_KEY, {"id": victim.key.id}, **who))["revokeApiKey"]
    assert again == payload
    assert await rows(f"{SUCCEEDED} AND action = 'API_KEY_REVOKED' AND institution_id = '{bank.id}'") == 1


async def test_another_tenants_key_reads_as_if_it_were_not_there(
    services: Services, ask: Ask, opened: Opened, keyed: Keyed, rows: Counted
) -> None:
    bank, other = await opened(), await opened("Other")
    admin, foreign = await keyed(bank.id), await keyed(other.id)
    nothing = services.ids.new("key")
    answers = [
        fine(await ask(REVOKE_KEY, {"id": key_id}, key=admin.secret))["revokeApiKey"]
        for key_id in (foreign.key.id, nothing)
    ]
    assert refused(answers[0]) == ("NOT_FOUND", "id")
    assert answers[0] == answers[1]
    assert await rows("api_keys WHERE revoked_at IS NOT NULL") == 0
    await services.recorder.flush()
    failed = f"{FAILED} AND code = 'NOT_FOUND' AND institution_id = '{bank.id}'"
    assert await rows(f"{failed} AND resource_id IN ('{foreign.key.id}', '{nothing}')") == 2


LISTS = "{ institutions { totalCount edges { node { id apiKeys { totalCount edges { node { id } } } } } } }"


def listed(data: dict[str, Any]) -> dict[str, set[str]]:
    """The keys by institution."""
    return {
        edge["node"]["id"]: {key["node"]["id"] for key in edge["node"]["apiKeys"]["edges"]}
        for edge in data["institutions"]["edges"]
    }


async def test_root_lists_all_institutions_and_a_tenant_its_own(
    ask: Ask, opened: Opened, keyed: Keyed
) -> None:
    bank, other = await opened(), await opened("Other")
    mine, foreign = await keyed(bank.id), await keyed(other.id)
    everything = {bank.id: {mine.key.id}, other.id: {foreign.key.id}}
    assert listed(fine(await ask(LISTS, principal=root()))) == everything
    assert listed(fine(await ask(LISTS, key=mine.secret))) == {bank.id: {mine.key.id}}


ONE = "query ($id: ID!) { institution(id: $id) { id name } }"


async def test_another_institution_is_null(ask: Ask, opened: Opened, keyed: Keyed) -> None:
    bank, other = await opened(), await opened("Other")
    mine = await keyed(bank.id, Role.READ_ONLY)
    assert fine(await ask(ONE, {"id": other.id}, key=mine.secret)) == {"institution": None}
    assert fine(await ask(ONE, {"id": "nonsense"}, key=mine.secret)) == {"institution": None}
    own = {"institution": {"id": bank.id, "name": bank.name}}
    assert fine(await ask(ONE, {"id": bank.id}, key=mine.secret)) == own


async def test_an_auditor_sees_every_key_but_no_secret_and_changes_none(
    services: Services, ask: Ask, opened: Opened, keyed: Keyed, rows: Counted
) -> None:
    bank, other = await opened(), await opened()
    made = [await keyed(bank.id, role) for role in (Role.ADMIN, Role.OPERATOR, Role.AUDITOR)]
    foreign, auditor = await keyed(other.id), made[-1]
    shown = await ask(
        "{ apiKeys { totalCount edges { node { id label role scopes prefix lastUsedAt revokedAt } } } }",
        key=auditor.secret,
    )
    ids = [edge["node"]["id"] for edge in fine(shown)["apiKeys"]["edges"]]
    assert ids == [one.key.id for one in reversed(made)]
    assert not [one for one in made if one.secret in str(shown.data)]
    nested = fine(await ask(LISTS, key=auditor.secret))["institutions"]["edges"][0]["node"]["apiKeys"]
    assert nested is not None
    by_id = "query ($id: ID!) { node(id: $id) { id } }"
    assert fine(await ask(by_id, {"id": made[0].key.id}, key=auditor.secret))["node"] is not None
    assert fine(await ask(by_id, {"id": foreign.key.id}, key=auditor.secret))["node"] is None
    given = {"label": "x", "role": "READ_ONLY"}
    assert code_of(await ask(CREATE_KEY, {"input": given}, key=auditor.secret)) == "FORBIDDEN"
    for key in (made[0], auditor):
        assert code_of(await ask(REVOKE_KEY, {"id": key.key.id}, key=auditor.secret)) == "FORBIDDEN"
    assert await rows("api_keys") == 4
    assert await rows("api_keys WHERE revoked_at IS NOT NULL") == 0


async def test_a_key_that_ends_makes_none_that_lasts_longer(
    services: Services, ask: Ask, opened: Opened, keyed: Keyed, rows: Counted
) -> None:
    """Or whoever finds it could stay for ever."""
    bank = await opened()
    ends = system_clock().replace(microsecond=0) + timedelta(hours=1)
    brief = await keyed(bank.id, Role.ADMIN, expires_at=ends)
    for later in (None, (ends + timedelta(seconds=1)).isoformat()):
        given = {"label": "x", "role": "READ_ONLY", "expiresAt": later}
        answer = fine(await ask(CREATE_KEY, {"input": given}, key=brief.secret))["createApiKey"]
        assert refused(answer) == ("ROLE_REFUSED", "expiresAt")
        assert ends.isoformat() in answer["userErrors"][0]["message"]
    assert await rows("api_keys") == 1
    await services.recorder.flush()
    told = f"code = 'ROLE_REFUSED' AND actor_id = '{brief.key.id}' AND payload->>'field' = 'expiresAt'"
    assert await rows(f"{FAILED} AND {told}") == 2
    for by in (ends.isoformat(), (ends - timedelta(minutes=1)).isoformat()):
        given = {"label": "x", "role": "READ_ONLY", "expiresAt": by}
        made = fine(await ask(CREATE_KEY, {"input": given}, key=brief.secret))["createApiKey"]
        assert made["userErrors"] == []
        assert made["secret"]
    assert await rows("api_keys") == 3


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.READ_ONLY])
async def test_keys_are_shown_only_to_those_who_manage_or_audit_them(
    services: Services, ask: Ask, opened: Opened, keyed: Keyed, rows: Counted, role: Role
) -> None:
    made = await keyed((await opened()).id, role)
    assert code_of(await ask("{ apiKeys { totalCount } }", key=made.secret)) == "FORBIDDEN"
    assert code_of(await ask(REVOKE_KEY, {"id": made.key.id}, key=made.secret)) == "FORBIDDEN"
    given = {"label": "x", "role": "READ_ONLY"}
    assert code_of(await ask(CREATE_KEY, {"input": given}, key=made.secret)) == "FORBIDDEN"
    nested = await ask(LISTS, key=made.secret)
    assert code_of(nested) == "FORBIDDEN"
    assert nested.data["institutions"]["edges"][0]["node"]["apiKeys"] is None
    await services.recorder.flush()
    assert await rows("api_keys") == 1
    assert await rows(f"{FAILED} AND action = 'AUTH_FORBIDDEN'") == 4


async def test_keys_are_paged_and_filtered(ask: Ask, opened: Opened, keyed: Keyed) -> None:
    bank = await opened()
    made = [await keyed(bank.id), *[await keyed(bank.id, Role.READ_ONLY) for _ in range(4)]]
    document = """
    query ($after: String, $where: ApiKeyWhere, $orderBy: ApiKeyOrder) {
      apiKeys(first: 2, after: $after, where: $where, orderBy: $orderBy) {
        totalCount edges { node { id } } pageInfo { hasNextPage endCursor }
      }
    }
    """
    readers = {"where": {"role": {"eq": "READ_ONLY"}}, "orderBy": {"field": "CREATED_AT", "direction": "ASC"}}
    seen: list[str] = []
    after = None
    while True:
        page = fine(await ask(document, readers | {"after": after}, key=made[0].secret))["apiKeys"]
        assert page["totalCount"] == 4
        seen += [edge["node"]["id"] for edge in page["edges"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert seen == [key.key.id for key in made[1:]]


async def test_the_viewer_of_root_has_no_institution(ask: Ask) -> None:
    seen = fine(await ask("{ viewer { id role scopes institution { id } } }", principal=root()))["viewer"]
    assert seen["role"] == "ROOT"
    assert "INSTITUTIONS_WRITE" in seen["scopes"]
    assert seen["institution"] is None


async def test_two_mutations_of_one_document_see_each_other(ask: Ask, opened: Opened, keyed: Keyed) -> None:
    bank: Institution = await opened()
    admin = await keyed(bank.id)
    document = """
    mutation {
      a: createApiKey(input: {label: "a", role: READ_ONLY}) { apiKey { institution { apiKeys { totalCount } } } }
      b: createApiKey(input: {label: "b", role: READ_ONLY}) { apiKey { institution { apiKeys { totalCount } } } }
    }
    """
    data = fine(await ask(document, key=admin.secret))
    counts = [data[name]["apiKey"]["institution"]["apiKeys"]["totalCount"] for name in "ab"]
    assert counts == [2, 3]
