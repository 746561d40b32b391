"""Endpoints are made, changed, tested and replayed through GraphQL; refusals write nothing; tenants stay apart."""

import logging
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest

from app.context import Services
from app.main import Parts
from app.positions.model import State
from app.principal import ROLE_SCOPES, Role, Scope, root
from tests import factories
from tests.conftest import Answered, Run, eventually
from tests.factories import Place, principal
from tests.webhooks.conftest import CREATE, Endpoint, MovableClock, Rows, fine, moments
from tests.webhooks.receiver import Message, Receiver, Reply, verified

UPDATE = """
mutation ($input: UpdateWebhookEndpointInput!) {
  updateWebhookEndpoint(input: $input) {
    endpoint { id url description kinds states enabled disabledReason } userErrors { code message field }
  }
}
"""
DELETE = """
mutation ($id: ID!) { deleteWebhookEndpoint(input: {id: $id}) { deletedId userErrors { code field } } }
"""
ROTATE = """
mutation ($id: ID!, $overlap: Int! = 86400) {
  rotateWebhookSecret(input: {endpointId: $id, overlapSeconds: $overlap}) {
    endpoint { id secrets { createdAt endsAt } } secret userErrors { code message field }
  }
}
"""
TEST = """
mutation ($id: ID!) {
  sendTestWebhook(input: {endpointId: $id}) {
    delivery { id webhookId state eventId event { id } } userErrors { code message field }
  }
}
"""
REPLAY = """
mutation ($input: ReplayWebhooksInput!) {
  replayWebhooks(input: $input) { deliveryCount throughSequence hasMore userErrors { code message field } }
}
"""
ENDPOINTS = """
query ($where: WebhookEndpointWhere) {
  webhookEndpoints(where: $where) {
    totalCount
    edges { node { id url createdBy institution { id } secrets { endsAt } deliveries(first: 2) { totalCount edges { node { id state } } } } }
  }
}
"""
LOG = """
query ($where: WebhookDeliveryWhere, $orderBy: WebhookOrder, $first: Int, $after: String) {
  webhookDeliveries(where: $where, orderBy: $orderBy, first: $first, after: $after) {
    totalCount pageInfo { hasNextPage endCursor }
    edges { node {
      id webhookId state attemptCount lastStatus lastError lastResponse nextAttemptAt deliveredAt createdAt updatedAt
      lastAttemptAt positionId event { id sequence reason newState } endpoint { id url }
    } }
  }
}
"""
URL = "https://example.com/hooks"
FOOTPRINT = """
SELECT (SELECT md5(string_agg(e::text, '|' ORDER BY id)) FROM webhook_endpoints e),
       (SELECT md5(string_agg(s::text, '|' ORDER BY id)) FROM webhook_secrets s),
       (SELECT md5(string_agg(d::text, '|' ORDER BY id)) FROM webhook_deliveries d),
       (SELECT count(*) FROM audit_events WHERE outcome = 'SUCCESS')
"""


async def footprint(owner: asyncpg.Connection) -> tuple[Any, ...]:
    """All that a mutation of this slice writes."""
    return tuple(await owner.fetchrow(FOOTPRINT))


def refused(answered: Answered) -> tuple[str, str | None]:
    assert not answered.errors, answered.errors
    (payload,) = answered.data.values()
    (error,) = payload["userErrors"]
    assert all(value is None for name, value in payload.items() if name != "userErrors")
    return error["code"], error.get("field")


@pytest.fixture
async def place(services: Services) -> Place:
    return await factories.place(services)


