"""The audit through the schema: who may read it, and what it tells."""

from typing import Any

import pytest

from app.context import Services
from app.principal import ROLE_SCOPES, Principal, Role, root

from .conftest import Counted, Moved, Noted, Opened

LIST = """
query ($where: AuditEventWhere, $orderBy: AuditEventOrder, $first: Int, $after: String) {
  auditEvents(where: $where, orderBy: $orderBy, first: $first, after: $after) {
    totalCount
    pageInfo { hasNextPage endCursor }
    edges { cursor node {
      id occurredAt institutionId actorId actorRole operation action resourceType resourceId outcome code
      requestId clientAddress payload
    } }
  }
}
"""
CREATE_KEY = """
mutation ($input: CreateApiKeyInput!) {
  createApiKey(input: $input) { apiKey { id } userErrors { code } }
}
"""


def who(role: Role, institution_id: str) -> Principal:
    """A key of that role."""
    return Principal("key_9", "nine", role, institution_id, ROLE_SCOPES[role])


def nodes(answer: Any) -> list[dict[str, Any]]:
    """What is listed."""
    assert not answer.errors
    return [edge["node"] for edge in answer.data["auditEvents"]["edges"]]


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.READ_ONLY])
async def test_only_those_who_may_read_it(
    services: Services, run: Any, opened: Opened, rows: Counted, role: Role
) -> None:
    bank = await opened()
    answer = await run(LIST, principal=who(role, bank))
    assert answer.codes == ["FORBIDDEN"]
    assert answer.data is None
    await services.recorder.flush()
    told = f"institution_id = '{bank}' AND actor_id = 'key_9' AND operation = 'auditEvents'"
    assert await rows(f"audit_events WHERE action = 'AUTH_FORBIDDEN' AND {told}") == 1


@pytest.mark.parametrize("role", [Role.ADMIN, Role.AUDITOR])
async def test_an_institution_sees_its_own_and_nothing_else(
    run: Any, opened: Opened, noted: Noted, moved: Moved, role: Role
) -> None:
    bank, other = await opened(), await opened("Other")
    for institution_id in (bank, other, None):
        await noted(institution_id, [1])
    (event, _) = await moved(bank, other)
    seen = nodes(await run(LIST, principal=who(role, bank)))
    assert [node["action"] for node in seen] == ["POSITION_CREATED", "ASSET_CREATED", "INSTITUTION_CREATED"]
    assert {node["institutionId"] for node in seen} == {bank}
    assert seen[0]["id"] == event.id
    foreign = {"institutionId": {"eq": other}}
    assert nodes(await run(LIST, {"where": foreign}, principal=who(role, bank))) == []


async def test_root_sees_everything(run: Any, opened: Opened, noted: Noted, moved: Moved) -> None:
    bank, other = await opened(), await opened("Other")
    await noted(None, [1])
    await moved(bank, other)
    answer = await run(LIST, principal=root())
    assert len(nodes(answer)) == answer.data["auditEvents"]["totalCount"] == 5


async def test_an_attempt_is_told_whole(services: Services, run: Any, opened: Opened) -> None:
    bank = await opened()
    given = {"label": "", "role": "READ_ONLY"}
    answer = await run(CREATE_KEY, {"input": given}, principal=who(Role.ADMIN, bank))
    assert answer.data["createApiKey"]["userErrors"] == [{"code": "VALIDATION_FAILED"}]
    await services.recorder.flush()
    (told, *_) = nodes(await run(LIST, principal=who(Role.ADMIN, bank)))
    assert told["id"].startswith("aud_")
    assert told["requestId"].startswith("req_")
    assert told | {"id": "", "occurredAt": "", "requestId": ""} == {
        "id": "",
        "occurredAt": "",
        "requestId": "",
        "institutionId": bank,
        "actorId": "key_9",
        "actorRole": "ADMIN",
        "operation": "createApiKey",
        "action": "API_KEY_CREATED",
        "resourceType": "apiKey",
        "resourceId": None,
        "outcome": "FAILURE",
        "code": "VALIDATION_FAILED",
        "clientAddress": None,
        "payload": {"field": "label"},
    }


async def test_a_success_is_there_as_soon_as_the_mutation_is_answered(run: Any, opened: Opened) -> None:
    bank = await opened()
    given = {"label": "ci", "role": "READ_ONLY"}
    answer = await run(CREATE_KEY, {"input": given}, principal=who(Role.ADMIN, bank))
    (told, *_) = nodes(await run(LIST, principal=who(Role.ADMIN, bank)))
    assert told["resourceId"] == answer.data["createApiKey"]["apiKey"]["id"]
    assert (told["outcome"], told["code"], told["operation"]) == ("SUCCESS", None, "createApiKey")
    assert set(told["payload"]) == {"role", "scopes", "prefix"}


async def test_it_is_filtered_ordered_and_paged(run: Any, opened: Opened, noted: Noted, moved: Moved) -> None:
    bank = await opened()
    rows = await noted(bank, [1, 2, 3])
    events = await moved(bank, bank)
    ids = [*(row.id for row in rows), *(event.id for event in events)]
    variables: dict[str, Any] = {
        "where": {"occurredAt": {"gte": "2026-03-01T00:00:00Z"}},
        "orderBy": {"field": "OCCURRED_AT", "direction": "ASC"},
        "first": 2,
    }
    seen: list[str] = []
    while True:
        answer = await run(LIST, variables, principal=who(Role.AUDITOR, bank))
        seen += [node["id"] for node in nodes(answer)]
        info = answer.data["auditEvents"]["pageInfo"]
        if not info["hasNextPage"]:
            break
        variables["after"] = info["endCursor"]
    assert seen == ids
    for where, expected in (
        ({"action": {"in": ["ASSET_CREATED"]}}, 3),
        ({"action": {"eq": "POSITION_CREATED"}, "outcome": {"eq": "SUCCESS"}}, 2),
        ({"actorId": {"eq": "root"}, "outcome": {"eq": "FAILURE"}}, 3),
        ({"resourceId": {"eq": events[0].position_id}}, 1),
    ):
        answer = await run(LIST, {"where": where}, principal=who(Role.AUDITOR, bank))
        assert len(nodes(answer)) == answer.data["auditEvents"]["totalCount"] == expected


@pytest.mark.parametrize("cursor", ["x", "", "AAAA", "W10", "é"])
async def test_a_cursor_that_is_not_ours_is_refused(run: Any, cursor: str) -> None:
    answer = await run(LIST, {"after": cursor}, principal=root())
    assert answer.codes == ["CURSOR_INVALID"]


async def test_somebody_unknown_has_no_role(run: Any, noted: Noted) -> None:
    await noted(None, [1], actor_id="anonymous", actor_role="", action="AUTH_FAILED", code="UNAUTHENTICATED")
    (told,) = nodes(await run(LIST, {"where": {"action": {"eq": "AUTH_FAILED"}}}, principal=root()))
    assert told["actorRole"] is None
    assert told["actorId"] == "anonymous"
