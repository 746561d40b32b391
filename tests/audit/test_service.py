"""Audit rows and ledger events as one list: whole, in order, paged from both ends, each tenant's own."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.audit import service
from app.audit.model import Action, AuditEvent, Outcome
from app.audit.timeline import label
from app.context import Services
from app.kit.cursor import BadCursor, seal
from app.ledger.model import Event, Kind
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition
from app.storage.database import Database
from app.storage.paging import Page, PageRequest

from .conftest import START, Moved, Noted, Opened

Spread = tuple[str, str, list[AuditEvent], list[Event]]


async def page(
    database: Database, scope: str, request: PageRequest, *tests: Condition, **given: Any
) -> Page[AuditEvent]:
    """One page, as the resolver reads it."""
    async with database.reading(scope) as connection:
        return await service.page(connection, scope, request, tests, **given)


async def everything(
    database: Database, scope: str, *tests: Condition, size: int = 3, **given: Any
) -> list[AuditEvent]:
    """The whole list, page by page, read forward; read backward it must be the same."""
    found: dict[bool, list[tuple[str, AuditEvent]]] = {}
    for backward in (False, True):
        seen: list[tuple[str, AuditEvent]] = []
        cursor = None
        while True:
            ends = {"before": cursor} if backward else {"after": cursor}
            at_hand = await page(database, scope, PageRequest(size, backward, **ends), *tests, **given)
            rows = [(spelling(), event) for spelling, event in at_hand.rows]
            seen = rows + seen if backward else seen + rows
            if not (at_hand.has_previous if backward else at_hand.has_next):
                break
            cursor = rows[0 if backward else -1][0]
        found[backward] = seen
    assert found[False] == found[True]
    return [event for _, event in found[False]]


@pytest.fixture
async def spread(services: Services, opened: Opened, noted: Noted, moved: Moved) -> Spread:
    """Two institutions with rows before, between, at the instant of and after batches of ledger events."""
    bank, other = await opened("Bank"), await opened("Other")
    rows: list[AuditEvent] = []
    events: list[Event] = []
    for _ in range(4):
        events += await moved(bank, other, bank, other, bank)
        at = (events[-1].recorded_at - START).total_seconds()
        for institution_id in (bank, other, None):
            rows += await noted(institution_id, [at - 0.000001, at, at, at + 0.000001])
        await asyncio.sleep(0.002)
    events += await moved(bank, kind=Kind.POSITION_STATE_CHANGED)
    return bank, other, rows, events


def in_order(rows: list[AuditEvent], events: list[Event]) -> list[str]:
    """The ids as they must be listed, the newest first."""
    placed: list[tuple[Any, ...]] = [(row.occurred_at, 0, row.id, row.id) for row in rows]
    placed += [(event.recorded_at, 1, event.global_sequence, event.id) for event in events]
    return [str(found[-1]) for found in sorted(placed, reverse=True)]


@pytest.mark.parametrize("size", [1, 4, 7, 500])
async def test_every_row_and_event_is_listed_once_in_the_order_of_time(
    database: Database, spread: Spread, size: int
) -> None:
    bank, other, rows, events = spread
    since = Condition("occurred_at", "gte", START)
    for scope in (bank, other, ALL_INSTITUTIONS):
        mine = [row for row in rows if scope in (ALL_INSTITUTIONS, row.institution_id)]
        moves = [event for event in events if scope in (ALL_INSTITUTIONS, event.institution_id)]
        expected = in_order(mine, moves)
        assert [found.id for found in await everything(database, scope, since, size=size)] == expected
        oldest_first = await everything(database, scope, since, size=size, newest_first=False)
        assert [found.id for found in oldest_first] == expected[::-1]
        async with database.reading(scope) as connection:
            assert await service.count(connection, scope, [since]) == len(expected)


async def test_root_naming_an_institution_sees_what_that_institution_sees(
    database: Database, spread: Spread
) -> None:
    bank, *_ = spread
    named = Condition("institution_id", "eq", bank)
    seen = await everything(database, ALL_INSTITUTIONS, named)
    assert seen == await everything(database, bank)
    assert {event.institution_id for event in seen} == {bank}
    several = Condition("institution_id", "in", [bank, "inst_x"])
    assert await everything(database, ALL_INSTITUTIONS, several) == seen


async def test_a_tenant_naming_another_institution_sees_nothing(database: Database, spread: Spread) -> None:
    bank, other, *_ = spread
    assert await everything(database, bank, Condition("institution_id", "eq", other)) == []
    assert await everything(database, bank, Condition("institution_id", "in", [other])) == []


async def test_filters_reach_both_rows_and_events(database: Database, spread: Spread) -> None:
    bank, other, rows, events = spread
    since = Condition("occurred_at", "gte", START)
    last, first = events[-1], events[0]
    moves = [event.id for event in events if event.kind is Kind.POSITION_CREATED]
    for test, expected in (
        (Condition("action", "eq", Action.POSITION_CREATED), set(moves)),
        (Condition("action", "eq", Action.POSITION_TRANSITIONED), {last.id}),
        (Condition("action", "in", [Action.POSITION_TRANSITIONED, Action.POLICY_UPDATED]), {last.id}),
        (Condition("action", "eq", Action.ASSET_CREATED), {row.id for row in rows}),
        (Condition("outcome", "eq", Outcome.FAILURE), {row.id for row in rows}),
        (Condition("outcome", "eq", Outcome.SUCCESS), {event.id for event in events}),
        (Condition("actor_id", "eq", "key_1"), {event.id for event in events}),
        (Condition("actor_id", "in", ["root"]), {row.id for row in rows}),
        (Condition("resource_id", "eq", last.position_id), {last.id}),
        (
            Condition("institution_id", "eq", other),
            {row.id for row in [*rows, *events] if row.institution_id == other},
        ),
    ):
        seen = await everything(database, ALL_INSTITUTIONS, since, test, size=50)
        assert {event.id for event in seen} == expected, test
        async with database.reading(ALL_INSTITUTIONS) as connection:
            assert await service.count(connection, ALL_INSTITUTIONS, [since, test]) == len(expected)
    assert bank in {event.institution_id for event in events}
    assert first.kind is Kind.POSITION_CREATED


async def test_a_span_of_time_has_both_its_ends(database: Database, spread: Spread) -> None:
    bank, _, rows, events = spread
    instants = sorted({event.recorded_at for event in events})
    for scope in (bank, ALL_INSTITUTIONS):
        for start, end in (
            (instants[0], instants[0]),
            (instants[1], instants[2]),
            (instants[-1], instants[0]),
        ):
            expected = {
                found.id
                for found, moment in [
                    *((row, row.occurred_at) for row in rows),
                    *((event, event.recorded_at) for event in events),
                ]
                if start <= moment <= end and scope in (ALL_INSTITUTIONS, found.institution_id)
            }
            tests = (Condition("occurred_at", "gte", start), Condition("occurred_at", "lte", end))
            assert {event.id for event in await everything(database, scope, *tests)} == expected
            if start == end:
                exact = Condition("occurred_at", "eq", start)
                assert {event.id for event in await everything(database, scope, exact)} == expected


async def test_an_instant_is_found_in_the_global_order_wherever_it_lies(
    database: Database, spread: Spread
) -> None:
    _, _, _, events = spread
    instants = sorted({event.recorded_at for event in events})
    tick = timedelta(microseconds=1)
    for moment in [found + step for found in instants for step in (-tick, timedelta(0), tick)]:
        tests = (Condition("occurred_at", "gte", moment), Condition("actor_id", "eq", "key_1"))
        seen = await everything(database, ALL_INSTITUTIONS, *tests, size=100)
        assert {event.id for event in seen} == {event.id for event in events if event.recorded_at >= moment}


async def test_an_empty_ledger_and_an_empty_audit_are_empty_lists(
    database: Database, services: Services
) -> None:
    later = Condition("occurred_at", "gte", START + timedelta(days=36_500))
    for scope in (ALL_INSTITUTIONS, services.ids.new("inst")):
        assert await everything(database, scope, later) == []
        assert await everything(database, scope, Condition("occurred_at", "lte", START)) == []


async def test_a_list_that_grows_meanwhile_repeats_and_skips_nothing(
    database: Database, opened: Opened, noted: Noted, moved: Moved
) -> None:
    bank = await opened()
    before = await noted(bank, [1, 2, 3])
    start = Condition("occurred_at", "gte", START)
    first = await page(database, bank, PageRequest(2), start)
    await noted(bank, [10])
    await moved(bank)
    rest = await page(database, bank, PageRequest(9, after=first.end), start)
    seen = [event.id for _, event in (*first.rows, *rest.rows)]
    assert seen == [row.id for row in reversed(before)]


async def test_a_cursor_belongs_to_one_list(database: Database, spread: Spread) -> None:
    bank, other, *_ = spread
    cursor = (await page(database, bank, PageRequest(1))).end
    with pytest.raises(BadCursor):
        await page(database, other, PageRequest(1, after=cursor))
    with pytest.raises(BadCursor):
        await page(database, ALL_INSTITUTIONS, PageRequest(1, after=cursor))
    with pytest.raises(BadCursor):
        await page(database, bank, PageRequest(1, after=cursor), newest_first=False)
    named = Condition("institution_id", "eq", bank)
    assert (await page(database, ALL_INSTITUTIONS, PageRequest(1, after=cursor), named)).rows


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.one_of(
            st.integers(-(2**63), 2**63 - 1), st.text(max_size=8), st.sampled_from(["evt_", "aud_", 0])
        ),
        max_size=3,
    )
)
async def test_no_made_up_cursor_reaches_the_database(database: Database, parts: list[Any]) -> None:
    cursor = seal(label(ALL_INSTITUTIONS, newest_first=True), *parts)
    with suppress(BadCursor):
        await page(database, ALL_INSTITUTIONS, PageRequest(1, after=cursor))


async def test_an_event_is_shown_without_anything_personal(database: Database, spread: Spread) -> None:
    bank, _, _, events = spread
    created = events[0]
    (shown,) = await everything(database, bank, Condition("resource_id", "eq", created.position_id))
    assert shown == AuditEvent(
        id=created.id,
        occurred_at=created.recorded_at,
        institution_id=bank,
        actor_id="key_1",
        actor_role="OPERATOR",
        operation="",
        action=Action.POSITION_CREATED,
        resource_type="position",
        resource_id=created.position_id,
        outcome=Outcome.SUCCESS,
        code=None,
        request_id="req_7",
        client_address=None,
        payload={
            "from": None,
            "to": "CREATED",
            "version": 1,
            "currency": "USD",
            "amountMoved": "0.00",
            "assetId": "ast_1",
            "amount": "12.50",
        },
    )