async def test_an_endpoint_is_made_with_a_secret_told_once(
    place: Place, run: Run, endpoint: Endpoint, owner: asyncpg.Connection
) -> None:
    made = await endpoint(place, URL, description="Books", kinds=["POSITION_CREATED", "POSITION_CREATED"])
    assert made.secret.startswith("whsec_")
    (listed,) = fine(await run(ENDPOINTS, principal=place.admin))["webhookEndpoints"]["edges"]
    assert listed["node"] == {
        "id": made.id, "url": URL, "createdBy": place.admin.id, "institution": {"id": place.institution.id},
        "secrets": [{"endsAt": None}], "deliveries": {"totalCount": 0, "edges": []},
    }  # fmt: skip
    audited = await owner.fetchrow("SELECT * FROM audit_events WHERE action = 'WEBHOOK_ENDPOINT_CREATED'")
    assert (audited["outcome"], audited["resource_id"], audited["operation"]) == (
        "SUCCESS",
        made.id,
        "createWebhookEndpoint",
    )
    assert "hooks" not in audited["payload"], "the path of a URL may be somebody's secret"
    row = await owner.fetchrow("SELECT * FROM webhook_endpoints")
    assert (row["kinds"], row["states"], row["description"]) == (["POSITION_CREATED"], None, "Books")


REFUSED_DRAFTS = [
    ({"url": "http://user:password@127.0.0.1/"}, "url"),
    ({"url": "gopher://127.0.0.1/"}, "url"),
    ({"url": ""}, "url"),
    ({"url": "https://example.com/" + "x" * 2048}, "url"),
    ({"url": "https://example.com/\x00"}, "url"),
    ({"url": URL, "description": "x" * 256}, "description"),
    ({"url": URL, "description": "\x00"}, "description"),
    ({"url": URL, "kinds": []}, "kinds"),
    ({"url": URL, "states": []}, "states"),
]


@pytest.mark.parametrize(("given", "field"), REFUSED_DRAFTS)
async def test_a_refused_endpoint_writes_nothing(
    services: Services, place: Place, run: Run, owner: asyncpg.Connection, given: dict[str, Any], field: str
) -> None:
    before = await footprint(owner)
    assert refused(await run(CREATE, {"input": given}, principal=place.admin)) == ("VALIDATION_FAILED", field)
    assert await footprint(owner) == before
    await services.recorder.flush()
    failed = await owner.fetchrow("SELECT * FROM audit_events WHERE outcome = 'FAILURE'")
    assert (failed["action"], failed["institution_id"]) == ("WEBHOOK_ENDPOINT_CREATED", place.institution.id)
    assert given["url"][:10] == "" or given["url"] not in str(dict(failed))


async def test_every_refusal_writes_nothing(
    place: Place, services: Services, run: Run, endpoint: Endpoint, owner: asyncpg.Connection
) -> None:
    made = await endpoint(place, URL, enabled=False)
    nobody = services.ids.new("whe")
    before = await footprint(owner)
    cases: list[tuple[str, Mapping[str, Any], str, str | None]] = [
        (UPDATE, {"input": {"id": made.id, "url": "ftp://x"}}, "VALIDATION_FAILED", "url"),
        (UPDATE, {"input": {"id": made.id, "states": []}}, "VALIDATION_FAILED", "states"),
        (UPDATE, {"input": {"id": nobody}}, "NOT_FOUND", "id"),
        (UPDATE, {"input": {"id": "nonsense"}}, "NOT_FOUND", "id"),
        (DELETE, {"id": nobody}, "NOT_FOUND", "id"),
        (ROTATE, {"id": nobody}, "NOT_FOUND", "endpointId"),
        (ROTATE, {"id": made.id, "overlap": -1}, "VALIDATION_FAILED", "overlapSeconds"),
        (ROTATE, {"id": made.id, "overlap": 604_801}, "VALIDATION_FAILED", "overlapSeconds"),
        (TEST, {"id": nobody}, "NOT_FOUND", "endpointId"),
        (TEST, {"id": made.id}, "VALIDATION_FAILED", "endpointId"),
        (REPLAY, {"input": {"endpointId": nobody}}, "NOT_FOUND", "endpointId"),
        (REPLAY, {"input": {"endpointId": made.id}}, "VALIDATION_FAILED", "endpointId"),
    ]
    for document, variables, code, field in cases:
        assert refused(await run(document, variables, principal=place.admin)) == (code, field), variables
        assert await footprint(owner) == before, variables
    fine(await run(UPDATE, {"input": {"id": made.id, "enabled": True}}, principal=place.admin))
    before = await footprint(owner)
    cursor = services.tail.epochs.cursor(place.institution.id, 0)
    for given, field in (
        ({"afterSequence": -1}, "afterSequence"),
        ({"afterSequence": 1}, "afterSequence"),
        ({"beforeSequence": -1}, "beforeSequence"),
        ({"afterSequence": 0, "after": cursor}, "afterSequence"),
    ):
        variables = {"input": {"endpointId": made.id} | given}
        assert refused(await run(REPLAY, variables, principal=place.admin)) == ("VALIDATION_FAILED", field)
    bad = await run(REPLAY, {"input": {"endpointId": made.id, "after": "x"}}, principal=place.admin)
    assert bad.codes == ["CURSOR_INVALID"]
    assert await footprint(owner) == before


