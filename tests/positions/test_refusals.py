"""Refusals name inputs that there are, in the words of the API, and stand in the audit as what they were."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.positions.model import State
from app.principal import root
from tests import factories
from tests.conftest import Live
from tests.positions.conftest import Desk


@pytest.mark.parametrize("mutation", ["fundPosition", "releasePosition", "cancelPosition", "expirePosition"])
async def test_where_the_mutation_says_where_to_no_input_is_blamed(shared: Desk, mutation: str) -> None:
    position = await shared.position(state=State.RELEASED)
    error = await shared.refused(mutation, id=position.id)
    assert (error["code"], error["field"]) == ("TRANSITION_NOT_ALLOWED", None)


@pytest.mark.parametrize(
    ("where_to", "field"),
    [
        ({"toState": "FUNDED"}, "toState"),
        ({"toStage": "FUNDED"}, "toStage"),
        ({"toStage": "FUNDED", "toState": "CANCELLED"}, "toStage"),
    ],
)
async def test_where_an_input_says_where_to_it_is_that_one(
    shared: Desk, where_to: dict[str, str], field: str
) -> None:
    position = await shared.position(state=State.FUNDED)
    error = await shared.refused("transitionPosition", id=position.id, **where_to)
    assert (error["code"], error["field"]) == ("TRANSITION_NOT_ALLOWED", field)


@pytest.mark.parametrize("name", ["toState", "toStage"])
async def test_a_part_that_is_all_of_it_blames_what_asked_for_a_part(shared: Desk, name: str) -> None:
    position = await shared.position("100.00", state=State.FUNDED)
    sent = {name: "PARTIALLY_RELEASED", "amount": "100.00"}
    error = await shared.refused("transitionPosition", id=position.id, **sent)
    assert (error["code"], error["field"]) == ("TRANSITION_NOT_ALLOWED", name)
    assert "releasePosition" in error["message"]


@pytest.mark.parametrize("more", [{}, {"amount": "1.00"}])
async def test_a_transition_to_nowhere_is_malformed(shared: Desk, more: dict[str, Any]) -> None:
    position = await shared.position(state=State.FUNDED)
    error = await shared.refused("transitionPosition", id=position.id, **more)
    assert (error["code"], error["field"]) == ("VALIDATION_FAILED", "toState")
    assert "toStage" in error["message"]


async def test_a_passed_deadline_is_told_as_the_api_spells_times(shared: Desk) -> None:
    position = await shared.position(expires_at=datetime.now(UTC) + timedelta(seconds=30))
    await shared.owner.execute("UPDATE positions SET expires_at = now() WHERE id = $1", position.id)
    told = await shared.run("query ($id: ID!) { position(id: $id) { expiresAt } }", {"id": position.id})
    error = await shared.refused("fundPosition", id=position.id)
    assert error["code"] == "POSITION_EXPIRED"
    assert f"passed at {told.data['position']['expiresAt']};" in error["message"]


async def test_an_overtaken_move_stands_in_the_audit_as_a_conflict(shared: Desk) -> None:
    position = await shared.position(state=State.FUNDED)
    error = await shared.refused("cancelPosition", id=position.id, expectedVersion=1)
    assert error["code"] == "VERSION_CONFLICT"
    await shared.services.recorder.flush()
    audit = """query ($id: ID!) { auditEvents(where: {action: {eq: CONCURRENCY_CONFLICT}, resourceId: {eq: $id}}) {
      edges { node { code outcome operation payload } } } }"""
    answered = await shared.run(audit, {"id": position.id})
    assert [edge["node"] for edge in answered.data["auditEvents"]["edges"]] == [
        {
            "code": "VERSION_CONFLICT",
            "outcome": "FAILURE",
            "operation": "cancelPosition",
            "payload": {"field": "expectedVersion"},
        }
    ]


NEEDS_INSTITUTION = {
    "createApiKey": ("CreateApiKeyInput", {"label": "x", "role": "ADMIN"}),
    "setPolicy": ("SetPolicyInput", {"region": "US"}),
    "createAssetTemplate": (
        "CreateAssetTemplateInput",
        {"name": "x", "code": "CONSTR_ESCROW", "region": "US", "config": {"currency": "USD", "region": "US"}},
    ),
    "createWebhookEndpoint": ("CreateWebhookEndpointInput", {"url": "https://example.com/hook"}),
}


@pytest.mark.parametrize("mutation", NEEDS_INSTITUTION)
async def test_root_who_names_no_institution_is_answered_as_any_refusal(shared: Desk, mutation: str) -> None:
    type_, input_ = NEEDS_INSTITUTION[mutation]
    document = (
        f"mutation ($input: {type_}!) {{ {mutation}(input: $input) {{ userErrors {{ code field }} }} }}"
    )
    answered = await shared.run(document, {"input": input_}, principal=root())
    assert not answered.errors
    assert answered.data[mutation]["userErrors"] == [{"code": "VALIDATION_FAILED", "field": "institutionId"}]


async def test_an_asset_of_root_belongs_where_its_template_does(shared: Desk) -> None:
    document = """mutation ($template: ID!, $institution: ID) {
      createAsset(input: {templateId: $template, institutionId: $institution, label: "Pier 9"}) {
        asset { institutionId } userErrors { code field } } }"""
    place = shared.place
    made = await shared.run(document, {"template": place.template.id}, principal=root())
    assert made.data["createAsset"]["asset"] == {"institutionId": place.institution.id}
    none = await shared.run(document, {"template": "tmpl_" + "0" * 26}, principal=root())
    assert none.data["createAsset"]["userErrors"] == [{"code": "NOT_FOUND", "field": "templateId"}]
    other = await factories.institution(shared.services)
    asked = {"template": place.template.id, "institution": other.id}
    elsewhere = await shared.run(document, asked, principal=root())
    assert elsewhere.data["createAsset"]["userErrors"] == [{"code": "NOT_FOUND", "field": "templateId"}]
    foreign = await shared.run(document, asked, principal=factories.principal(other.id))
    assert foreign.data["createAsset"]["userErrors"] == [{"code": "NOT_FOUND", "field": "templateId"}]


async def test_a_stream_of_a_position_that_is_not_there_says_so(desk: Desk, live: Live) -> None:
    document = "subscription ($id: ID!) { positionChanged(id: $id) { cursor } }"
    async with live(document, {"id": "pos_" + "0" * 26}, principal=desk.place.admin) as results:
        told = await anext(results)
    assert [error.extensions["code"] for error in told.errors] == ["NOT_FOUND"]
