"""Who is erased is gone from everywhere, and the ledger stays as provable as it was."""

import asyncio
import logging
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from app.context import Services
from app.ledger.writer import Answer
from app.main import assemble
from app.personal.masters import masters_of
from app.positions.escrow import BUILT_IN
from app.positions.model import State
from app.principal import ROLE_SCOPES, Principal, Role, Scope, root
from app.settings import Settings
from app.storage.database import Address
from app.verify.walk import verify
from tests import factories
from tests.conftest import Answered, Live, Run, eventually
from tests.factories import FUND, Place

JANE, WHY, MAIL = "Jane Q. Holder", "because Jane asked for it", "jane@example.org"
ERASE = """
mutation ($input: EraseHolderInput!) {
  eraseHolder(input: $input) { holderId eventCount userErrors { code field message } }
}
"""
SHOW = """
{ positions { totalCount edges { node { id holderReference state version held events { edges { node {
    id hash reason metadata commitments { holderReference reason metadata } } } } } } } }
"""
SUMMARY = "{ positionSummary(groupBy: [HOLDER]) { holderReference count amount } }"


async def story(services: Services, place: Place, holder: str = JANE, **terms: Any) -> Answer:
    """A position that was opened and moved, each time with something personal."""
    opening = await factories.opening(
        services, place.asset, holder_reference=holder, reason=WHY, metadata={"mail": MAIL}, **terms
    )
    answer = await services.writer.submit(opening)
    move = factories.move(services, answer.row.position, FUND, reason=WHY, metadata={"mail": MAIL})
    return await services.writer.submit(move)


def erased(answered: Answered) -> Any:
    assert answered.errors == []
    return answered.data["eraseHolder"]


async def erase(run: Run, place: Place, holder: str = JANE, **given: Any) -> Any:
    return erased(
        await run(ERASE, {"input": {"holderReference": holder}}, **{"principal": place.admin} | given)
    )


async def proved(owner_url: str, settings: Settings) -> None:
    report = await verify(owner_url, BUILT_IN, masters=masters_of(settings))
    assert report.is_clean, report.findings
    assert report.looked_at["holders"] > 0