async def test_an_institution_has_at_most_twenty_endpoints(
    place: Place, run: Run, endpoint: Endpoint, owner: asyncpg.Connection
) -> None:
    made = [await endpoint(place, URL) for _ in range(20)]
    before = await footprint(owner)
    assert (
        refused(await run(CREATE, {"input": {"url": URL}}, principal=place.admin))[0] == "VALIDATION_FAILED"
    )
    assert await footprint(owner) == before
    fine(await run(DELETE, {"id": made[0].id}, principal=place.admin))
    await endpoint(place, URL)


async def test_what_is_absent_from_an_update_stays(place: Place, run: Run, endpoint: Endpoint) -> None:
    made = await endpoint(place, URL, description="one", kinds=["POSITION_CREATED"], states=["CREATED"])

    async def update(**changes: Any) -> Any:
        data = fine(await run(UPDATE, {"input": {"id": made.id} | changes}, principal=place.admin))
        return data["updateWebhookEndpoint"]["endpoint"]

    first = {
        "id": made.id, "url": URL, "description": "one", "kinds": ["POSITION_CREATED"], "states": ["CREATED"],
        "enabled": True, "disabledReason": None,
    }  # fmt: skip
    assert await update() == first
    assert await update(description="two", kinds=None) == first | {"description": "two", "kinds": None}
    off = await update(enabled=False, states=["RELEASED"], url=URL + "/2")
    assert (off["enabled"], off["disabledReason"], off["states"], off["url"]) == (
        False,
        "ASKED",
        ["RELEASED"],
        URL + "/2",
    )
    assert (await update(enabled=True))["disabledReason"] is None


async def test_disabling_cancels_and_enabling_begins_from_then_on(
    place: Place,
    services: Services,
    run: Run,
    endpoint: Endpoint,
    receiver: Receiver,
    settled,
    deliveries: Rows,
) -> None:
    made = await endpoint(place, receiver.url)

    async def busy(_message: Message) -> Reply:
        return Reply(503)

    receiver.answer = busy
    await factories.position(services, place.asset, state=State.RELEASED)
    await eventually(lambda: _is(lambda: len(receiver.messages) == 1))
    await moments()
    fine(await run(UPDATE, {"input": {"id": made.id, "enabled": False}}, principal=place.admin))
    assert {row["state"] for row in await deliveries()} == {"CANCELLED"}
    await factories.position(services, place.asset)
    await moments()
    fine(await run(UPDATE, {"input": {"id": made.id, "enabled": True}}, principal=place.admin))
    receiver.answer = Receiver("").answer
    await factories.position(services, place.asset)
    await settled(1)
    await moments()
    assert [row["state"] for row in await deliveries()] == ["CANCELLED"] * 3 + ["DELIVERED"]
    assert receiver.messages[-1].data["sequence"] == 5


async def _is(check: Any) -> bool:
    return bool(check())


