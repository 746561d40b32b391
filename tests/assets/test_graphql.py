"""Templates and assets through GraphQL: answers, userErrors, permissions, tenants apart."""

from decimal import Decimal

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import event

from app.institutions.model import Region, Vertical
from app.principal import Role, Scope
from tests.office import principal_of

CREATE_TEMPLATE = """
mutation ($input: CreateAssetTemplateInput!) {
  createAssetTemplate(input: $input) {
    assetTemplate {
      id name version code vertical region lifecycleName lifecycleVersion config metadataSchema
      onchain { enabled chainId } institution { id name } assets { totalCount }
    }
    userErrors { code message field }
  }
}
"""
CREATE_ASSET = """
mutation ($input: CreateAssetInput!) {
  createAsset(input: $input) {
    asset { id label metadata institution { id } template { id name } }
    userErrors { code message field }
  }
}
"""
TOWER = {
    "name": "Tower",
    "code": "CONSTR_ESCROW",
    "region": "US",
    "config": {"currency": "USD", "region": "US", "minAmount": "1000"},
}


@pytest_asyncio.fixture
async def here(office):
    return await office.institution(Region.US, Region.EU_UK)


@pytest.fixture
def ask(run, here):
    """Runs a document as a key of the institution; errors at the top level fail."""

    async def asked(document, variables=None, role=Role.ADMIN):
        answer = await run(document, variables, principal=principal_of(here, role))
        assert answer.errors == []
        return answer.data

    return asked


async def template_made(ask, **change):
    data = await ask(CREATE_TEMPLATE, {"input": TOWER | change})
    assert data["createAssetTemplate"]["userErrors"] == []
    return data["createAssetTemplate"]["assetTemplate"]


async def asset_made(ask, template, label="Block A", **change):
    data = await ask(CREATE_ASSET, {"input": {"templateId": template["id"], "label": label} | change})
    assert data["createAsset"]["userErrors"] == []
    return data["createAsset"]["asset"]


async def test_a_template_is_answered_whole(ask, here):
    schema = {"properties": {"floor": {"type": "integer"}}}
    made = await template_made(ask, metadataSchema=schema, onchain={"enabled": True, "chainId": 1})
    identity = made.pop("id")
    assert identity.startswith("tmpl_")
    assert made == {
        "name": "Tower",
        "version": 1,
        "code": "CONSTR_ESCROW",
        "vertical": "CONSTRUCTION",
        "region": "US",
        "lifecycleName": "escrow",
        "lifecycleVersion": 1,
        "config": TOWER["config"],
        "metadataSchema": schema,
        "onchain": {"enabled": True, "chainId": 1},
        "institution": {"id": here.id, "name": "Acme"},
        "assets": {"totalCount": 0},
    }
    assert (await template_made(ask))["version"] == 2


async def test_an_asset_is_answered_with_its_template(ask):
    template = await template_made(ask)
    asset = await asset_made(ask, template, metadata={"floors": 3, "area": Decimal("1.50")})
    assert asset["metadata"] == {"floors": 3, "area": Decimal("1.50")}
    assert asset["template"] == {"id": template["id"], "name": "Tower"}


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"region": "SG", "config": {"currency": "USD", "region": "SG"}}, "TEMPLATE_REFUSED", "region"),
        ({"vertical": "TRADE_FINANCE"}, "TEMPLATE_REFUSED", "vertical"),
        ({"vertical": "TRADE_FINANCE", "config": {}}, "VALIDATION_FAILED", "config.currency"),
        ({"code": "NOTHING"}, "VALIDATION_FAILED", "code"),
        ({"config": {"currency": "USD"}}, "VALIDATION_FAILED", "config.region"),
        ({"config": TOWER["config"] | {"minAmount": 1000}}, "VALIDATION_FAILED", "config.minAmount"),
        ({"lifecycleVersion": 7}, "VALIDATION_FAILED", "lifecycleVersion"),
        ({"name": "n" * 256}, "VALIDATION_FAILED", "name"),
        ({"onchain": {"enabled": True}}, "VALIDATION_FAILED", "onchain.chainId"),
        ({"metadataSchema": {"type": "strin"}}, "VALIDATION_FAILED", "metadataSchema"),
    ],
)
async def test_a_refused_template_has_one_error_and_writes_nothing(ask, office, change, code, field):
    before = await office.counts()
    answer = (await ask(CREATE_TEMPLATE, {"input": TOWER | change}))["createAssetTemplate"]
    assert answer["assetTemplate"] is None
    assert [(error["code"], error["field"]) for error in answer["userErrors"]] == [(code, field)]
    assert await office.counts() == before


