"""Positions counted and summed up: by every group, split by currency, in every time zone."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from app.positions.aggregates import ZONES
from app.positions.model import State
from app.principal import root
from tests import factories
from tests.factories import release
from tests.positions.conftest import Desk

SUMMARY = """
query ($where: PositionWhere, $groupBy: [SummaryGroup!]!, $zone: String! = "UTC") {
  positionSummary(where: $where, groupBy: $groupBy, timeZone: $zone) {
    state stage assetId holderReference institutionId createdDay createdMonth currency count
    amount funded released refunded held
  }
}
"""
AMOUNTS = ("amount", "funded", "released", "refunded", "held")
# Late on the last day of a month in Europe, early in the next in Asia, and the hour that summer time skips.
MOMENTS = [
    datetime(2026, 1, 31, 22, 30, tzinfo=UTC),
    datetime(2026, 1, 31, 23, 30, tzinfo=UTC),
    datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
    datetime(2026, 3, 31, 23, 59, 59, 999999, tzinfo=UTC),
]
Row = Mapping[str, Any]


@pytest.fixture(scope="module")
async def rows(shared: Desk) -> list[Row]:
    """Positions in two currencies on three assets, moved in all ways."""
    services, place = shared.services, shared.place
    euros = await factories.template(
        services, place.institution.id, config={"currency": "EUR", "region": "US"}
    )
    assets = [
        place.asset,
        await factories.asset(services, place.template),
        await factories.asset(services, euros),
    ]
    for number in range(24):
        position = await factories.position(
            services,
            assets[number % 3],
            f"{number + 2}.{number:02}",
            state=list(State)[number % 6],
            holder_reference=f"H{number % 4}",
        )
        if position.state is State.PARTIALLY_RELEASED:
            await services.writer.submit(factories.move(services, position, release("0.11")))
    await shared.owner.execute(
        "UPDATE positions p SET created_at = ($1::timestamptz[])[1 + n.place % 4] "
        "FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM positions) n WHERE n.id = p.id",
        MOMENTS,
    )
    found: list[Row] = await factories.with_holders(
        services, shared.owner, await shared.owner.fetch("SELECT * FROM positions")
    )
    other = await factories.place(services)
    await factories.position(services, other.asset, state=State.FUNDED)
    return found


def summed(
    rows: list[Row], keys: Mapping[str, Callable[[Row], Any]]
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What the summary has to be, counted in Python."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[(*(key(row) for key in keys.values()), row["currency"])].append(row)
    return {
        group: (len(some), *(sum((row[name] for row in some), Decimal(0)) for name in AMOUNTS))
        for group, some in groups.items()
    }


async def told(
    desk: Desk, fields: tuple[str, ...], principal: Any = None, **variables: Any
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    answered = await desk.run(SUMMARY, variables, principal=principal)
    assert not answered.errors, answered.errors
    found = answered.data["positionSummary"]
    every = ("state", "stage", "assetId", "holderReference", "institutionId", "createdDay", "createdMonth")
    for group in found:
        assert all(group[name] is None for name in every if name not in fields)
    result = {
        (*(group[name] for name in fields), group["currency"]): (
            group["count"],
            *(Decimal(group[name]) for name in AMOUNTS),
        )
        for group in found
    }
    assert len(result) == len(found)
    assert list(result) == sorted(result)
    return result


GROUPS: dict[str, tuple[str, Callable[[Row], Any]]] = {
    "STATE": ("state", lambda row: row["state"]),
    "STAGE": ("stage", lambda row: row["stage"]),
    "ASSET": ("assetId", lambda row: row["asset_id"]),
    "HOLDER": ("holderReference", lambda row: row["holder_reference"]),
    "INSTITUTION": ("institutionId", lambda row: row["institution_id"]),
    "CREATED_DAY": ("createdDay", lambda row: f"{row['created_at']:%Y-%m-%d}"),
    "CREATED_MONTH": ("createdMonth", lambda row: f"{row['created_at']:%Y-%m}"),
}


@pytest.mark.parametrize("group", GROUPS)
async def test_every_group(shared: Desk, rows: list[Row], group: str) -> None:
    field, key = GROUPS[group]
    assert await told(shared, (field,), groupBy=[group]) == summed(rows, {field: key})


@pytest.mark.parametrize(
    "groups", [[], ["STATE", "ASSET"], ["CREATED_DAY", "STATE", "HOLDER"], list(GROUPS)], ids=str
)
async def test_several_groups_and_none(shared: Desk, rows: list[Row], groups: list[str]) -> None:
    keys = dict(GROUPS[group] for group in groups)
    assert await told(shared, tuple(keys), groupBy=groups) == summed(rows, keys)


async def test_a_group_named_twice_is_one(shared: Desk, rows: list[Row]) -> None:
    keys = dict([GROUPS["STATE"]])
    assert await told(shared, ("state",), groupBy=["STATE", "STATE"]) == summed(rows, keys)


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Paris", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati", "Pacific/Niue"]
)
async def test_days_and_months_are_those_of_the_zone(shared: Desk, rows: list[Row], zone: str) -> None:
    local = ZoneInfo(zone)
    keys = {
        "createdDay": lambda row: f"{row['created_at'].astimezone(local):%Y-%m-%d}",
        "createdMonth": lambda row: f"{row['created_at'].astimezone(local):%Y-%m}",
    }
    found = await told(shared, tuple(keys), groupBy=["CREATED_DAY", "CREATED_MONTH"], zone=zone)
    assert found == summed(rows, keys)


async def test_a_summary_of_some(shared: Desk, rows: list[Row]) -> None:
    where = {
        "state": {"in": ["FUNDED", "PARTIALLY_RELEASED"]},
        "amount": {"gte": "5"},
        "currency": {"eq": "EUR"},
    }
    some = [
        row
        for row in rows
        if row["state"] in ("FUNDED", "PARTIALLY_RELEASED")
        and row["amount"] >= 5
        and row["currency"] == "EUR"
    ]
    keys = dict([GROUPS["HOLDER"]])
    assert some
    assert await told(shared, ("holderReference",), groupBy=["HOLDER"], where=where) == summed(some, keys)
    nothing = {"currency": {"eq": "JPY"}}
    assert await told(shared, ("state",), groupBy=["STATE"], where=nothing) == {}


async def test_a_summary_agrees_with_the_invariant_and_the_list(shared: Desk, rows: list[Row]) -> None:
    for group in (await told(shared, ("state",), groupBy=["STATE"])).values():
        _count, _amount, funded, released, refunded, held = group
        assert funded == released + refunded + held


async def test_root_sums_up_every_institution_and_tenants_their_own(shared: Desk, rows: list[Row]) -> None:
    field = ("institutionId",)
    of_all = await told(shared, field, root(), groupBy=["INSTITUTION"])
    assert len({group[0] for group in of_all}) == 2
    mine = await told(shared, field, groupBy=["INSTITUTION"])
    assert mine == {group: sums for group, sums in of_all.items() if group[0] == shared.place.institution.id}


@pytest.mark.parametrize(
    "zone", ["", "Nowhere/City", "UTC; DROP", "europe/paris", "+02:00", "\x00", "\ud800"]
)
async def test_a_zone_that_is_not_known_is_refused(shared: Desk, rows: list[Row], zone: str) -> None:
    answered = await shared.run(SUMMARY, {"groupBy": ["CREATED_DAY"], "zone": zone})
    assert answered.codes == ["BAD_REQUEST"]


async def test_the_database_knows_every_zone_that_is_taken(shared: Desk, rows: list[Row]) -> None:
    unknown = []
    for zone in sorted(ZONES):
        try:
            await shared.owner.fetchval("SELECT timezone($1, now())", zone)
        except asyncpg.PostgresError:
            unknown.append(zone)
    assert unknown == []


async def test_amounts_with_thirty_three_digits_sum_exactly(desk: Desk) -> None:
    eth = await factories.place(desk.services, currency="ETH")
    for amount in ("999999999999999.999999999999999999", "0.000000000000000002"):
        await factories.position(desk.services, eth.asset, amount, state=State.FUNDED)
    answered = await desk.run(SUMMARY, {"groupBy": []}, principal=eth.admin)
    (group,) = answered.data["positionSummary"]
    assert group["held"] == "1000000000000000.000000000000000001"
    assert group["refunded"] == "0.000000000000000000"