async def test_a_deleted_endpoint_is_gone_and_its_deliveries_are_not(
    place: Place,
    services: Services,
    run: Run,
    endpoint: Endpoint,
    receiver: Receiver,
    settled,
    owner: asyncpg.Connection,
) -> None:
    made = await endpoint(place, receiver.url)
    await factories.position(services, place.asset)
    await settled(1)
    assert (
        fine(await run(DELETE, {"id": made.id}, principal=place.admin))["deleteWebhookEndpoint"]["deletedId"]
        == made.id
    )
    assert fine(await run(ENDPOINTS, principal=place.admin))["webhookEndpoints"]["totalCount"] == 0
    one = "query ($id: ID!) { webhookEndpoint(id: $id) { id } node(id: $id) { id } }"
    assert fine(await run(one, {"id": made.id}, principal=place.admin)) == {
        "webhookEndpoint": None,
        "node": None,
    }
    assert await owner.fetchval("SELECT count(*) FROM webhook_secrets") == 0
    where = {"endpointId": {"eq": made.id}}
    (kept,) = fine(await run(LOG, {"where": where}, principal=place.admin))["webhookDeliveries"]["edges"]
    assert (kept["node"]["state"], kept["node"]["endpoint"]) == ("DELIVERED", None)
    for document, variables in (
        (UPDATE, {"input": {"id": made.id}}),
        (DELETE, {"id": made.id}),
        (TEST, {"id": made.id}),
    ):
        assert refused(await run(document, variables, principal=place.admin))[0] == "NOT_FOUND"
    await factories.position(services, place.asset)
    await moments()
    assert len(receiver.messages) == 1


async def test_a_turned_over_secret_signs_beside_the_old_one_until_the_overlap_ends(
    place: Place, services: Services, run: Run, endpoint: Endpoint, receiver: Receiver, settled, clock: MovableClock,
    owner: asyncpg.Connection,
) -> None:  # fmt: skip
    made = await endpoint(place, receiver.url)
    rotated = fine(await run(ROTATE, {"id": made.id}, principal=place.admin))["rotateWebhookSecret"]
    assert rotated["secret"] != made.secret
    new, old = rotated["endpoint"]["secrets"]
    assert new["endsAt"] is None
    assert old["endsAt"] is not None
    await factories.position(services, place.asset)
    await settled(1)
    assert all(verified(receiver.messages[0], secret) for secret in (made.secret, rotated["secret"]))
    assert receiver.messages[0].headers["webhook-signature"].count("v1,") == 2

    clock.move(hours=24, seconds=1)
    await factories.position(services, place.asset)
    await settled(2)
    assert verified(receiver.messages[1], rotated["secret"])
    assert not verified(receiver.messages[1], made.secret)

    third = fine(await run(ROTATE, {"id": made.id, "overlap": 0}, principal=place.admin))[
        "rotateWebhookSecret"
    ]
    assert len(third["endpoint"]["secrets"]) == 1
    await factories.position(services, place.asset)
    await settled(3)
    assert verified(receiver.messages[2], third["secret"])
    assert receiver.messages[2].headers["webhook-signature"].count("v1,") == 1
    assert await owner.fetchval("SELECT count(*) FROM webhook_secrets") == 1, "ended ones are forgotten"


async def test_at_most_five_secrets_sign_at_once_and_an_overlap_of_0_ends_them(
    place: Place, run: Run, endpoint: Endpoint
) -> None:
    made = await endpoint(place, URL)
    for _ in range(4):
        fine(await run(ROTATE, {"id": made.id}, principal=place.admin))
    assert refused(await run(ROTATE, {"id": made.id}, principal=place.admin)) == (
        "VALIDATION_FAILED",
        "overlapSeconds",
    )
    data = fine(await run(ROTATE, {"id": made.id, "overlap": 0}, principal=place.admin))
    assert len(data["rotateWebhookSecret"]["endpoint"]["secrets"]) == 1


async def test_a_test_is_sent_once_and_told_of(
    place: Place, run: Run, endpoint: Endpoint, receiver: Receiver, settled
) -> None:
    made = await endpoint(place, receiver.url)

    async def no(_message: Message) -> Reply:
        return Reply(500, {}, b"not now")

    receiver.answer = no
    delivery = fine(await run(TEST, {"id": made.id}, principal=place.admin))["sendTestWebhook"]["delivery"]
    assert (delivery["state"], delivery["eventId"], delivery["event"]) == ("PENDING", None, None)
    await settled(1, "FAILED")
    receiver.answer = Receiver("").answer
    fine(await run(TEST, {"id": made.id}, principal=place.admin))
    await settled(1)
    assert [message.content["type"] for message in receiver.messages] == ["webhook.test"] * 2
    assert receiver.ids[0] == delivery["webhookId"] == f"{delivery['id']}-{made.id}"
    assert all(verified(message, made.secret) for message in receiver.messages)
    one = "query ($id: ID!) { webhookDelivery(id: $id) { state attemptCount lastStatus lastResponse nextAttemptAt } }"
    assert fine(await run(one, {"id": delivery["id"]}, principal=place.admin))["webhookDelivery"] == {
        "state": "FAILED", "attemptCount": 1, "lastStatus": 500, "lastResponse": "not now", "nextAttemptAt": None,
    }  # fmt: skip


