"""Every `where` and every `orderBy` of every list is served by an index, as the api role, at 100,000 positions.

The cases come from the GraphQL schema, so that a new field is tested by being there. Each is asked through the real
resolvers; the SQL they send is explained with its parameters, as the role `escrowgrid_api` within the asker's scope, and
the plan is judged, never the time. A filter may do without an index of its own only where its GraphQL description says
so: then the rows of one institution are looked at in the order of the list, which an index gives.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from graphql import GraphQLEnumType, GraphQLField, GraphQLInputObjectType, get_named_type

from app import schema as schemas
from app.context import Context, Request
from app.ledger import pages
from app.ledger.model import Account
from app.positions import rows, worker
from app.principal import Principal, root
from app.settings import Settings

from .conftest import INSTITUTIONS, Crowd, called, listening, tenant

CORE = schemas.build(Settings())._schema
# What a plan may sort: what is left after an index has narrowed it, never a list as a whole.
SORTED_ROWS_MAX = 2_000
WITHOUT_INDEX = re.compile(r"no index|look(s|ed)? (at|for)|are sorted", re.IGNORECASE)
# Ids that are unique among all institutions: their own index is as good as one that begins with the institution.
GLOBAL_IDS = {"id", "position_id", "template_id", "asset_id"}
SPELLED = {
    ("positions", "holderReference"): "holder_id",
    ("positions", "amount"): "amount_key",
    ("positions", "expiresAt"): "expires_key",
}
TABLES = {
    "positions": "positions",
    "ledgerEvents": "ledger_events",
    "assets": "assets",
    "assetTemplates": "asset_templates",
    "policies": "policies",
    "institutions": "institutions",
    "apiKeys": "api_keys",
    "auditEvents": "audit_events",
    "webhookEndpoints": "webhook_endpoints",
    "webhookDeliveries": "webhook_deliveries",
    "anchors": "anchors",
}
# Of no institution: whoever may ask sees all of them.
COMMON = {"institutions", "anchors"}
# Lists that are short for each institution: to walk those of one institution is enough.
SHORT = {"assetTemplates", "policies", "apiKeys", "webhookEndpoints"}
# Tests that look at other rows than their own.
RELATIVE = {("policies", "current")}


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name)


def column_of(case: "Case") -> str:
    """The column that a filter searches by."""
    assert case.field is not None
    return SPELLED.get((case.list, case.field), snake(case.field))


@dataclass(frozen=True)
class Case:
    """One list with one test, one order, or both."""

    list: str
    field: str | None = None
    operator: str | None = None
    order: tuple[str, str] | None = None
    # Whether the description of the field says that no index serves it.
    declared: bool = False

    @property
    def id(self) -> str:
        test = f" where {self.field}.{self.operator}" if self.field else ""
        order = f" by {' '.join(self.order)}" if self.order else ""
        return f"{self.list}{test}{order}"


def lists() -> Iterator[tuple[str, GraphQLField]]:
    assert CORE.query_type is not None
    for name, found in CORE.query_type.fields.items():
        if get_named_type(found.type).name.endswith("Connection") and "where" in found.args:
            yield name, found


def orders_of(found: GraphQLField) -> Iterator[tuple[str, str]]:
    if "orderBy" in found.args:
        order = get_named_type(found.args["orderBy"].type)
        assert isinstance(order, GraphQLInputObjectType)
        fields = get_named_type(order.fields["field"].type)
        assert isinstance(fields, GraphQLEnumType)
        for name in fields.values:
            yield from ((name, "ASC"), (name, "DESC"))
    else:
        yield from (("", "ASC"), ("", "DESC"))


def filters_of(found: GraphQLField) -> Iterator[tuple[str, str, bool]]:
    where = get_named_type(found.args["where"].type)
    assert isinstance(where, GraphQLInputObjectType)
    general = bool(WITHOUT_INDEX.search(where.description or ""))
    for name, item in where.fields.items():
        test = get_named_type(item.type)
        if not isinstance(test, GraphQLInputObjectType):
            yield name, "", False
            continue
        for operator, operand in test.fields.items():
            said = f"{item.description} {operand.description}"
            served = re.search(r"An index serves ([^.]+)\.", where.description or "")
            named = served is not None and f"`{name}`" in served[1]
            yield name, operator, bool(WITHOUT_INDEX.search(said)) or (general and not named)


def order_is_declared(found: GraphQLField, name: str) -> bool:
    if "orderBy" not in found.args:
        return False
    fields = get_named_type(get_named_type(found.args["orderBy"].type).fields["field"].type)  # type: ignore[union-attr]
    assert isinstance(fields, GraphQLEnumType)
    return bool(WITHOUT_INDEX.search(fields.values[name].description or ""))


LISTS = dict(lists())
ORDER_CASES = [
    Case(name, order=order, declared=order_is_declared(found, order[0]))
    for name, found in LISTS.items()
    for order in orders_of(found)
]
WHERE_CASES = [
    Case(name, field, operator, order, declared)
    for name, found in LISTS.items()
    for field, operator, declared in filters_of(found)
    for order in (None, *orders_of(found))
    if (name, field) not in RELATIVE and not (order and order_is_declared(found, order[0]))
]


class Plan:
    """The nodes of a plan, the outermost first."""

    def __init__(self, text: str) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.text = "\n" + "\n".join(self._walk(json.loads(text)[0]["Plan"], 1))

    def _walk(self, node: dict[str, Any], depth: int) -> Iterator[str]:
        self.nodes.append(node)
        told = ("Relation Name", "Index Name", "Index Cond", "Filter", "Sort Key", "Plan Rows", "Total Cost")
        yield "  " * depth + node["Node Type"] + "".join(f" | {node[name]}" for name in told if name in node)
        for inner in node.get("Plans", ()):
            yield from self._walk(inner, depth + 1)

    def scans(self, table: str) -> list[dict[str, Any]]:
        return [
            node
            for node in self.nodes
            if re.fullmatch(rf"{table}(_\d{{6}}|_default)?", node.get("Relation Name", ""))
        ]

    @property
    def conditions(self) -> list[str]:
        """What indexes are searched by."""
        return [node["Index Cond"] for node in self.nodes if "Index Cond" in node]

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    @property
    def sorts(self) -> list[dict[str, Any]]:
        return [node for node in self.nodes if node["Node Type"] in ("Sort", "Incremental Sort")]


@dataclass
class Asker:
    """Asks the real resolvers and keeps what they sent."""

    crowd: Crowd
    owner: asyncpg.Connection
    schema: Any

    async def ask(
        self, document: str, variables: dict[str, Any], principal: Principal
    ) -> tuple[Any, list[tuple[str, Any]]]:
        context = Context(self.crowd.parts.services, principal, Request("req_test"))
        with listening(self.crowd.parts.services.database) as traffic:
            result = await self.schema.execute(document, variable_values=variables, context_value=context)
            await context.close()
        assert not result.errors, result.errors
        return result.data, traffic.sent

    async def page(
        self,
        case: Case,
        principal: Principal,
        value: Any = None,
        more: dict[str, Any] | None = None,
        **page: Any,
    ) -> tuple[Any, list[tuple[str, Any]]]:
        """One page of a list."""
        where_type = get_named_type(LISTS[case.list].args["where"].type).name
        variables: dict[str, Any] = {"where": dict(more or {}), **page}
        if case.field is not None:
            test = value if case.operator == "" else {case.operator: value}
            variables["where"][case.field] = test
        declarations, arguments = [f"$where: {where_type}"], ["where: $where"]
        if case.order is not None:
            name, direction = case.order
            if "orderBy" in LISTS[case.list].args:
                order_type = get_named_type(LISTS[case.list].args["orderBy"].type).name
                declarations.append(f"$orderBy: {order_type}")
                arguments.append("orderBy: $orderBy")
                variables["orderBy"] = {"field": name, "direction": direction}
            else:
                arguments.append(f"direction: {direction}")
        kinds = {"first": "Int", "last": "Int", "after": "String", "before": "String"}
        for argument in page:
            declarations.append(f"${argument}: {kinds[argument]}")
            arguments.append(f"{argument}: ${argument}")
        text = (
            f"query ({', '.join(declarations)}) {{ {case.list}({', '.join(arguments)}) "
            "{ edges { cursor node { id } } } }"
        )
        data, sent = await self.ask(text, variables, principal)
        table = TABLES[case.list]
        return data[case.list]["edges"], [item for item in sent if re.search(rf"\bFROM {table}\b", item[0])]

    async def explain(self, sent: tuple[str, Any], scope: str) -> Plan:
        """The plan of a statement as the api role makes it."""
        async with self.owner.transaction():
            await self.owner.execute("SET LOCAL ROLE escrowgrid_api")
            await self.owner.execute("SELECT set_config('escrowgrid.scope', $1, true)", scope)
            return Plan(await self.owner.fetchval(f"EXPLAIN (FORMAT JSON) {sent[0]}", *sent[1]))

    async def value(self, case: Case, principal: Principal) -> Any:
        """What to look for: the rarest value of the column, and the far end of it where it is a span."""
        table, column = TABLES[case.list], snake(case.field or "")
        sealed = column == "holder_reference"
        column = "holder_id" if sealed else column
        mine = "true" if case.list in COMMON else f"institution_id = '{principal.tenant}'"
        known = f"{mine} AND {column} IS NOT NULL"
        match case.operator:
            case "gte":
                question = f"SELECT {column} FROM {table} WHERE {known} ORDER BY 1 DESC OFFSET 20 LIMIT 1"
            case "lte":
                question = f"SELECT {column} FROM {table} WHERE {known} ORDER BY 1 OFFSET 20 LIMIT 1"
            case _:
                question = (
                    f"SELECT {column} FROM (SELECT {column}, count(*) AS n, sum(count(*)) OVER () AS whole, "
                    f"row_number() OVER (ORDER BY count(*), {column} DESC) AS place FROM {table} WHERE {known} GROUP BY 1) "
                    "AS v WHERE place = 1 OR n < whole / 50 ORDER BY place LIMIT 2"
                )
        found = [called(row[0]) if sealed else spelled(row[0]) for row in await self.owner.fetch(question)]
        assert found, f"the crowd has no {column}: fill it in conftest.py"
        if case.operator == "in":
            return found
        return found[0][1:] if case.operator == "contains" else found[0]


def spelled(value: Any) -> Any:
    """As GraphQL writes it."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, Decimal) else value


