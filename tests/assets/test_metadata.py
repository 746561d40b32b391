"""The schema a template puts on metadata: exact numbers, readable errors, bounded work."""

import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count

import pytest
from jsonschema import Draft202012Validator

from app.assets.metadata import check_metadata, check_schema
from app.assets.model import AssetTemplate
from app.errors import ErrorCode, Invalid
from app.institutions.model import Region, Vertical
from app.kit.canonical import parse_json

numbers = count(1)


def template(schema):
    return AssetTemplate(
        id=f"tmpl_{next(numbers)}",
        institution_id="inst_1",
        name="t",
        version=1,
        code="TF_LC",
        vertical=Vertical.TRADE_FINANCE,
        region=Region.US,
        lifecycle_name="escrow",
        lifecycle_version=1,
        config={"currency": "USD"},
        metadata_schema=schema,
        onchain_enabled=False,
        onchain_chain_id=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def refused(schema, metadata):
    with pytest.raises(Invalid) as refusal:
        check_metadata(template(schema), metadata)
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.VALIDATION_FAILED, "metadata")
    return refusal.value.message


INVOICE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "number": {"type": "string", "pattern": "^INV-[0-9]+$"},
        "weight": {"type": "number", "minimum": 0, "multipleOf": Decimal("0.01")},
        "lines": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/line"}},
    },
    "required": ["number"],
    "additionalProperties": False,
    "$defs": {"line": {"type": "object", "properties": {"quantity": {"type": "integer"}}}},
}


@pytest.mark.parametrize(
    "metadata",
    [
        {"number": "INV-1"},
        {"number": "INV-1", "weight": Decimal("12.34")},
        {"number": "INV-1", "weight": 7, "lines": [{"quantity": 1}, {"quantity": Decimal("2.0")}]},
    ],
)
def test_metadata_that_meets_the_schema_is_taken(metadata):
    check_schema(INVOICE)
    assert check_metadata(template(INVOICE), metadata) is metadata


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "metadata: 'number' is a required property"),
        ({"number": 7}, "metadata.number: 7 is not of type 'string'"),
        ({"number": "INV-x"}, "metadata.number: 'INV-x' does not match '^INV-[0-9]+$'"),
        ({"number": "INV-1", "weight": Decimal("1.005")}, "metadata.weight: 1.005 is not a multiple of 0.01"),
        (
            {"number": "INV-1", "weight": Decimal("-0.5")},
            "metadata.weight: -0.5 is less than the minimum of 0",
        ),
        ({"number": "INV-1", "weight": True}, "metadata.weight: True is not of type 'number'"),
        (
            {"number": "INV-1", "lines": [{}, {"quantity": Decimal("1.5")}]},
            "metadata.lines[1].quantity: 1.5 is not",
        ),
        (
            {"number": "INV-1", "lines": [{"quantity": 1}, {"quantity": Decimal("1.0")}]},
            "metadata.lines: the items",
        ),
        ({"number": "INV-1", "colour": "red"}, "metadata: the key 'colour' is not allowed"),
    ],
)
def test_an_error_names_the_place_and_reads_like_a_sentence(metadata, told):
    message = refused(INVOICE, metadata)
    assert message.startswith(told)
    assert "Decimal(" not in message


def test_several_errors_are_told_at_once():
    assert refused(INVOICE, {"number": 7, "weight": "x"}).count("; ") == 1


def test_the_schema_means_the_same_after_a_stay_in_the_database():
    text = '{"properties":{"a":{"minLength":2.0,"multipleOf":0.1,"maximum":1e3}}}'
    schema = parse_json(text)
    check_schema(schema)
    assert "too short" in refused(schema, {"a": "x"})
    check_metadata(template(schema), {"a": Decimal("999.9")})