async def test_a_range_is_replayed_in_order_under_the_same_ids(
    place: Place,
    services: Services,
    run: Run,
    endpoint: Endpoint,
    receiver: Receiver,
    settled,
    deliveries: Rows,
) -> None:
    await factories.position(services, place.asset, state=State.FUNDED)
    made = await endpoint(place, receiver.url)
    await factories.position(services, place.asset, state=State.RELEASED)
    await factories.position(services, place.asset)
    await settled(4)
    sent = {message.data["sequence"]: message.id for message in receiver.messages}

    async def replay(**given: Any) -> Any:
        data = fine(await run(REPLAY, {"input": {"endpointId": made.id} | given}, principal=place.admin))
        return data["replayWebhooks"]

    answer = await replay(afterSequence=3, beforeSequence=6)
    assert answer == {"deliveryCount": 2, "throughSequence": 5, "hasMore": False, "userErrors": []}
    await eventually(lambda: _is(lambda: len(receiver.messages) == 6))
    assert receiver.ids[4:] == [sent[4], sent[5]]

    # What was never queued for it, too: the two events from before the endpoint.
    cursor = services.tail.epochs.cursor
    assert (await replay(before=cursor(place.institution.id, 3)))["deliveryCount"] == 2
    await eventually(lambda: _is(lambda: len(receiver.messages) == 8))
    assert [message.data["sequence"] for message in receiver.messages[6:]] == [1, 2]
    assert (await replay(after=cursor(place.institution.id, 5)))["deliveryCount"] == 1
    assert (await replay(afterSequence=6))["deliveryCount"] == 0
    await eventually(lambda: _is(lambda: len(receiver.messages) == 9))
    await settled(6)
    assert [row["attempts"] for row in await deliveries()] == [1, 1, 1, 2, 2, 2]


async def test_a_replay_may_leave_out_what_was_delivered_and_hurries_what_waits(
    place: Place, services: Services, run: Run, endpoint: Endpoint, receiver: Receiver, settled, clock: MovableClock,
    deliveries: Rows,
) -> None:  # fmt: skip
    made = await endpoint(place, receiver.url)
    await factories.position(services, place.asset)
    await settled(1)

    async def no(_message: Message) -> Reply:
        return Reply(500)

    receiver.answer = no
    await factories.position(services, place.asset, state=State.FUNDED)
    for number in (2, 3, 4):
        await eventually(lambda number=number: _is(lambda: len(receiver.messages) == number))
        await moments()
        clock.move(minutes=20)
    receiver.answer = Receiver("").answer
    given = {"input": {"endpointId": made.id, "undeliveredOnly": True}}
    data = fine(await run(REPLAY, given, principal=place.admin))["replayWebhooks"]
    assert (data["deliveryCount"], data["throughSequence"]) == (2, 3)
    await settled(3)
    assert [row["attempts"] for row in await deliveries()] == [1, 4, 1]


async def test_root_replays_by_global_cursors(
    place: Place, services: Services, run: Run, endpoint: Endpoint, receiver: Receiver, settled
) -> None:
    other = await factories.place(services, name="Other")
    made = await endpoint(place, receiver.url)
    await factories.position(services, other.asset, state=State.FUNDED)
    await factories.position(services, place.asset, state=State.FUNDED)
    await settled(2)
    given = {"endpointId": made.id, "after": services.tail.epochs.cursor("*", 3)}
    data = fine(await run(REPLAY, {"input": given}))["replayWebhooks"]
    assert (data["deliveryCount"], data["throughSequence"]) == (1, 2)
    await eventually(lambda: _is(lambda: len(receiver.messages) == 3))