@pytest.fixture(scope="module")
async def asker(crowd: Crowd) -> AsyncIterator[Asker]:
    owner = await asyncpg.connect(crowd.url)
    yield Asker(crowd, owner, schemas.build(Settings()))
    await owner.close()


def judge(plan: Plan, case: Case, *, walked: bool = False) -> None:
    """Says what is wrong with a plan: nothing is read as a whole, and nothing sorted but what an index has cut out.

    Indexes are entered at one institution. With `walked`, its rows may be looked at one by one; without, the case's
    column must be what an index is searched by.
    """
    table = TABLES[case.list]
    scans = plan.scans(table)
    assert scans, f"the plan does not read {table}: {plan.text}"
    # An empty partition costs nothing.
    read = [scan for scan in scans if scan["Node Type"] == "Seq Scan" and scan["Total Cost"] > 0]
    assert not read or (case.list == "institutions" and case.declared), plan.text
    if case.list not in COMMON:
        # A span of time cuts the audit's partitions, too.
        ways = (
            {"institution_id", *GLOBAL_IDS}
            if table != "audit_events"
            else {"institution_id", r"ROW\(occurred_at.*"}
        )
        entered = re.compile(rf"\b({'|'.join(ways)}) [=<>]")
        assert plan.conditions, plan.text
        assert all(entered.search(condition) for condition in plan.conditions), plan.text
    if case.field is not None and not walked:
        column = column_of(case)
        assert any(re.search(rf"\b{column}\b", condition) for condition in plan.conditions), (
            f"no index is searched by {column}: {plan.text}"
        )
    if plan.sorts and not walked:
        # By what the index finds: how many of those pass the filters is a guess.
        found = [node["Plan Rows"] for node in plan.nodes if "Index Name" in node]
        assert max(found) <= SORTED_ROWS_MAX, f"the list is sorted: {plan.text}"