async def test_a_name_of_another_code_is_refused(ask, office):
    await template_made(ask)
    before = await office.counts()
    change = {"code": "CONSTR_RETAINAGE", "config": {"currency": "USD", "retainagePercentage": 5}}
    answer = (await ask(CREATE_TEMPLATE, {"input": TOWER | change}))["createAssetTemplate"]
    assert [error["code"] for error in answer["userErrors"]] == ["DUPLICATE_NAME"]
    assert "CONSTR_ESCROW" in answer["userErrors"][0]["message"]
    assert await office.counts() == before


@pytest.mark.parametrize(
    ("change", "code", "field", "told"),
    [
        ({"label": ""}, "VALIDATION_FAILED", "label", "between 1 and 255"),
        ({"label": "a\0"}, "VALIDATION_FAILED", "label", "NUL"),
        (
            {"metadata": {"floor": "up"}},
            "VALIDATION_FAILED",
            "metadata",
            "metadata.floor: 'up' is not of type",
        ),
        ({"metadata": {"floor": 0.5}}, "VALIDATION_FAILED", "metadata", "float"),
        ({"templateId": "tmpl_" + "0" * 26}, "NOT_FOUND", "templateId", "no such asset template"),
        ({"templateId": "x"}, "NOT_FOUND", "templateId", "no such asset template"),
    ],
)
async def test_a_refused_asset_has_one_error_and_writes_nothing(ask, office, change, code, field, told):
    template = await template_made(ask, metadataSchema={"properties": {"floor": {"type": "integer"}}})
    before = await office.counts()
    variables = {"input": {"templateId": template["id"], "label": "x"} | change}
    answer = (await ask(CREATE_ASSET, variables))["createAsset"]
    assert answer["asset"] is None
    assert [(error["code"], error["field"]) for error in answer["userErrors"]] == [(code, field)]
    assert told in answer["userErrors"][0]["message"]
    assert await office.counts() == before


async def test_lists_are_filtered_ordered_paged_and_counted(ask):
    first = await template_made(ask)
    second = await template_made(
        ask, name="Annex", region="EU_UK", config={"currency": "EUR", "region": "EU_UK"}
    )
    for label in ("b", "a", "c"):
        await asset_made(ask, first, label)
    await asset_made(ask, second, "d")
    document = """
    query ($first: ID!) {
      newest: assets(first: 2) { totalCount pageInfo { hasNextPage } edges { node { label } } }
      labels: assets(orderBy: {field: LABEL, direction: ASC}) { edges { node { label } } }
      some: assets(where: {templateId: {eq: $first}, label: {in: ["a", "d"]}}) { totalCount edges { node { label } } }
      part: assets(where: {label: {contains: "b"}}) { edges { node { label } } }
      byName: assetTemplates(orderBy: {field: NAME, direction: ASC}) {
        edges { node { name assets(first: 1, orderBy: {field: LABEL, direction: DESC}) {
          totalCount edges { node { label template { name } } } } } }
      }
      eu: assetTemplates(where: {region: {eq: EU_UK}, vertical: {eq: CONSTRUCTION}}) { edges { node { name } } }
      lcs: assetTemplates(where: {code: {in: ["TF_LC"]}}) { totalCount }
    }
    """
    data = await ask(document, {"first": first["id"]})

    def labels(name):
        return [edge["node"]["label"] for edge in data[name]["edges"]]

    assert (labels("newest"), data["newest"]["totalCount"]) == (["d", "c"], 4)
    assert data["newest"]["pageInfo"]["hasNextPage"]
    assert labels("labels") == ["a", "b", "c", "d"]
    assert (labels("some"), data["some"]["totalCount"]) == (["a"], 1)
    assert labels("part") == ["b"]
    nested = [(edge["node"]["name"], edge["node"]["assets"]) for edge in data["byName"]["edges"]]
    assert [(name, assets["totalCount"], assets["edges"][0]["node"]["label"]) for name, assets in nested] == [
        ("Annex", 1, "d"),
        ("Tower", 3, "c"),
    ]
    assert [edge["node"]["name"] for edge in data["eu"]["edges"]] == ["Annex"]
    assert data["lcs"]["totalCount"] == 0


