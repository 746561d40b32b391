"""Bad input through the API: each gets a clear coded error and changes nothing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.principal import root
from tests import factories
from tests.positions.conftest import INPUTS, Desk

# Texts that are no amounts at all: the scalar refuses them, before any resolver runs.
NOT_DECIMAL = ["1e3", "1E3", "1e-2", "NaN", "nan", "Infinity", "-Infinity", "", " ", "1 ", "+1", "01", ".5", "5.", "1,000",
               "1_000", "0x10", "١٢", "1" * 31, "0." + "1" * 31, "abc", "\x00", "\ud800"]  # fmt: skip
NOT_TEXT: list[Any] = [5, 5.0, 0.1, True, ["1"], {"a": 1}, float("nan"), float("inf")]
# Decimals that are no money.
NO_MONEY = ["0", "0.00", "-0", "-0.01", "-100", "0.001", "100.000", "1000000000000000.01", "9" * 30]


async def told(desk: Desk, mutation: str, principal: Any = None, **sent: Any) -> tuple[list[str], list[Any]]:
    """(top-level codes, userErrors) of a mutation that must be refused; nothing was written."""
    before = await factories.footprint(desk.owner)
    document = (
        f"mutation ($input: {INPUTS[mutation]}!) {{ {mutation}(input: $input) "
        "{ position { id } event { id } cursor replayed userErrors { code message field } } }"
    )
    answered = await desk.run(document, {"input": sent}, principal=principal)
    assert await factories.footprint(desk.owner) == before
    assert all(error.message for error in answered.errors)
    if answered.errors:
        assert answered.data is None
        return answered.codes, []
    payload = answered.data[mutation]
    assert (payload["position"], payload["event"], payload["cursor"]) == (None, None, None)
    return [], payload["userErrors"]


async def refused(
    desk: Desk, mutation: str, code: str, field: str | None, principal: Any = None, **sent: Any
) -> None:
    codes, errors = await told(desk, mutation, principal, **sent)
    assert codes == []
    (error,) = errors
    assert (error["code"], error["field"]) == (code, field)
    assert error["message"]


async def bad_user_input(desk: Desk, mutation: str, **sent: Any) -> None:
    codes, _errors = await told(desk, mutation, **sent)
    assert codes == ["BAD_USER_INPUT"]


@pytest.mark.parametrize("amount", [*NOT_DECIMAL, *NOT_TEXT], ids=repr)
async def test_what_is_no_decimal_is_no_amount(shared: Desk, amount: Any) -> None:
    position = await shared.position()
    await bad_user_input(shared, "createPosition", **shared.terms(amount=amount))
    await bad_user_input(shared, "releasePosition", id=position.id, amount=amount)
    await bad_user_input(shared, "transitionPosition", id=position.id, toState="FUNDED", amount=amount)
    listed = await shared.run(
        "query ($amount: Decimal!) { positions(where: {amount: {eq: $amount}}) { totalCount } }",
        {"amount": amount},
    )
    assert listed.codes == ["BAD_USER_INPUT"]


@pytest.mark.parametrize("literal", ["5", "5.0", "1e3", "true", "[]", "{}", "USD", '"1e3"', '"NaN"', '"-"'])
async def test_nor_is_what_is_written_into_the_document(shared: Desk, literal: str) -> None:
    before = await factories.footprint(shared.owner)
    document = (
        f'mutation ($asset: ID!) {{ createPosition(input: {{assetId: $asset, holderReference: "H", currency: "USD", '
        f"amount: {literal}}}) {{ cursor }} }}"
    )
    answered = await shared.run(document, {"asset": shared.place.asset.id})
    assert answered.data is None
    assert len(answered.codes) == 1
    assert answered.codes[0] in {"GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT"}
    assert await factories.footprint(shared.owner) == before


@pytest.mark.parametrize("amount", NO_MONEY)
async def test_what_is_no_money_is_no_amount(shared: Desk, amount: str) -> None:
    await refused(shared, "createPosition", "VALIDATION_FAILED", "amount", **shared.terms(amount=amount))
    position = await shared.position(state=factories.State.FUNDED)
    if Decimal(amount) <= 1000:
        await refused(shared, "releasePosition", "VALIDATION_FAILED", "amount", id=position.id, amount=amount)


@pytest.mark.parametrize(
    "currency", ["", "XXX", "US", "USDX", "U$D", "\x00", "\ud800", "usd ", "٣", "ß" * 300, "null"]
)
async def test_a_currency_that_is_not_known_is_refused(shared: Desk, currency: str) -> None:
    terms = shared.terms(currency=currency)
    await refused(shared, "createPosition", "VALIDATION_FAILED", "currency", **terms)


TEXTS = {"empty": "", "NUL": "a\x00b", "half a pair": "\ud800", "the other half": "a\udfff"}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("field", ["holderReference", "externalReference", "reason", "idempotencyKey"])
async def test_text_that_cannot_be_kept_is_refused(shared: Desk, field: str, text: str) -> None:
    await refused(shared, "createPosition", "VALIDATION_FAILED", field, **shared.terms(**{field: text}))
    if field in ("reason", "idempotencyKey"):
        position = await shared.position()
        await refused(shared, "fundPosition", "VALIDATION_FAILED", field, id=position.id, **{field: text})


NO_NAMES = ["   ", "\u200b", "two\nlines", "\u202eTHE DLOH", "a\u2028b", "\t"]


@pytest.mark.parametrize("text", NO_NAMES, ids=ascii)
@pytest.mark.parametrize("field", ["holderReference", "externalReference"])
async def test_what_cannot_be_read_as_a_name_is_none(shared: Desk, field: str, text: str) -> None:
    await refused(shared, "createPosition", "VALIDATION_FAILED", field, **shared.terms(**{field: text}))


@pytest.mark.parametrize(
    ("field", "most"),
    [("holderReference", 255), ("externalReference", 255), ("reason", 1000), ("idempotencyKey", 255)],
)
async def test_text_has_a_named_length_in_characters(shared: Desk, field: str, most: int) -> None:
    await shared.accepted("createPosition", **shared.terms(**{field: "😀" * most}))
    for length in (most + 1, 100_000):
        terms = shared.terms(**{field: "x" * length})
        codes, (error,) = await told(shared, "createPosition", **terms)
        assert (codes, error["code"], error["field"]) == ([], "VALIDATION_FAILED", field)
        assert f"between 1 and {most} characters; it has {length}" in error["message"]


async def test_a_stage_is_text_of_a_named_length(shared: Desk) -> None:
    position = await shared.position()
    for stage in ("\x00", "\ud800", "x" * 256, ""):
        await refused(
            shared, "transitionPosition", "VALIDATION_FAILED", "toStage", id=position.id, toStage=stage
        )


IDS: dict[str, Callable[[Desk], str]] = {
    "unknown": lambda desk: desk.services.ids.new("pos"),
    "of another kind": lambda desk: desk.place.asset.id,
    "malformed": lambda _desk: "nonsense",
    "empty": lambda _desk: "",
    "too long": lambda _desk: "pos_" + "0" * 10_000,
    "NUL": lambda _desk: "pos_\x00",
    "half a pair": lambda _desk: "\ud800",
    "a pattern": lambda _desk: "pos_%",
    "a list": lambda _desk: "pos_1,pos_2",
    "everything": lambda _desk: "*",
    "in capitals": lambda desk: desk.services.ids.new("pos").upper(),
}


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("who", ["admin", "root"])
async def test_a_position_that_is_not_there_is_not_found(shared: Desk, kind: str, who: str) -> None:
    principal = root() if who == "root" else None
    id_ = IDS[kind](shared)
    for mutation in ("fundPosition", "releasePosition", "cancelPosition", "expirePosition"):
        await refused(shared, mutation, "NOT_FOUND", "id", principal, id=id_)
    await refused(shared, "transitionPosition", "NOT_FOUND", "id", principal, id=id_, toState="FUNDED")
    for field in ("position", "node", "ledgerEvent"):
        if field == "node" and kind == "of another kind":
            continue
        document = f"query ($id: ID!) {{ {field}(id: $id) {{ id }} }}"
        answered = await shared.run(document, {"id": id_}, principal=principal)
        assert answered.errors == []
        assert answered.data == {field: None}


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("who", ["admin", "root"])
async def test_an_asset_that_is_not_there_is_not_found(shared: Desk, kind: str, who: str) -> None:
    principal = root() if who == "root" else None
    id_ = shared.services.ids.new("ast") if kind == "of another kind" else IDS[kind](shared)
    await refused(shared, "createPosition", "NOT_FOUND", "assetId", principal, **shared.terms(assetId=id_))


@pytest.mark.parametrize("kind", ["NUL", "half a pair"])
async def test_text_that_cannot_be_stored_cannot_be_looked_for_either(shared: Desk, kind: str) -> None:
    bad = IDS[kind](shared)
    wheres: list[dict[str, Any]] = [
        {"id": {"eq": bad}},
        {"id": {"in": ["pos_1", bad]}},
        {"assetId": {"eq": bad}},
        {"institutionId": {"eq": bad}},
        {"holderReference": {"contains": bad}},
        {"externalReference": {"in": [bad]}},
        {"currency": {"eq": bad}},
        {"stage": {"eq": bad}},
    ]
    for where in wheres:
        for query in ("positions { totalCount }", "positionSummary { count }"):
            name, _, rest = query.partition(" ")
            document = f"query ($where: PositionWhere) {{ {name}(where: $where) {rest} }}"
            if name == "positionSummary":
                document = (
                    "query ($where: PositionWhere) { positionSummary(where: $where, groupBy: []) { count } }"
                )
            answered = await shared.run(document, {"where": where})
            assert answered.codes == ["BAD_REQUEST"], (name, where)
    for where in ({"positionId": {"eq": bad}}, {"currency": {"in": [bad]}}, {"actorId": {"eq": bad}}):
        answered = await shared.run(
            "query ($where: LedgerEventWhere) { ledgerEvents(where: $where) { totalCount } }",
            {"where": where},
        )
        assert answered.codes == ["BAD_REQUEST"], where
    named = await shared.run("query ($n: String!) { lifecycle(name: $n) { name } }", {"n": bad})
    assert named.data == {"lifecycle": None}


NO_WORDS = [
    ("ledgerEvents", "LedgerEventWhere", {"newState": {"eq": "FUNDEDD"}}, "BAD_USER_INPUT", "PositionState"),
    ("ledgerEvents", "LedgerEventWhere", {"currency": {"in": ["USD", "QQQ"]}}, "BAD_REQUEST", "`currencies`"),
    ("positions", "PositionWhere", {"currency": {"eq": "QQQ"}}, "BAD_REQUEST", "`currencies`"),
    ("positions", "PositionWhere", {"currency": {"eq": "usd"}}, "BAD_REQUEST", "`currencies`"),
    ("positions", "PositionWhere", {"state": {"in": ["FUNDEDD"]}}, "BAD_USER_INPUT", "PositionState"),
    ("assetTemplates", "AssetTemplateWhere", {"region": {"eq": "USA"}}, "BAD_USER_INPUT", "Region"),
    ("assetTemplates", "AssetTemplateWhere", {"vertical": {"in": ["SHIPS"]}}, "BAD_USER_INPUT", "Vertical"),
    ("assetTemplates", "AssetTemplateWhere", {"code": {"eq": "NOPE"}}, "BAD_REQUEST", "CONSTR_ESCROW, "),
    ("policies", "PolicyWhere", {"region": {"eq": "USA"}}, "BAD_USER_INPUT", "Region"),
]


@pytest.mark.parametrize(
    ("query", "type_", "where", "code", "told"), NO_WORDS, ids=lambda value: str(value)[:40]
)
async def test_a_word_that_no_row_can_have_is_refused_and_never_answered_with_an_empty_list(
    shared: Desk, query: str, type_: str, where: Any, code: str, told: str
) -> None:
    document = f"query ($where: {type_}) {{ {query}(where: $where) {{ totalCount }} }}"
    answered = await shared.run(document, {"where": where})
    assert answered.codes == [code]
    assert told in answered.errors[0].message


async def test_currencies_of_summaries_histories_and_streams_are_known_ones(shared: Desk) -> None:
    position = await shared.position()
    for document in (
        '{ positionSummary(where: {currency: {eq: "QQQ"}}) { count } }',
        f'{{ position(id: "{position.id}") {{ events(where: {{currency: {{eq: "QQQ"}}}}) {{ totalCount }} }} }}',
    ):
        assert (await shared.run(document)).codes == ["BAD_REQUEST"]


async def test_states_roles_and_kinds_are_told_as_enums(shared: Desk) -> None:
    position = await shared.position(state=factories.State.FUNDED)
    document = """query ($id: ID!) {
      position(id: $id) { events { edges { node { previousState newState actor { role } } } } }
      currencies { code kind }
      types: __schema { types { name fields { name type { name ofType { name } } } } }
    }"""
    answered = await shared.run(document, {"id": position.id})
    assert not answered.errors
    events = [edge["node"] for edge in answered.data["position"]["events"]["edges"]]
    assert [(e["previousState"], e["newState"], e["actor"]["role"]) for e in events] == [
        (None, "CREATED", "ADMIN"),
        ("CREATED", "FUNDED", "ADMIN"),
    ]
    kinds = {currency["code"]: currency["kind"] for currency in answered.data["currencies"]}
    assert (kinds["USD"], kinds["BTC"]) == ("FIAT", "TOKEN")
    types = {
        (type_["name"], field["name"]): field["type"]["name"] or field["type"]["ofType"]["name"]
        for type_ in answered.data["types"]["types"]
        for field in type_["fields"] or ()
    }
    assert types["LedgerEvent", "previousState"] == types["LedgerEvent", "newState"] == "PositionState"
    assert (types["Actor", "role"], types["Currency", "kind"]) == ("Role", "CurrencyKind")


async def test_a_filter_takes_so_many_values_and_such_long_text(shared: Desk) -> None:
    document = "query ($where: PositionWhere) { positions(where: $where) { totalCount } }"
    for where in ({"id": {"in": ["pos_1"] * 101}}, {"holderReference": {"contains": "x" * 1001}}):
        answered = await shared.run(document, {"where": where})
        assert answered.codes == ["BAD_REQUEST"]


@pytest.mark.parametrize("test", [{"eq": None}, {}, {"in": None, "contains": None}], ids=repr)
async def test_a_test_without_a_value_is_refused_and_never_passes_everything(shared: Desk, test: Any) -> None:
    """A total over everything would be believed to be the total asked for."""
    document = "query ($where: PositionWhere) { positionSummary(where: $where, groupBy: [STATE]) { count } }"
    answered = await shared.run(document, {"where": {"externalReference": test}})
    assert answered.codes == ["BAD_REQUEST"]
    assert "externalReference: its test has no value" in answered.errors[0].message
    unset = "query ($r: String) { positions(where: {externalReference: {eq: $r}}) { totalCount } }"
    assert (await shared.run(unset)).codes == ["BAD_REQUEST"]
    assert not (await shared.run(document, {"where": {"externalReference": None}})).codes


TIMES: list[Any] = [
    "2026-03-01T09:30:00.1234567Z",
    "2026-03-01T09:30:00.0000000000Z",
    "2026-03-01T09:30:00",
    "2026-03-01",
    "2026-03-01 09:30:00Z",
    "2026-02-30T09:30:00Z",
    "2026-03-01T24:00:00Z",
    "2026-03-01T09:60:00Z",
    "2026-03-01T09:30:60Z",
    "2026-03-01T09:30:00+24:00",
    "20260301T093000Z",
    "0000-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "0001-01-01T02:00:00+02:00",
    "9999-12-31T23:59:59.999999Z",
    "tomorrow",
    "",
    "\x00",
    "٢٠٢٦-03-01T09:30:00Z",
    1772357400,
    1772357400.5,
    True,
    {},
]


@pytest.mark.parametrize("time", TIMES, ids=repr)
@pytest.mark.parametrize("field", ["expiresAt", "occurredAt"])
async def test_a_time_is_rfc_3339_with_at_most_six_fraction_digits(
    shared: Desk, field: str, time: Any
) -> None:
    await bad_user_input(shared, "createPosition", **shared.terms(**{field: time}))
    if field == "occurredAt":
        position = await shared.position()
        await bad_user_input(shared, "fundPosition", id=position.id, occurredAt=time)


async def test_the_instants_beside_the_infinities_are_instants(shared: Desk) -> None:
    """The very last one the database would take for infinity, and give back a time without a zone."""
    first, before = "0001-01-01T00:00:00.000001Z", "9999-12-31T23:59:59.999998Z"
    occurred = await shared.accepted("createPosition", **shared.terms(occurredAt=first))
    told_ = await shared.run(
        "query ($id: ID!) { position(id: $id) { events { edges { node { occurredAt } } } } }",
        {"id": occurred["position"]["id"]},
    )
    assert told_.data["position"]["events"]["edges"][0]["node"]["occurredAt"] == first
    payload = await shared.accepted("createPosition", **shared.terms(expiresAt=before))
    read = await shared.run(
        "query ($id: ID!) { position(id: $id) { expiresAt } }", {"id": payload["position"]["id"]}
    )
    assert read.data["position"]["expiresAt"] == payload["position"]["expiresAt"] == before
    await shared.accepted("fundPosition", id=payload["position"]["id"])
    await shared.accepted("releasePosition", id=payload["position"]["id"])


def nested(depth: int, inner: Any = 1) -> Any:
    for _ in range(depth):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    "metadata",
    [
        nested(11),
        nested(500),
        {"a": [[[[[[[[[[[1]]]]]]]]]]]},
        {"a": "x" * 65_536},
        {f"key {number}": "x" * 100 for number in range(700)},
        {"a": "\x00"},
        {"\x00": 1},
        {"a": "\ud800"},
        {"\udfff": 1},
        {"a": 0.1},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": 10**61},
        {"x" * 256: 1},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_metadata_that_cannot_be_kept_is_refused(shared: Desk, metadata: Any) -> None:
    await refused(
        shared, "createPosition", "VALIDATION_FAILED", "metadata", **shared.terms(metadata=metadata)
    )
    position = await shared.position()
    await refused(shared, "fundPosition", "VALIDATION_FAILED", "metadata", id=position.id, metadata=metadata)


@pytest.mark.parametrize("metadata", [[], "text", 5, True, [{}]], ids=str)
async def test_metadata_is_an_object(shared: Desk, metadata: Any) -> None:
    await bad_user_input(shared, "createPosition", **shared.terms(metadata=metadata))


@pytest.mark.parametrize(
    "metadata",
    [{}, nested(10), {"a": "x" * 65_000}, {"é": Decimal("0.1"), "n": 10**59}],
    ids=lambda v: str(v)[:20],
)
async def test_metadata_within_the_limits_comes_back_as_it_came(shared: Desk, metadata: Any) -> None:
    document = "mutation ($input: CreatePositionInput!) { createPosition(input: $input) { event { metadata } userErrors { message } } }"
    answered = await shared.run(document, {"input": shared.terms(metadata=metadata)})
    assert answered.data["createPosition"] == {"event": {"metadata": metadata}, "userErrors": []}


async def test_a_document_nested_too_deeply_is_refused_before_it_is_run(shared: Desk) -> None:
    before = await factories.footprint(shared.owner)
    literal = "{a: " * 2000 + "1" + "}" * 2000
    document = (
        f'mutation {{ createPosition(input: {{assetId: "x", holderReference: "H", currency: "USD", amount: "1", '
        f"metadata: {literal}}}) {{ cursor }} }}"
    )
    answered = await shared.run(document)
    assert answered.codes == ["LIMIT_EXCEEDED"]
    assert await factories.footprint(shared.owner) == before


@pytest.mark.parametrize("version", [0, -1])
async def test_a_version_starts_at_one(shared: Desk, version: int) -> None:
    position = await shared.position()
    await refused(
        shared,
        "fundPosition",
        "VALIDATION_FAILED",
        "expectedVersion",
        id=position.id,
        expectedVersion=version,
    )


@pytest.mark.parametrize("version", [2**31, -(2**31) - 1, 1.5, "1", True, "x"])
async def test_a_version_is_a_whole_number(shared: Desk, version: Any) -> None:
    position = await shared.position()
    await bad_user_input(shared, "fundPosition", id=position.id, expectedVersion=version)


@pytest.mark.parametrize(
    "state", ["funded", "HELD", "", "FUNDED ", 1, True, None, ["FUNDED", "FUNDED"], "__class__"]
)
async def test_a_state_is_one_of_six(shared: Desk, state: Any) -> None:
    position = await shared.position()
    if state is None:
        await refused(
            shared, "transitionPosition", "VALIDATION_FAILED", "toState", id=position.id, toState=state
        )
    else:
        await bad_user_input(shared, "transitionPosition", id=position.id, toState=state)
    listed = await shared.run(
        "query ($where: PositionWhere) { positions(where: $where) { totalCount } }",
        {"where": {"state": {"eq": state}}},
    )
    assert listed.codes == (["BAD_REQUEST"] if state is None else ["BAD_USER_INPUT"])


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        ("query ($o: PositionOrder) { positions(orderBy: $o) { totalCount } }", {"o": {"field": "HELD"}}),
        ("query ($o: PositionOrder) { positions(orderBy: $o) { totalCount } }", {"o": {"field": "AMOUNT", "direction": "up"}}),
        ("query ($o: PositionOrder) { positions(orderBy: $o) { totalCount } }", {"o": {}}),
        ("query ($g: [SummaryGroup!]!) { positionSummary(groupBy: $g) { count } }", {"g": ["COLOUR"]}),
        ("query ($g: [SummaryGroup!]!) { positionSummary(groupBy: $g) { count } }", {"g": [None]}),
        ("query ($n: Int) { positions(first: $n) { totalCount } }", {"n": "ten"}),
        ("query ($w: PositionWhere) { positions(where: $w) { totalCount } }", {"w": {"colour": {"eq": "red"}}}),
        ("query ($w: PositionWhere) { positions(where: $w) { totalCount } }", {"w": {"currency": {"gte": "EUR"}}}),
        ("query ($w: PositionWhere) { positions(where: $w) { totalCount } }", {"w": {"id": {"in": [None]}}}),
        ("query ($id: ID!) { position(id: $id) { id } }", {}),
        ("query ($id: ID!) { position(id: $id) { id } }", {"id": None}),
        ("query ($id: ID!) { position(id: $id) { id } }", {"id": 1.5}),
        ("query ($id: ID!) { position(id: $id) { id } }", {"id": {"a": 1}}),
    ],
    ids=str,
)  # fmt: skip
async def test_arguments_of_another_kind_are_refused(shared: Desk, query: str, variables: Any) -> None:
    answered = await shared.run(query, variables)
    assert answered.codes == ["BAD_USER_INPUT"]
    assert answered.data is None


CURSORS = ["", "nonsense", "\x00", "\ud800", "A" * 601, "W10", "eyJhIjoxfQ", "bnVsbA"]


@pytest.mark.parametrize("cursor", CURSORS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("side", ["after", "before"])
async def test_a_bad_cursor_is_refused_in_every_list(shared: Desk, side: str, cursor: str) -> None:
    position = await shared.position(state=factories.State.FUNDED)
    for field in (
        "positions({}: $c) {{ edges {{ cursor }} }}",
        "positions(orderBy: {{field: AMOUNT}}, {}: $c) {{ edges {{ cursor }} }}",
        "ledgerEvents({}: $c) {{ edges {{ cursor }} }}",
        f'position(id: "{position.id}") {{{{ events({{}}: $c) {{{{ edges {{{{ cursor }}}} }}}} }}}}',
        f'asset(id: "{position.asset_id}") {{{{ positions({{}}: $c) {{{{ edges {{{{ cursor }}}} }}}} }}}}',
        'accountStatement(account: "clearing:in", currency: "USD", {}: $c) {{ edges {{ cursor }} }}',
    ):
        answered = await shared.run(f"query ($c: String) {{ {field.format(side)} }}", {"c": cursor})
        assert answered.codes == ["CURSOR_INVALID"], field


async def test_the_cursor_of_another_list_is_refused(shared: Desk) -> None:
    await shared.position()
    ledger = shared.services.tail.epochs.cursor(shared.place.institution.id, 1)
    listed = await shared.run("{ positions(first: 1) { edges { cursor } } }")
    cursor = listed.data["positions"]["edges"][0]["cursor"]
    for field, wrong in (("positions", ledger), ("ledgerEvents", cursor)):
        answered = await shared.run(
            f"query ($c: String) {{ {field}(after: $c) {{ edges {{ cursor }} }} }}", {"c": wrong}
        )
        assert answered.codes == ["CURSOR_INVALID"]


async def test_a_key_with_another_input_is_a_conflict(shared: Desk) -> None:
    terms = shared.terms(idempotencyKey="bad input", reason="r")
    await shared.accepted("createPosition", **terms)
    for other in ({"amount": "100.01"}, {"holderReference": "I"}, {"reason": "s"}, {"metadata": {}}):
        await refused(
            shared, "createPosition", "IDEMPOTENCY_CONFLICT", "idempotencyKey", **{**terms, **other}
        )


async def test_a_missing_or_unknown_part_of_an_input_is_refused(shared: Desk) -> None:
    for missing in ("assetId", "holderReference", "currency", "amount"):
        await bad_user_input(shared, "createPosition", **shared.terms(**{missing: ...}))
        await bad_user_input(shared, "createPosition", **shared.terms(**{missing: None}))
    await bad_user_input(shared, "createPosition", **shared.terms(colour="red"))
    await bad_user_input(shared, "fundPosition")


async def test_a_deadline_beyond_a_tenor_and_in_the_past_is_refused(shared: Desk) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    await refused(shared, "createPosition", "VALIDATION_FAILED", "expiresAt", **shared.terms(expiresAt=past))