async def test_a_long_range_is_replayed_in_parts(
    place: Place,
    services: Services,
    run: Run,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    deliveries: Rows,
) -> None:
    from app.webhooks import replays

    monkeypatch.setattr(replays, "REPLAY_EVENTS_MAX", 5)
    monkeypatch.setattr(replays, "PAGE_SIZE", 2)
    for _ in range(4):
        await factories.position(services, place.asset, state=State.FUNDED)
    made = await endpoint(place, "http://127.0.0.1:1/", states=["CREATED", "FUNDED"])
    found = []
    after = 0
    while True:
        given = {"endpointId": made.id, "afterSequence": after}
        data = fine(await run(REPLAY, {"input": given}, principal=place.admin))["replayWebhooks"]
        found.append((data["deliveryCount"], data["throughSequence"], data["hasMore"]))
        after = data["throughSequence"]
        if not data["hasMore"]:
            break
    assert found == [(5, 5, True), (3, 8, False)]
    assert [row["sequence"] for row in await deliveries()] == list(range(1, 9))


async def test_the_log_tells_what_became_of_each_delivery(
    place: Place, services: Services, run: Run, endpoint: Endpoint, receiver: Receiver, settled
) -> None:
    made = await endpoint(place, receiver.url)

    async def not_the_first(message: Message) -> Reply:
        return Reply(500 if message.data["sequence"] == 1 else 200, {}, b"thank you")

    receiver.answer = not_the_first
    position = await factories.position(services, place.asset, reason="because")
    await settled(1, "PENDING")
    other = await factories.position(services, place.asset)
    await settled(1)
    data = fine(
        await run(LOG, {"orderBy": {"field": "CREATED_AT", "direction": "ASC"}}, principal=place.admin)
    )
    waiting, done = (edge["node"] for edge in data["webhookDeliveries"]["edges"])
    assert (waiting["state"], waiting["lastStatus"]) == ("PENDING", 500)
    assert waiting["attemptCount"] >= 1
    assert waiting["nextAttemptAt"] is not None
    assert waiting["event"] == {
        "id": waiting["webhookId"].split("-")[0],
        "sequence": 1,
        "reason": "because",
        "newState": "CREATED",
    }
    assert (done["state"], done["lastResponse"], done["lastError"], done["nextAttemptAt"]) == (
        "DELIVERED",
        "thank you",
        None,
        None,
    )
    assert done["deliveredAt"] == done["updatedAt"]
    assert done["endpoint"] == {"id": made.id, "url": receiver.url}

    async def count(**where: Any) -> int:
        return fine(await run(LOG, {"where": where}, principal=place.admin))["webhookDeliveries"][
            "totalCount"
        ]

    assert await count(state={"eq": "DELIVERED"}) == await count(state={"in": ["PENDING"]}) == 1
    assert await count(endpointId={"eq": made.id}) == 2
    assert await count(positionId={"in": [position.id, other.id]}) == 2
    assert await count(eventId={"eq": waiting["event"]["id"]}) == await count(id={"eq": done["id"]}) == 1
    assert await count(createdAt={"lte": waiting["createdAt"]}) == 1
    page = fine(await run(LOG, {"first": 1}, principal=place.admin))["webhookDeliveries"]
    assert page["pageInfo"]["hasNextPage"]
    rest = fine(await run(LOG, {"first": 1, "after": page["pageInfo"]["endCursor"]}, principal=place.admin))
    assert rest["webhookDeliveries"]["edges"][0]["node"]["id"] == waiting["id"]


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.READ_ONLY, Role.AUDITOR])
async def test_others_than_admins_read_but_change_nothing(
    place: Place, run: Run, endpoint: Endpoint, owner: asyncpg.Connection, role: Role
) -> None:
    made = await endpoint(place, URL)
    before = await footprint(owner)
    other = principal(place.institution.id, role)
    assert fine(await run(ENDPOINTS, principal=other))["webhookEndpoints"]["totalCount"] == 1
    for document, variables in (
        (CREATE, {"input": {"url": URL}}),
        (UPDATE, {"input": {"id": made.id}}),
        (DELETE, {"id": made.id}),
        (ROTATE, {"id": made.id}),
        (TEST, {"id": made.id}),
        (REPLAY, {"input": {"endpointId": made.id}}),
    ):
        assert (await run(document, variables, principal=other)).codes == ["FORBIDDEN"]
    assert await footprint(owner) == before