async def test_one_thing_is_found_by_id_also_as_a_node(ask):
    template = await template_made(ask)
    asset = await asset_made(ask, template)
    document = """
    query ($template: ID!, $asset: ID!) {
      assetTemplate(id: $template) { name }
      asset(id: $asset) { label }
      a: node(id: $template) { id ... on AssetTemplate { version } }
      b: node(id: $asset) { id ... on Asset { label } }
      none: asset(id: "ast_00000000000000000000000000") { id }
      odd: assetTemplate(id: "nonsense") { id }
    }
    """
    data = await ask(document, {"template": template["id"], "asset": asset["id"]})
    assert data == {
        "assetTemplate": {"name": "Tower"},
        "asset": {"label": "Block A"},
        "a": {"id": template["id"], "version": 1},
        "b": {"id": asset["id"], "label": "Block A"},
        "none": None,
        "odd": None,
    }


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_an_id_that_cannot_be_one_is_simply_not_there(ask, text):
    assert await ask("query ($id: ID!) { asset(id: $id) { id } }", {"id": text}) == {"asset": None}


async def test_another_institution_sees_and_uses_nothing(ask, run, office):
    template = await template_made(ask)
    asset = await asset_made(ask, template)
    stranger = principal_of(await office.institution())
    document = """
    query ($template: ID!, $asset: ID!, $there: ID!) {
      assetTemplate(id: $template) { id }
      asset(id: $asset) { id }
      assets(where: {institutionId: {eq: $there}}) { totalCount edges { node { id } } }
      assetTemplates { totalCount }
    }
    """
    variables = {"template": template["id"], "asset": asset["id"], "there": template["institution"]["id"]}
    answer = await run(document, variables, principal=stranger)
    assert answer.errors == []
    assert answer.data == {
        "assetTemplate": None,
        "asset": None,
        "assets": {"totalCount": 0, "edges": []},
        "assetTemplates": {"totalCount": 0},
    }
    before = await office.counts()
    refused = await run(
        CREATE_ASSET, {"input": {"templateId": template["id"], "label": "x"}}, principal=stranger
    )
    assert [error["code"] for error in refused.data["createAsset"]["userErrors"]] == ["NOT_FOUND"]
    assert await office.counts() == before


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ROOT])
async def test_each_role_makes_what_it_may(run, office, here, role):
    key = principal_of(here, role)
    before = await office.counts()
    for document, scope, variables in (
        (CREATE_TEMPLATE, Scope.TEMPLATES_WRITE, {"input": TOWER}),
        (CREATE_ASSET, Scope.ASSETS_WRITE, {"input": {"templateId": "tmpl_" + "0" * 26, "label": "x"}}),
    ):
        answer = await run(document, variables, principal=key)
        if key.may(scope):
            assert answer.errors == []
        else:
            assert answer.codes == ["FORBIDDEN"]
    made = await office.counts()
    assert made["asset_templates"] - before["asset_templates"] == int(key.may(Scope.TEMPLATES_WRITE))
    assert made["assets"] == before["assets"]


