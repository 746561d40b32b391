"""Positions as lists: filters, orders, pages over ties and missing deadlines, counts; single reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.kit.money import CURRENCIES
from app.positions.model import State
from app.principal import root
from tests import factories
from tests.positions.conftest import Desk

LIST = """
query ($where: PositionWhere, $orderBy: PositionOrder, $first: Int, $after: String, $last: Int, $before: String) {
  positions(where: $where, orderBy: $orderBy, first: $first, after: $after, last: $last, before: $before) {
    totalCount edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}
"""
DAY = datetime(2026, 1, 1, tzinfo=UTC)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Shelf:
    """Positions whose rows are known: with ties in every order, and with and without deadlines."""

    desk: Desk
    rows: list[Row]

    async def listed(self, principal: Any = None, **variables: Any) -> Any:
        answered = await self.desk.run(LIST, variables, principal=principal)
        assert not answered.errors, answered.errors
        return answered.data["positions"]

    async def ids(self, principal: Any = None, **variables: Any) -> list[str]:
        data = await self.listed(principal, first=200, **variables)
        found = [edge["node"]["id"] for edge in data["edges"]]
        assert data["totalCount"] == len(found)
        return found


@pytest.fixture(scope="module")
async def shelf(shared: Desk) -> Shelf:
    """Twenty-four positions of one institution on two assets, and some of another."""
    assert isinstance(shared, Desk)
    services, place = shared.services, shared.place
    euros = await factories.template(
        services, place.institution.id, config={"currency": "EUR", "region": "US"}
    )
    assets = [place.asset, await factories.asset(services, euros)]
    amounts = ["0.01", "5.00", "5.00", "70.10", "1000000000000000.00", "9.99"]
    deadlines = [None, DAY + timedelta(days=40_000), DAY + timedelta(days=40_001, microseconds=1)]
    states = list(State)
    for number in range(24):
        amount = amounts[number % 6]
        state = states[number % 6]
        if state is State.PARTIALLY_RELEASED and Decimal(amount) <= 1:
            state = State.FUNDED
        await factories.position(
            services,
            assets[number % 2],
            amount,
            state=state,
            holder_reference=f"HOLDER {number % 4} 100%_é",
            external_reference=None if number % 3 else f"REF-{number}",
            expires_at=deadlines[number // 4 % 3],
        )
    other = await factories.place(services)
    for _ in range(3):
        await factories.position(services, other.asset)
    # Days with several positions at the same microsecond.
    await shared.owner.execute(
        "UPDATE positions p SET created_at = $1::timestamptz + n.place / 5 * interval '1 day' "
        "FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM positions) n WHERE n.id = p.id",
        DAY,
    )
    rows = await shared.owner.fetch(
        "SELECT * FROM positions WHERE institution_id = $1 ORDER BY id", place.institution.id
    )
    return Shelf(shared, list(rows))


FAR = datetime(9999, 12, 31, tzinfo=UTC)
ORDERS: dict[str, Callable[[Row], Any]] = {
    "CREATED": lambda row: (row["created_at"], row["id"]),
    "AMOUNT": lambda row: (row["amount"], row["id"]),
    "EXPIRES": lambda row: (row["expires_at"] or FAR, row["id"]),
}


def ordered(rows: list[Row], field: str, direction: str) -> list[str]:
    return [row["id"] for row in sorted(rows, key=ORDERS[field], reverse=direction == "DESC")]


async def test_without_an_order_the_newest_come_first(shelf: Shelf) -> None:
    assert await shelf.ids() == ordered(shelf.rows, "CREATED", "DESC")


@pytest.mark.parametrize("field", ORDERS)
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
async def test_every_order(shelf: Shelf, field: str, direction: str) -> None:
    wanted = ordered(shelf.rows, field, direction)
    assert await shelf.ids(orderBy={"field": field, "direction": direction}) == wanted
    of_one = {"institutionId": {"eq": shelf.desk.place.institution.id}}
    assert await shelf.ids(root(), where=of_one, orderBy={"field": field, "direction": direction}) == wanted


@pytest.mark.parametrize("field", ORDERS)
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
async def test_pages_over_ties_and_missing_deadlines_miss_and_repeat_nothing(
    shelf: Shelf, field: str, direction: str, back: bool
) -> None:
    wanted = ordered(shelf.rows, field, direction)
    for size in (1, 5, 24):
        found: list[str] = []
        cursor = None
        while True:
            page = {"last": size, "before": cursor} if back else {"first": size, "after": cursor}
            data = await shelf.listed(orderBy={"field": field, "direction": direction}, **page)
            ids = [edge["node"]["id"] for edge in data["edges"]]
            found = ids + found if back else found + ids
            info = data["pageInfo"]
            assert data["totalCount"] == len(wanted)
            assert info["hasNextPage" if back else "hasPreviousPage"] == (cursor is not None)
            if not info["hasPreviousPage" if back else "hasNextPage"]:
                break
            assert len(ids) == size
            cursor = info["startCursor" if back else "endCursor"]
        assert found == wanted


async def test_a_page_between_two_cursors(shelf: Shelf) -> None:
    wanted = ordered(shelf.rows, "AMOUNT", "ASC")
    order = {"field": "AMOUNT", "direction": "ASC"}
    edges = (await shelf.listed(first=24, orderBy=order))["edges"]
    after, before = edges[4]["cursor"], edges[15]["cursor"]
    for page, expected in (
        ({"first": 24}, wanted[5:15]),
        ({"first": 3}, wanted[5:8]),
        ({"last": 3}, wanted[12:15]),
    ):
        data = await shelf.listed(after=after, before=before, orderBy=order, **page)
        assert [edge["node"]["id"] for edge in data["edges"]] == expected


async def test_a_page_goes_on_behind_its_last_row_whatever_is_opened_meanwhile(desk: Desk) -> None:
    for _ in range(4):
        await desk.position()
    first = (await desk.run(LIST, {"first": 2})).data["positions"]
    await desk.position()
    rest = (await desk.run(LIST, {"first": 10, "after": first["pageInfo"]["endCursor"]})).data["positions"]
    assert len(rest["edges"]) == 2
    assert not {edge["node"]["id"] for edge in first["edges"]} & {
        edge["node"]["id"] for edge in rest["edges"]
    }


async def test_a_cursor_of_another_order_is_refused(shelf: Shelf) -> None:
    cursor = (await shelf.listed(first=1))["edges"][0]["cursor"]
    for order in (
        {"field": "AMOUNT", "direction": "DESC"},
        {"field": "CREATED", "direction": "ASC"},
        {"field": "EXPIRES", "direction": "DESC"},
    ):
        for page in ({"after": cursor}, {"before": cursor}):
            answered = await shelf.desk.run(LIST, {"orderBy": order, **page})
            assert answered.codes == ["CURSOR_INVALID"]


def _row(**tests: Callable[[Any], bool]) -> Callable[[Row], bool]:
    return lambda row: all(test(row[name]) for name, test in tests.items())


FILTERS: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
    ({}, lambda row: True),
    ({"currency": {"eq": "EUR"}}, _row(currency=lambda v: v == "EUR")),
    ({"currency": {"in": ["EUR", "USD"]}}, lambda row: True),
    ({"currency": {"in": []}}, lambda row: False),
    ({"state": {"eq": "FUNDED"}}, _row(state=lambda v: v == "FUNDED")),
    ({"state": {"in": ["CREATED", "RELEASED"]}}, _row(state=lambda v: v in ("CREATED", "RELEASED"))),
    ({"state": {"in": ["CREATED", "FUNDED"]}}, _row(state=lambda v: v in ("CREATED", "FUNDED"))),
    ({"stage": {"eq": "EXPIRED"}}, _row(state=lambda v: v == "EXPIRED")),
    ({"holderReference": {"eq": "HOLDER 1 100%_é"}}, _row(holder_reference=lambda v: v.startswith("HOLDER 1"))),
    ({"holderReference": {"contains": "0%_é"}}, lambda row: True),
    ({"holderReference": {"contains": "R 2"}}, _row(holder_reference=lambda v: "R 2" in v)),
    ({"holderReference": {"contains": "%"}}, lambda row: True),
    ({"holderReference": {"contains": "_1"}}, lambda row: False),
    ({"holderReference": {"contains": "holder"}}, lambda row: False),
    ({"holderReference": {"in": ["HOLDER 1 100%_é", "x"]}}, _row(holder_reference=lambda v: "R 1" in v)),
    ({"externalReference": {"eq": "REF-3"}}, _row(external_reference=lambda v: v == "REF-3")),
    ({"externalReference": {"contains": "REF-1"}}, _row(external_reference=lambda v: v is not None and "REF-1" in v)),
    ({"amount": {"eq": "5"}}, _row(amount=lambda v: v == 5)),
    ({"amount": {"eq": "5.0000000000000000001"}}, lambda row: False),
    ({"amount": {"gte": "5.00"}}, _row(amount=lambda v: v >= 5)),
    ({"amount": {"gte": "5.0000000000000000001"}}, _row(amount=lambda v: v > 5)),
    ({"amount": {"lte": "5.0000000000000000001"}}, _row(amount=lambda v: v <= 5)),
    ({"amount": {"gte": "5", "lte": "70.10"}}, _row(amount=lambda v: 5 <= v <= Decimal("70.10"))),
    ({"amount": {"gte": "999999999999999.99"}}, _row(amount=lambda v: v == 10**15)),
    ({"amount": {"lte": "9" * 30}}, lambda row: True),
    ({"amount": {"gte": "-1"}}, lambda row: True),
    ({"amount": {"lte": "-1"}}, lambda row: False),
    ({"amount": {"lte": "0"}}, lambda row: False),
    ({"expiresAt": {"lte": "2200-01-01T00:00:00Z"}}, _row(expires_at=lambda v: v is not None)),
    ({"expiresAt": {"gte": "2026-01-01T00:00:00Z"}}, _row(expires_at=lambda v: v is not None)),
    ({"expiresAt": {"gte": "2135-07-09T00:00:00.000001Z"}}, _row(expires_at=lambda v: v is not None and v > DAY + timedelta(days=40_000))),
    ({"expiresAt": {"lte": "9999-12-31T23:59:59.999998Z"}}, _row(expires_at=lambda v: v is not None)),
    ({"expiresAt": {"gte": "9999-12-31T23:59:59.999998Z"}}, lambda row: False),
    ({"expiresAt": {"eq": "9999-12-31T23:59:59.999998Z"}}, lambda row: False),
    ({"expiresAt": {"eq": "2135-07-09T00:00:00Z"}}, _row(expires_at=lambda v: v == DAY + timedelta(days=40_000))),
    ({"createdAt": {"gte": "2026-01-03T00:00:00Z"}}, _row(created_at=lambda v: v >= DAY + timedelta(days=2))),
    ({"createdAt": {"eq": "2026-01-03T05:30:00+05:30"}}, _row(created_at=lambda v: v == DAY + timedelta(days=2))),
    ({"currency": {"eq": "EUR"}, "amount": {"gte": "5"}, "state": {"in": ["CANCELLED", "EXPIRED", "FUNDED"]}},
     _row(currency=lambda v: v == "EUR", amount=lambda v: v >= 5, state=lambda v: v in ("CANCELLED", "EXPIRED", "FUNDED"))),
    ({"currency": None, "amount": None}, lambda row: True),
]  # fmt: skip


@pytest.mark.parametrize(("where", "passes"), FILTERS, ids=[str(where) for where, _ in FILTERS])
async def test_every_filter(shelf: Shelf, where: dict[str, Any], passes: Callable[[Row], bool]) -> None:
    wanted = ordered([row for row in shelf.rows if passes(row)], "CREATED", "DESC")
    assert await shelf.ids(where=where) == wanted
    mine = {"institutionId": {"eq": shelf.desk.place.institution.id}}
    assert await shelf.ids(root(), where={**where, **mine}) == wanted


async def test_filters_by_ids(shelf: Shelf) -> None:
    some = [row["id"] for row in shelf.rows[3:6]]
    assert sorted(await shelf.ids(where={"id": {"in": [*some, "pos_nonsense", ""]}})) == some
    asset = shelf.rows[0]["asset_id"]
    wanted = [row["id"] for row in shelf.rows if row["asset_id"] == asset]
    assert sorted(await shelf.ids(where={"assetId": {"eq": asset}})) == wanted
    nested = await shelf.desk.run(
        "query ($id: ID!) { asset(id: $id) { positions(first: 3) { totalCount edges { node { id } } "
        "pageInfo { hasNextPage } } } }",
        {"id": asset},
    )
    positions = nested.data["asset"]["positions"]
    assert positions["totalCount"] == len(wanted)
    newest = ordered([row for row in shelf.rows if row["asset_id"] == asset], "CREATED", "DESC")
    assert [edge["node"]["id"] for edge in positions["edges"]] == newest[:3]
    assert positions["pageInfo"]["hasNextPage"]


async def test_other_institutions_positions_are_not_there(shelf: Shelf) -> None:
    foreign = await shelf.desk.owner.fetchrow(
        "SELECT id, institution_id FROM positions WHERE institution_id <> $1", shelf.desk.place.institution.id
    )
    for where in ({"id": {"eq": foreign["id"]}}, {"institutionId": {"eq": foreign["institution_id"]}}):
        assert await shelf.ids(where=where) == []
        assert await shelf.ids(root(), where=where) != []
    for field in ("position", "node"):
        document = f"query ($id: ID!) {{ {field}(id: $id) {{ id }} }}"
        assert (await shelf.desk.run(document, {"id": foreign["id"]})).data == {field: None}
        told = await shelf.desk.run(document, {"id": foreign["id"]}, principal=root())
        assert told.data == {field: {"id": foreign["id"]}}


async def test_root_orders_across_institutions_by_creation_only(shelf: Shelf) -> None:
    assert len(await shelf.ids(root())) == 27
    for field in ("AMOUNT", "EXPIRES"):
        answered = await shelf.desk.run(LIST, {"orderBy": {"field": field}}, principal=root())
        assert answered.codes == ["BAD_REQUEST"]
        assert "institutionId" in answered.errors[0].message


@pytest.mark.parametrize(
    "page", [{"first": -1}, {"last": -1}, {"first": 501}, {"last": 501}, {"first": 1, "last": 1}], ids=str
)
async def test_a_page_that_cannot_be_is_refused(shelf: Shelf, page: dict[str, int]) -> None:
    assert (await shelf.desk.run(LIST, page)).codes == ["BAD_REQUEST"]


async def test_an_empty_page_tells_that_there_is_more(shelf: Shelf) -> None:
    data = await shelf.listed(first=0)
    assert data["edges"] == []
    assert data["pageInfo"] == {
        "hasNextPage": True,
        "hasPreviousPage": False,
        "startCursor": None,
        "endCursor": None,
    }


async def test_node_answers_every_kind_of_id(shelf: Shelf) -> None:
    place, services = shelf.desk.place, shelf.desk.services
    event = await shelf.desk.owner.fetchval(
        "SELECT id FROM ledger_events WHERE institution_id = $1 LIMIT 1", place.institution.id
    )
    policy = (await factories.policy(services, place.institution.id)).id
    key = (await factories.key(services, place.institution.id)).key.id
    ids = {
        "Institution": place.institution.id,
        "ApiKey": key,
        "AssetTemplate": place.template.id,
        "Asset": place.asset.id,
        "Position": shelf.rows[0]["id"],
        "LedgerEvent": event,
        "Policy": policy,
    }
    for typename, id_ in ids.items():
        told = await shelf.desk.run("query ($id: ID!) { node(id: $id) { __typename id } }", {"id": id_})
        assert told.data["node"] == {"__typename": typename, "id": id_}


async def test_the_currencies_are_listed_with_their_exponents(shelf: Shelf) -> None:
    told = await shelf.desk.run("{ currencies { code exponent kind } }")
    listed = {entry["code"]: (entry["exponent"], entry["kind"]) for entry in told.data["currencies"]}
    assert listed == {code: (currency.exponent, currency.kind) for code, currency in CURRENCIES.items()}
    assert listed["ETH"] == (18, "TOKEN")


async def test_the_lifecycle_is_told_as_data(shelf: Shelf) -> None:
    document = """
    query ($name: String!, $version: Int) { lifecycle(name: $name, version: $version) {
      name version initialStage stages { name state final }
      transitions { fromStages toStage toState moneyEffect portion guards roles } } }
    """
    newest = (await shelf.desk.run(document, {"name": "escrow"})).data["lifecycle"]
    assert newest == (await shelf.desk.run(document, {"name": "escrow", "version": 1})).data["lifecycle"]
    assert (newest["name"], newest["version"], newest["initialStage"]) == ("escrow", 1, "CREATED")
    assert {stage["name"] for stage in newest["stages"] if stage["final"]} == {
        "RELEASED",
        "CANCELLED",
        "EXPIRED",
    }
    assert {
        "fromStages": ["FUNDED", "PARTIALLY_RELEASED"],
        "toStage": "RELEASED",
        "toState": "RELEASED",
        "moneyEffect": "RELEASE",
        "portion": "ALL",
        "guards": ["before_deadline"],
        "roles": [],
    } in newest["transitions"]
    for unknown in ({"name": "nonsense"}, {"name": "escrow", "version": 2}, {"name": "escrow", "version": 0}):
        assert (await shelf.desk.run(document, unknown)).data == {"lifecycle": None}
    every = await shelf.desk.run("{ lifecycles { name version } }")
    assert {"name": "escrow", "version": 1} in every.data["lifecycles"]
    of_one = await shelf.desk.run(
        "query ($id: ID!) { position(id: $id) { lifecycle { name version } } }", {"id": shelf.rows[0]["id"]}
    )
    assert of_one.data["position"]["lifecycle"] == {"name": "escrow", "version": 1}