async def test_everything_known_of_a_holder_is_gone_and_the_ledger_stays(
    services: Services,
    place: Place,
    run: Run,
    owner: asyncpg.Connection,
    owner_url: str,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    await story(services, place)
    await story(services, place, external_reference="the second")
    await story(services, place, "John")
    before = (await run(SHOW, principal=place.admin)).data["positions"]
    chain = "SELECT md5(string_agg(e::text, '|' ORDER BY global_sequence)) FROM ledger_events e"
    events = await owner.fetchval(chain)
    payload = await erase(run, place)
    assert payload["userErrors"] == []
    assert payload["eventCount"] == 4
    assert await owner.fetchval(chain) == events
    for secret in (JANE, WHY.replace("Jane", JANE)):
        assert await factories.tables_with(owner, secret) == []
        assert secret not in caplog.text
    kept = await owner.fetchrow("SELECT * FROM holders WHERE id = $1", payload["holderId"])
    assert (kept["blind"], kept["reference"], kept["data_key"]) == (None, None, None)
    assert kept["erased_at"] is not None
    count = "SELECT count(*) FROM personal_data WHERE holder_id = $1 AND num_nonnulls(holder, reason, metadata) > 0"
    assert await owner.fetchval(count, payload["holderId"]) == 0

    after = (await run(SHOW, principal=place.admin)).data["positions"]
    assert after["totalCount"] == before["totalCount"] == 3
    for then, now in zip(before["edges"], after["edges"], strict=True):
        gone = then["node"]["holderReference"] == JANE
        for edge in then["node"]["events"]["edges"] if gone else ():
            edge["node"] |= {"reason": None, "metadata": None}
        assert now["node"] == then["node"] | ({"holderReference": None} if gone else {})
    await proved(owner_url, settings)


async def test_it_is_in_the_audit_without_the_name(services: Services, place: Place, run: Run) -> None:
    await story(services, place)
    payload = await erase(run, place)
    told = await run(
        "{ auditEvents(first: 1) { edges { node { action outcome resourceType resourceId payload actorId } } } }",
        principal=place.admin,
    )
    node = told.data["auditEvents"]["edges"][0]["node"]
    assert node == {
        "action": "HOLDER_ERASED",
        "outcome": "SUCCESS",
        "resourceType": "holder",
        "resourceId": payload["holderId"],
        "payload": {"events": 2},
        "actorId": place.admin.id,
    }


@pytest.mark.parametrize("holder", ["nobody", "jane q. holder", JANE + " ", "John"])
async def test_nobody_is_erased_by_another_name(
    services: Services, place: Place, run: Run, owner: asyncpg.Connection, holder: str
) -> None:
    await story(services, place)
    other = await factories.place(services)
    await story(services, other, "John")
    before = await factories.footprint(owner), await owner.fetch("SELECT * FROM holders ORDER BY id")
    payload = await erase(run, place, holder)
    assert [error["code"] for error in payload["userErrors"]] == ["NOT_FOUND"]
    assert payload["userErrors"][0]["message"] == "there is no such holder"
    assert (
        await factories.footprint(owner),
        await owner.fetch("SELECT * FROM holders ORDER BY id"),
    ) == before


@pytest.mark.parametrize("holder", ["", "x" * 256, "a\x00b"])
async def test_a_name_that_nobody_can_have_is_malformed(
    services: Services, place: Place, run: Run, holder: str
) -> None:
    await story(services, place)
    payload = await erase(run, place, holder)
    assert [(error["code"], error["field"]) for error in payload["userErrors"]] == [
        ("VALIDATION_FAILED", "holderReference")
    ]


async def test_only_those_who_may_erase_do(
    services: Services, place: Place, run: Run, owner: asyncpg.Connection
) -> None:
    await story(services, place)
    before = await owner.fetch("SELECT * FROM holders")
    allowed = {role for role, scopes in ROLE_SCOPES.items() if Scope.HOLDERS_ERASE in scopes}
    assert allowed == {Role.ROOT, Role.ADMIN}
    for role in set(Role) - allowed:
        asker = factories.principal(place.institution.id, role)
        answered = await run(ERASE, {"input": {"holderReference": JANE}}, principal=asker)
        assert answered.codes == ["FORBIDDEN"], role
    stranger = (await factories.place(services)).admin
    payload = await erase(run, place, principal=stranger)
    assert [error["code"] for error in payload["userErrors"]] == ["NOT_FOUND"]
    foreign = {"holderReference": JANE, "institutionId": place.institution.id}
    payload = erased(await run(ERASE, {"input": foreign}, principal=stranger))
    assert [error["code"] for error in payload["userErrors"]] == ["NOT_FOUND"]
    assert await owner.fetch("SELECT * FROM holders") == before


async def test_root_names_the_institution(services: Services, place: Place, run: Run) -> None:
    await story(services, place)
    unnamed = await run(ERASE, {"input": {"holderReference": JANE}}, principal=root())
    assert unnamed.codes == ["VALIDATION_FAILED"]
    wanted = {"holderReference": JANE, "institutionId": place.institution.id}
    assert erased(await run(ERASE, {"input": wanted}, principal=root()))["eventCount"] == 2


async def test_the_same_name_in_another_institution_is_somebody_else(
    services: Services, place: Place, run: Run
) -> None:
    other = await factories.place(services)
    await story(services, place)
    await story(services, other)
    await erase(run, place)
    told = await run(SHOW, principal=other.admin)
    assert told.data["positions"]["edges"][0]["node"]["holderReference"] == JANE


async def test_searches_and_groups_know_nobody_of_that_name_any_more(
    services: Services, place: Place, run: Run
) -> None:
    for number in range(3):
        await story(services, place, external_reference=f"R{number}")
    await story(services, place, "John")
    where = "query ($name: String) { positions(where: {holderReference: {eq: $name}}) { totalCount } }"
    jane = {"name": JANE}
    assert (await run(where, jane, principal=place.admin)).data["positions"]["totalCount"] == 3
    await erase(run, place)
    assert (await run(where, jane, principal=place.admin)).data["positions"]["totalCount"] == 0
    groups = (await run(SUMMARY, principal=place.admin)).data["positionSummary"]
    assert groups == [
        {"holderReference": "John", "count": 1, "amount": "100.00"},
        {"holderReference": None, "count": 3, "amount": "300.00"},
    ]


async def test_the_money_of_an_erased_holder_still_moves(
    services: Services, place: Place, run: Run, owner: asyncpg.Connection, owner_url: str, settings: Settings
) -> None:
    position = (await story(services, place)).row.position
    await erase(run, place)
    before = await factories.footprint(owner)
    document = "mutation ($input: ReleasePositionInput!) { releasePosition(input: $input) { position { state "
    document += "holderReference } userErrors { code field message } } }"
    for field, value in (("reason", "because"), ("metadata", {"a": 1})):
        told = await run(document, {"input": {"id": position.id, field: value}}, principal=place.admin)
        (error,) = told.data["releasePosition"]["userErrors"]
        assert (error["code"], error["field"]) == ("VALIDATION_FAILED", field)
        assert "the holder was erased" in error["message"]
    assert await factories.footprint(owner) == before
    told = await run(document, {"input": {"id": position.id}}, principal=place.admin)
    assert told.data["releasePosition"] == {
        "position": {"state": "RELEASED", "holderReference": None},
        "userErrors": [],
    }
    await proved(owner_url, settings)


async def test_somebody_of_that_name_who_comes_later_is_somebody_new(
    services: Services, place: Place, run: Run, owner_url: str, settings: Settings
) -> None:
    await story(services, place)
    first = await erase(run, place)
    again = await story(services, place, external_reference="later")
    assert again.row.position.holder_reference == JANE
    told = (await run(SHOW, principal=place.admin)).data["positions"]["edges"]
    assert sorted(str(edge["node"]["holderReference"]) for edge in told) == [JANE, "None"]
    second = await erase(run, place)
    assert second["holderId"] != first["holderId"]
    await proved(owner_url, settings)


async def test_a_command_told_again_does_not_bring_anybody_back(
    services: Services, place: Place, run: Run, owner: asyncpg.Connection
) -> None:
    await story(services, place, idempotency_key="once")
    await erase(run, place)
    before = await factories.footprint(owner)
    command = await factories.opening(
        services,
        place.asset,
        holder_reference=JANE,
        reason=WHY,
        metadata={"mail": MAIL},
        idempotency_key="once",
    )
    answer = await services.writer.submit(command)
    assert answer.replayed
    assert answer.row.position.holder_reference is None
    assert await factories.footprint(owner) == before


async def test_a_refused_opening_leaves_nobody_behind(
    services: Services, place: Place, run: Run, owner: asyncpg.Connection
) -> None:
    await factories.policy(services, place.institution.id, max_amount=Decimal(1))
    before = await factories.footprint(owner)
    document = (
        "mutation ($input: CreatePositionInput!) { createPosition(input: $input) { userErrors { code } } }"
    )
    terms = {"assetId": place.asset.id, "holderReference": JANE, "currency": "USD", "amount": "77.00"}
    told = await run(document, {"input": terms}, principal=place.admin)
    assert told.data["createPosition"]["userErrors"] == [{"code": "POLICY_REFUSED"}]
    assert await factories.footprint(owner) == before


async def test_a_live_stream_tells_no_more_of_who_was_erased(
    services: Services, place: Place, run: Run, live: Live
) -> None:
    position = (await story(services, place)).row.position
    document = (
        "subscription { positionsChanged { cursor event { reason } position { holderReference version } } }"
    )
    async with live(document, principal=place.admin) as results:
        first = (await asyncio.wait_for(anext(results), 5)).data["positionsChanged"]
        assert first["position"] == {"holderReference": JANE, "version": 2}
        await erase(run, place)
        await services.writer.submit(factories.move(services, position, factories.release()))
        second = (await asyncio.wait_for(anext(results), 5)).data["positionsChanged"]
        assert second["position"] == {"holderReference": None, "version": 3}
    # The same past, told again: nothing of it comes back.
    resume = document.replace("positionsChanged", 'positionsChanged(after: "%s")')
    cursor = services.tail.epochs.cursor(place.institution.id, 0)
    async with live(resume % cursor, principal=place.admin) as results:
        for version in (1, 2, 3):
            again = (await asyncio.wait_for(anext(results), 5)).data["positionsChanged"]
            assert again["position"] == {"holderReference": None, "version": version}
            assert again["event"] == {"reason": None}


async def test_other_processes_forget_within_a_second(
    settings: Settings, address: Address, built_schema: Any, owner: asyncpg.Connection
) -> None:
    from app.context import Context, Request

    async def ask(services: Services, by: Principal, document: str, variables: Any = None) -> Any:
        context = Context(services, by, Request(services.ids.new("req")))
        result = await built_schema.execute(document, variable_values=variables, context_value=context)
        await context.close()
        assert not result.errors, result.errors
        return result.data

    async with AsyncExitStack() as stack:
        parts = [assemble(settings, address) for _ in range(2)]
        for one in parts:
            await stack.enter_async_context(one.running())
        here, there = (one.services for one in parts)
        place = await factories.place(here)
        await story(here, place)
        forgotten: list[str] = []
        there.holders.listeners.append(lambda: forgotten.append("there"))
        for services in (here, there):
            data = await ask(services, place.admin, SHOW)
            assert data["positions"]["edges"][0]["node"]["holderReference"] == JANE
        forgotten.clear()
        await ask(here, place.admin, ERASE, {"input": {"holderReference": JANE}})
        # At once: what is kept is not asked without what the database says.
        data = await ask(there, place.admin, SHOW)
        assert data["positions"]["edges"][0]["node"]["holderReference"] is None

        async def forgot() -> bool:
            return bool(forgotten)

        await eventually(forgot, seconds=1)
        # And a new position of that name there is not held for the one who was erased.
        answer = await story(there, place, external_reference="after")
        data = await ask(here, place.admin, SHOW)
        names = {edge["node"]["id"]: edge["node"]["holderReference"] for edge in data["positions"]["edges"]}
        assert names[answer.row.position.id] == JANE


async def test_holders_made_at_the_same_moment_are_one(
    settings: Settings, address: Address, owner: asyncpg.Connection, owner_url: str
) -> None:
    async with AsyncExitStack() as stack:
        parts = [assemble(settings, address) for _ in range(3)]
        for one in parts:
            await stack.enter_async_context(one.running())
        place = await factories.place(parts[0].services)
        names = [f"holder {number % 5}" for number in range(60)]
        commands = [
            (
                parts[place_ % 3].services,
                await factories.opening(parts[0].services, place.asset, holder_reference=name),
            )
            for place_, name in enumerate(names)
        ]
        await asyncio.gather(*(services.writer.submit(command) for services, command in commands))
    assert await owner.fetchval("SELECT count(*) FROM holders") == 5
    assert await owner.fetchval("SELECT count(*) FROM institution_keys") == 1
    assert await owner.fetchval("SELECT count(*) FROM positions") == 60
    await proved(owner_url, settings)


async def test_erasing_while_positions_are_opened_loses_no_position(
    services: Services, place: Place, run: Run, owner_url: str, settings: Settings
) -> None:
    async def opened(number: int) -> None:
        await factories.position(
            services, place.asset, holder_reference=JANE, reason=WHY, external_reference=f"R{number}"
        )

    async def erasing() -> None:
        for _ in range(6):
            await erase(run, place)
            await asyncio.sleep(0.01)

    await asyncio.gather(erasing(), *(opened(number) for number in range(40)))
    assert (await run(SHOW, principal=place.admin)).data["positions"]["totalCount"] == 40
    await erase(run, place)
    told = (await run(SHOW, principal=place.admin)).data["positions"]["edges"]
    assert {edge["node"]["holderReference"] for edge in told} == {None}
    await proved(owner_url, settings)


async def test_the_database_keeps_who_was_erased_erased(
    services: Services, place: Place, run: Run, owner: asyncpg.Connection
) -> None:
    await factories.position(services, place.asset, state=State.FUNDED, holder_reference=JANE)
    holder_id = (await erase(run, place))["holderId"]
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="was erased"):
        await owner.execute(
            "UPDATE holders SET erased_at = NULL, blind = sha256('') WHERE id = $1", holder_id
        )
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
        await owner.execute("DELETE FROM holders WHERE id = $1", holder_id)


async def test_a_server_that_lacks_the_key_of_an_institution_says_so(
    services: Services,
    place: Place,
    run: Run,
    owner: asyncpg.Connection,
    settings: Settings,
    address: Address,
) -> None:
    """Should it happen while it runs: reads of what is sealed are refused, nothing is shown wrong."""
    await story(services, place)
    await owner.execute("UPDATE institution_keys SET master_id = 'another'")
    services.holders._institutions.clear()
    told = await run(SHOW, principal=place.admin)
    assert told.codes == ["UNAVAILABLE"]
    with pytest.raises(Exception, match="another"):
        async with assemble(
            settings.model_copy(update={"personal_keys": SecretStr("ab" * 32)}), address
        ).running():
            raise AssertionError("it started")