def test_patterns_of_keys_are_understood():
    schema = {"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
    check_schema(schema)
    check_metadata(template(schema), {"x-a": 1, "y": "s"})
    assert "metadata['x-a']: 's' is not of type 'integer'" in refused(schema, {"x-a": "s"})
    assert "metadata.y: 1 is not of type 'string'" in refused(schema, {"y": 1})


def test_without_a_schema_metadata_is_free_within_the_limits():
    check_metadata(template(None), {"anything": [1]})
    assert "float" in refused(None, {"a": 0.1})


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "strin"}, "metadataSchema.type"),
        ({"properties": {"a": {"minLength": -1}}}, "metadataSchema.properties.a.minLength"),
        ({"required": "a"}, "metadataSchema.required"),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#"},
            "only https://json-schema.org/draft/2020-12",
        ),
        ({"$ref": "https://example.com/x"}, "stay within"),
        ({"$ref": "other.json#/x"}, "stay within"),
        ({"$ref": "#name"}, "stay within"),
        ({"items": {"$ref": "file:///etc/passwd"}}, "stay within"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$ref": "#/default", "default": {"pattern": "(?=a)"}}, "does not lead to a subschema"),
        ({"$ref": "#"}, "too much work"),
        ({"$id": "https://example.com/x"}, "$id"),
        ({"properties": {"a": {"$schema": INVOICE["$schema"], "pattern": "^(a+)+$"}}}, "$schema"),
        ({"properties": {"a": {"$dynamicRef": "#a"}}}, "$dynamicRef"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "look-around"),
        ({"properties": {"a": {"pattern": "a" * 201}}}, "at most 200"),
        ({"patternProperties": {"(a{9}){9}{9}{9}": True}}, "repeats too much"),
        ({"allOf": [{"pattern": f"a{n}"} for n in range(21)]}, "at most 20 patterns"),
        ({"allOf": [{} for _ in range(301)]}, "at most 300 objects"),
        ({"description": "x" * 65_536}, "at most 65536 bytes"),
        ({"minimum": 0.5}, "float"),
    ],
)
def test_a_schema_that_is_wrong_or_dangerous_is_refused(schema, told):
    with pytest.raises(Invalid) as refusal:
        check_schema(schema)
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.VALIDATION_FAILED, "metadataSchema")
    assert told in refusal.value.message


def test_a_schema_ten_deep_is_refused_when_it_is_eleven():
    schema = {"type": "string"}
    for _ in range(5):
        schema = {"properties": {"a": schema}}
    with pytest.raises(Invalid, match="deep"):
        check_schema(schema)
    check_schema(schema["properties"]["a"])


def test_words_of_the_schema_may_be_names_of_properties():
    schema = {
        "properties": {
            "$ref": {"type": "string"},
            "pattern": {"type": "string"},
            "$id": {"const": {"$ref": "x"}},
        }
    }
    check_schema(schema)
    check_metadata(template(schema), {"pattern": "(?=", "$ref": "x"})


DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}


@pytest.mark.parametrize(
    ("schema", "metadata"),
    [
        ({"items": {"$ref": "#"}, "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": DOUBLING | {"d40": {}}}, {"a": 1}),
        ({"$schema": INVOICE["$schema"], "properties": {"a": {"pattern": "^(a+)+$"}, "b": {"$ref": "#"}}},
         {"a": "x", "b": {"a": "a" * 60_000 + "!"}}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"a": n} for n in range(6000)]}),
        ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 60_000 + "!"}),
        ({"anyOf": [{"allOf": [{"type": "array"}] * 290}]}, {"a": ["x" * 60] * 1000}),
        ({"properties": {"a": {"items": {"enum": [f"v{n}" for n in range(7000)]}}}}, {"a": ["w"] * 9000}),
    ],
)  # fmt: skip
def test_no_schema_holds_the_process_for_long(schema, metadata):
    check_schema(schema)
    started = time.perf_counter()
    with suppress(Invalid):
        check_metadata(template(schema), metadata)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("keyword", ["type", "required"])
def test_no_list_of_a_schema_is_compared_each_with_each(keyword):
    started = time.perf_counter()
    with pytest.raises(Invalid):
        check_schema({keyword: ["a", *range(11_000)]})
    assert time.perf_counter() - started < 2


def test_only_our_dialect_ever_evaluates(monkeypatch):
    # A `$schema` within makes jsonschema go over to its own validator: unbounded, and with Python's patterns.
    def stray(*_arguments, **_options):
        raise AssertionError("jsonschema's own validator was used")

    monkeypatch.setattr(Draft202012Validator, "iter_errors", stray)
    monkeypatch.setattr(Draft202012Validator, "descend", stray)
    check_schema(INVOICE)
    check_metadata(template(INVOICE), {"number": "INV-1", "lines": [{"quantity": 1}]})


def test_schemas_that_go_round_are_refused_whatever_the_interpreter_bears() -> None:
    kept = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(Invalid, match="too much work"):
            check_schema({"$ref": "#"})
    finally:
        sys.setrecursionlimit(kept)