def asker_of(case: Case) -> Principal:
    """Who asks: the institution with most of the rows; one with few of them where rows are walked or share pages."""
    if case.list == "institutions":
        return root()
    return tenant(INSTITUTIONS[2 if case.declared or case.list == "auditEvents" else 0])


def test_every_list_is_known() -> None:
    assert set(LISTS) == set(TABLES)


@pytest.mark.parametrize("case", ORDER_CASES, ids=lambda case: case.id)
async def test_an_order_is_an_indexs_own(asker: Asker, case: Case) -> None:
    """First page, a page behind a cursor, and the same from the other end: nothing is sorted, cursors are searched by."""
    if case.declared:
        return
    principal = asker_of(case)
    edges, sent = await asker.page(case, principal, first=200)
    assert len(edges) == 200, "the crowd is large enough"
    middle = edges[-1]["cursor"]
    requests: Sequence[dict[str, Any]] = (
        {"first": 50},
        {"first": 50, "after": middle},
        {"last": 50},
        {"last": 50, "before": middle},
    )
    for request in requests:
        _edges, sent = await asker.page(case, principal, **request)
        assert len(sent) == 1
        plan = await asker.explain(sent[0], principal.tenant)
        judge(plan, case)
        if len(request) > 1:
            assert any("<" in condition or ">" in condition for condition in plan.conditions), plan.text