async def test_root_names_the_institution(run, office, here):
    before = await office.counts()
    answer = await run(CREATE_TEMPLATE, {"input": TOWER})
    assert [e["field"] for e in answer.data["createAssetTemplate"]["userErrors"]] == ["institutionId"]
    nobody = await run(CREATE_TEMPLATE, {"input": TOWER | {"institutionId": "inst_" + "0" * 26}})
    assert [e["code"] for e in nobody.data["createAssetTemplate"]["userErrors"]] == ["NOT_FOUND"]
    assert await office.counts() == before
    made = await run(CREATE_TEMPLATE, {"input": TOWER | {"institutionId": here.id}})
    assert made.data["createAssetTemplate"]["assetTemplate"]["institution"]["id"] == here.id


async def test_root_sees_all_and_orders_by_name_within_one(run, office, here, ask):
    await template_made(ask)
    ordered = "{ assetTemplates(%s orderBy: {field: NAME, direction: ASC}) { totalCount } }"
    answer = await run(ordered % "")
    assert answer.codes == ["BAD_REQUEST"]
    answer = await run(ordered % f'where: {{institutionId: {{eq: "{here.id}"}}}}')
    assert answer.data == {"assetTemplates": {"totalCount": 1}}


async def test_a_cursor_of_another_order_is_refused(ask, run, here):
    template = await template_made(ask)
    await asset_made(ask, template)
    data = await ask("{ assets { pageInfo { endCursor } } }")
    document = "query ($after: String) { assets(after: $after, orderBy: {field: LABEL, direction: ASC}) { totalCount } }"
    answer = await run(
        document, {"after": data["assets"]["pageInfo"]["endCursor"]}, principal=principal_of(here)
    )
    assert answer.codes == ["CURSOR_INVALID"]


async def test_the_verticals_of_the_codes_are_those_of_the_model(ask):
    for code, config, vertical in (
        ("TF_INVOICE", {"currency": "USD", "maxTenorDays": 30, "country": "SG"}, Vertical.TRADE_FINANCE),
        (
            "TF_LC",
            {"currency": "USD", "maxTenorDays": 30, "issuingBankCountry": "SG"},
            Vertical.TRADE_FINANCE,
        ),
        ("CONSTR_RETAINAGE", {"currency": "USD", "retainagePercentage": 5}, Vertical.CONSTRUCTION),
    ):
        made = await template_made(ask, name=code, code=code, config=config)
        assert made["vertical"] == vertical


async def test_a_nested_query_is_one_statement_for_each_level(ask, services, monkeypatch):
    for name in ("Tower", "Annex", "Shed"):
        template = await template_made(ask, name=name)
        for label in "abc":
            await asset_made(ask, template, label)
    seen = []
    engine = services.database.engine.sync_engine

    def before(_connection, _cursor, statement, _parameters, _context, _many):
        if not statement.startswith("SELECT set_config"):
            seen.append(statement)

    fetch = asyncpg.Connection.fetch

    async def straight(connection, statement, *values, **options):
        if " WHERE id = ANY(" in statement:
            seen.append(statement)
        return await fetch(connection, statement, *values, **options)

    # Rows by their ids do not come through SQLAlchemy.
    monkeypatch.setattr(asyncpg.Connection, "fetch", straight)
    event.listen(engine, "before_cursor_execute", before)
    try:
        data = await ask(
            """{ assetTemplates { edges { node { institution { name } assets { totalCount edges { node {
              template { name } institution { name } } } } } } } }"""
        )
    finally:
        event.remove(engine, "before_cursor_execute", before)
    assert [len(edge["node"]["assets"]["edges"]) for edge in data["assetTemplates"]["edges"]] == [3, 3, 3]
    # templates, their institution, their assets and how many, the assets' template
    assert len(seen) == 5


async def test_naming_another_institution_writes_nothing_there_or_here(ask, office):
    there = await office.institution()
    before = await office.counts()
    for document, name, wanted in (
        (CREATE_TEMPLATE, "createAssetTemplate", TOWER),
        (CREATE_ASSET, "createAsset", {"templateId": "tmpl_" + "0" * 26, "label": "x"}),
    ):
        answer = (await ask(document, {"input": wanted | {"institutionId": there.id}}))[name]
        assert [error["code"] for error in answer["userErrors"]] == ["NOT_FOUND"]
    assert await office.counts() == before