def test_only_admins_and_root_have_the_scope() -> None:
    assert {role for role, scopes in ROLE_SCOPES.items() if Scope.WEBHOOKS_WRITE in scopes} == {
        Role.ROOT,
        Role.ADMIN,
    }


async def test_another_tenants_endpoint_reads_as_if_it_were_not_there(
    services: Services,
    place: Place,
    run: Run,
    endpoint: Endpoint,
    receiver: Receiver,
    settled,
    owner: asyncpg.Connection,
) -> None:
    stranger = (await factories.place(services, name="Other")).admin
    made = await endpoint(place, receiver.url)
    await factories.position(services, place.asset)
    await settled(1)
    delivery = await owner.fetchval("SELECT id FROM webhook_deliveries")
    before = await footprint(owner)
    for document, variables in (
        (UPDATE, {"input": {"id": made.id, "url": "https://attacker.example/"}}),
        (DELETE, {"id": made.id}),
        (ROTATE, {"id": made.id}),
        (TEST, {"id": made.id}),
        (REPLAY, {"input": {"endpointId": made.id}}),
    ):
        assert refused(await run(document, variables, principal=stranger))[0] == "NOT_FOUND"
    elsewhere = {"input": {"url": URL, "institutionId": place.institution.id}}
    assert refused(await run(CREATE, elsewhere, principal=stranger)) == ("NOT_FOUND", "institutionId")
    seen = "query ($e: ID!, $d: ID!) { webhookEndpoint(id: $e) { id } webhookDelivery(id: $d) { id } a: node(id: $e) { id } b: node(id: $d) { id } }"
    nothing = fine(await run(seen, {"e": made.id, "d": delivery}, principal=stranger))
    assert set(nothing.values()) == {None}
    for where in (None, {"institutionId": {"eq": place.institution.id}}, {"id": {"eq": made.id}}):
        assert (
            fine(await run(ENDPOINTS, {"where": where}, principal=stranger))["webhookEndpoints"]["totalCount"]
            == 0
        )
    for where in (None, {"endpointId": {"eq": made.id}}, {"id": {"eq": delivery}}):
        assert fine(await run(LOG, {"where": where}, principal=stranger))["webhookDeliveries"]["edges"] == []
    assert await footprint(owner) == before
    mine = fine(await run(seen, {"e": made.id, "d": delivery}, principal=place.admin))
    assert mine["a"] == mine["webhookEndpoint"] == {"id": made.id}
    assert mine["b"] == mine["webhookDelivery"] == {"id": delivery}
    assert fine(await run(ENDPOINTS, principal=root()))["webhookEndpoints"]["totalCount"] == 1


@pytest.mark.parametrize("table", ["webhook_endpoints", "webhook_secrets", "webhook_deliveries"])
@pytest.mark.parametrize("role", ["escrowgrid_api", "escrowgrid_writer"])
async def test_row_level_security_keeps_tenants_apart_without_any_filter(
    services: Services, place: Place, endpoint: Endpoint, receiver: Receiver, settled, owner: asyncpg.Connection,
    role: str, table: str,
) -> None:  # fmt: skip
    other = await factories.place(services, name="Other")
    for one in (place, other):
        await endpoint(one, receiver.url)
        await factories.position(services, one.asset)
    await settled(2)
    async with owner.transaction():
        await owner.execute(f"SET LOCAL ROLE {role}")
        await owner.execute("SELECT set_config('escrowgrid.scope', $1, true)", place.institution.id)
        rows = await owner.fetch(f"SELECT institution_id FROM {table}")
        assert [row["institution_id"] for row in rows] == [place.institution.id]
    async with owner.transaction():
        await owner.execute(f"SET LOCAL ROLE {role}")
        await owner.execute("SELECT set_config('escrowgrid.scope', '', true)")
        assert not await owner.fetch(f"SELECT institution_id FROM {table}")