@pytest.mark.parametrize("case", WHERE_CASES, ids=lambda case: case.id)
async def test_a_filter_is_searched_by_an_index(asker: Asker, case: Case) -> None:
    principal = asker_of(case)
    value = await asker.value(case, principal)
    edges, sent = await asker.page(case, principal, value, first=50)
    assert edges, "the test would prove nothing about an empty list"
    assert len(sent) == 1
    plan = await asker.explain(sent[0], principal.tenant)
    judge(plan, case, walked=case.declared or case.list in SHORT)


ROOT_LISTS = [Case(name) for name in LISTS if name not in COMMON]


@pytest.mark.parametrize("case", ROOT_LISTS, ids=lambda case: case.id)
async def test_root_walks_an_index_of_all_institutions(asker: Asker, case: Case) -> None:
    edges, sent = await asker.page(case, root(), first=200)
    for request in ({"first": 50}, {"first": 50, "after": edges[-1]["cursor"]}, {"last": 50}):
        _edges, sent = await asker.page(case, root(), **request)
        plan = await asker.explain(sent[0], root().tenant)
        assert not plan.sorts, plan.text
        scans = [scan for scan in plan.scans(TABLES[case.list]) if scan["Total Cost"] > 0]
        assert {scan["Node Type"] for scan in scans} == {"Index Scan"}, plan.text


@pytest.mark.parametrize("case", ORDER_CASES, ids=lambda case: case.id)
async def test_root_in_one_institution_reads_as_it_does(asker: Asker, case: Case) -> None:
    if case.list in (*COMMON, "ledgerEvents"):
        return  # root's ledger is in the global order: its cursors go by that, whatever is left out
    within = {"institutionId": {"eq": INSTITUTIONS[0]}}
    edges, sent = await asker.page(case, root(), more=within, first=50)
    assert len(edges) == 50
    judge(await asker.explain(sent[0], root().tenant), case)


async def test_root_is_told_which_orders_need_an_institution(asker: Asker) -> None:
    for name, found in LISTS.items():
        for order, direction in orders_of(found):
            if order in ("", "CREATED", "CREATED_AT", "OCCURRED_AT") or name == "institutions":
                continue
            text = (
                f"{{ {name}(orderBy: {{field: {order}, direction: {direction}}}) {{ edges {{ cursor }} }} }}"
            )
            context = Context(asker.crowd.parts.services, root(), Request("req_test"))
            result = await asker.schema.execute(text, context_value=context)
            await context.close()
            assert [error.extensions["code"] for error in result.errors] == ["BAD_REQUEST"], (name, order)


@pytest.mark.parametrize("operator", ["eq", "gte", "lte"])
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
async def test_a_span_of_time_is_entered_at_its_sequence(asker: Asker, operator: str, direction: str) -> None:
    """Half of the ledger is in the span: walking to its beginning would look at the other half first."""
    moment = await asker.owner.fetchval("SELECT recorded_at FROM ledger_events WHERE global_sequence = 50000")
    case = Case("ledgerEvents", "recordedAt", operator, ("", direction))
    for principal, more in (
        (tenant(INSTITUTIONS[1]), None),
        (root(), {"institutionId": {"eq": INSTITUTIONS[1]}}),
    ):
        _edges, sent = await asker.page(case, principal, spelled(moment), more, first=50)
        plan = await asker.explain(sent[0], principal.tenant)
        assert not [scan for scan in plan.scans("ledger_events") if scan["Node Type"] == "Seq Scan"], (
            plan.text
        )
        assert any(
            "sequence" in condition and "recorded" not in condition for condition in plan.conditions
        ) or any("recorded_at =" in condition for condition in plan.conditions), plan.text


NESTED = """
query ($page: Int!, $events: Int!) {
  ledgerHead { cursor }
  positions(first: $page) { totalCount edges { node {
    id amount held asset { label template { name institution { name } } } institution { id }
    availableTransitions { toState allowed }
    events(first: $events) { totalCount edges { cursor node { id reason metadata position { id } institution { id } } } }
  } } }
  assetTemplates(first: 5) { edges { node { id assets(first: 3) { totalCount edges { node { id } } } } } }
  policies(first: 5) { edges { node { id } } }
}
"""
LARGE = ("positions", "ledger_events", "assets", "asset_templates", "personal_data")


async def test_a_nested_query_enters_every_table_by_an_index(asker: Asker) -> None:
    """Every statement of it but the counts of whole lists, which have to look at the list."""
    for principal in (tenant(INSTITUTIONS[0]), tenant(INSTITUTIONS[2]), root()):
        _data, sent = await asker.ask(NESTED, {"page": 20, "events": 5}, principal)
        statements = [item for item in sent if "FROM" in item[0] and "FROM (SELECT" not in item[0]]
        assert len(statements) >= 10
        for item in statements:
            plan = await asker.explain(item, principal.tenant)
            for table in LARGE:
                read = [scan for scan in plan.scans(table) if scan["Node Type"] == "Seq Scan"]
                assert not read, f"{item[0]}{plan.text}"


@pytest.mark.parametrize("account", [*Account, f"held:pos_{17:026}"], ids=str)
async def test_a_statement_of_account_is_read_along_an_index(asker: Asker, account: str) -> None:
    text = (
        f'{{ accountStatement(account: "{account}", currency: "USD", first: 50) '
        "{ edges { cursor node { amount balanceAfter } } } }"
    )
    principal = tenant(INSTITUTIONS[0])
    _data, sent = await asker.ask(text, {}, principal)
    statements = [item for item in sent if "FROM ledger_events" in item[0]]
    assert statements
    for item in statements:
        plan = await asker.explain(item, principal.tenant)
        assert {scan["Node Type"] for scan in plan.scans("ledger_events")} <= {
            "Index Scan",
            "Index Only Scan",
        }, plan.text


async def test_the_feed_follows_and_the_clerk_looks_along_indexes(asker: Asker) -> None:
    """What processes ask all day long, as the feed role."""
    now = datetime.now(UTC)
    questions = [
        (pages.READ_ALL, (50_000, 500), "ledger_events_pkey"),
        (pages.READ_ONE, (INSTITUTIONS[1], 5_000, 500), "ledger_events_institution_id_sequence_key"),
        (rows.DUE, (now, 500, *worker.FIRST), "positions_due"),
    ]
    for question, values, index in questions:
        async with asker.owner.transaction():
            await asker.owner.execute("SET LOCAL ROLE escrowgrid_feed")
            plan = Plan(await asker.owner.fetchval(f"EXPLAIN (FORMAT JSON) {question}", *values))
        assert plan.indexes == {index}, plan.text
        assert not plan.sorts, plan.text