@pytest.mark.parametrize("role", ["escrowgrid_api", "escrowgrid_feed"])
async def test_only_the_writer_reads_what_is_sealed(
    place: Place, endpoint: Endpoint, owner: asyncpg.Connection, role: str
) -> None:
    await endpoint(place, URL)
    async with owner.transaction():
        await owner.execute(f"SET LOCAL ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.fetch("SELECT sealed FROM webhook_secrets")


async def test_a_secret_is_nowhere_in_clear(
    services: Services, parts: Parts, place: Place, run: Run, endpoint: Endpoint, receiver: Receiver, settled,
    owner: asyncpg.Connection, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Not in the database, the logs, a repr, an error, or any other answer than the one that makes it."""
    caplog.set_level(logging.DEBUG)
    made = await endpoint(place, receiver.url)
    rotated = fine(await run(ROTATE, {"id": made.id}, principal=place.admin))["rotateWebhookSecret"]["secret"]
    await factories.position(services, place.asset, state=State.FUNDED)
    await settled(2)
    await owner.execute("UPDATE webhook_secrets SET sealed = decode(repeat('00', 60), 'hex')")
    await factories.position(services, place.asset)
    await moments()
    await services.recorder.flush()

    told = [
        caplog.text,
        *capfd.readouterr(),
        repr(made),
        repr(services),
        repr(parts),
        repr(receiver.messages[0].headers),
    ]
    document = "query { webhookEndpoints { edges { node { id secrets { createdAt endsAt } deliveries { edges { node { lastError lastResponse webhookId } } } } } } auditEvents { edges { node { payload } } } }"
    told.append(str(fine(await run(document))))
    for table in await owner.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    ):
        told += [row[0] for row in await owner.fetch(f'SELECT t::text FROM "{table["relname"]}" t')]
    for secret in (made.secret, rotated):
        import base64

        raw = base64.b64decode(secret.removeprefix("whsec_"))
        for spelling in (secret, secret.removeprefix("whsec_"), raw.hex()):
            assert not [text for text in told if spelling in text]
    assert settings_key(services) not in "".join(told)


def settings_key(services: Services) -> str:
    key = services.settings.webhook_key
    assert key is not None
    return key.get_secret_value()


async def test_payloads_do_not_show_secrets_when_printed(place: Place, services: Services) -> None:
    from app.webhooks.mutations import WebhookSecretPayload
    from app.webhooks.service import Told

    assert "whsec_x" not in repr(WebhookSecretPayload(endpoint=None, secret="whsec_x"))
    assert "whsec_x" not in repr(Told(None, "whsec_x"))  # type: ignore[arg-type]


async def test_what_is_left_pending_for_a_disabled_endpoint_is_swept(
    services: Services,
    place: Place,
    run: Run,
    endpoint: Endpoint,
    deliveries: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from app.webhooks import courier, service

    monkeypatch.setattr(service, "CANCELLED_AT_ONCE_MAX", 2)
    monkeypatch.setattr(courier, "SWEEP_EVERY_SECONDS", 0.2)
    monkeypatch.setattr(courier, "SWEPT_AT_ONCE_MAX", 2)
    made = await endpoint(place, "http://127.0.0.1:1/")
    for _ in range(4):
        await factories.position(services, place.asset, state=State.FUNDED)

    async def queued() -> bool:
        return len(await deliveries()) == 8

    await eventually(queued)
    fine(await run(UPDATE, {"input": {"id": made.id, "enabled": False}}, principal=place.admin))

    async def swept() -> bool:
        return {row["state"] for row in await deliveries()} == {"CANCELLED"}

    await eventually(swept)


async def test_private_targets_are_refused_unless_the_settings_allow_them(
    services: Services, place: Place, run: Run, owner: asyncpg.Connection
) -> None:
    strict = services.settings.model_copy(update={"webhook_allow_private": False})
    before = await footprint(owner)
    object.__setattr__(services, "settings", strict)
    for url in ("http://example.com/", "https://10.0.0.1/", "https://localhost/", "https://example.com:25/"):
        answered = await run(CREATE, {"input": {"url": url}}, principal=place.admin)
        assert refused(answered) == ("VALIDATION_FAILED", "url")
    assert await footprint(owner) == before
