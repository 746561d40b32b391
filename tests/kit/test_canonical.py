"""The canonical spelling of JSON: RFC 8785 with exact numbers."""

import json
import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit.canonical import NotCanonical, canonical_json, micros, parse_json, plain_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
NUMBERS = st.integers(-(10**20), 10**20) | st.decimals(-(10**9), 10**9, places=6)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-7, "-7"),
        (10**30, "1" + "0" * 30),
        (Decimal("1.50"), "1.5"),
        (Decimal(100), "100"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("-0"), "0"),
        (Decimal("-0.00"), "0"),
        (Decimal("0.10"), "0.1"),
        ("", '""'),
        ('a"b\\c/d', '"a\\"b\\\\c/d"'),
        ("\b\t\n\f\r", '"\\b\\t\\n\\f\\r"'),
        ("\x00\x0f\x1f\x7f\u2028", '"\\u0000\\u000f\\u001f\x7f\u2028"'),
        ("é€😀", '"é€😀"'),
        ([], "[]"),
        ((1, "2"), '[1,"2"]'),
        ({}, "{}"),
        ({"b": 1, "a": [{"d": None, "c": True}]}, '{"a":[{"c":true,"d":null}],"b":1}'),
    ],
)
def test_frozen_spellings(value: Any, text: str) -> None:
    assert canonical_json(value) == text


def test_keys_are_sorted_as_rfc_8785_sorts_them() -> None:
    """The example of its §3.2.3: by UTF-16 code units, so that 😀 comes before דּ."""
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\x80": "Control",
        "\xf6": "Latin Small Letter O With Diaeresis",
    }
    assert list(parse_json(canonical_json(value)).values()) == [  # type: ignore[union-attr]
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


def test_strings_and_literals_are_spelled_as_in_rfc_8785() -> None:
    """The example of its §3.2.2; numbers are ours: exact, in fixed point."""
    source = (
        '{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001], '
        '"string": "\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/", "literals": [null, true, false]}'
    )
    assert canonical_json(parse_json(source)) == (
        '{"literals":[null,true,false],'
        '"numbers":[333333333.33333329,1000000000000000000000000000000,4.5,0.002,0.000000000000000000000000001],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


@given(VALUES)
def test_what_is_spelled_reads_back_as_the_same_value_and_is_spelled_the_same(value: Any) -> None:
    text = canonical_json(value)
    assert parse_json(text) == value
    assert canonical_json(parse_json(text)) == text


@given(VALUES)
def test_the_spelling_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    def reversed_keys(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: reversed_keys(item[name]) for name in reversed(item)}
        return [reversed_keys(part) for part in item] if isinstance(item, list) else item

    text = canonical_json(value)
    assert canonical_json(reversed_keys(value)) == text


@pytest.mark.parametrize(
    "value",
    [1.5, float("nan"), float("inf"), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), b"bytes", {1, 2},
     datetime(2026, 1, 1, tzinfo=UTC), object(), [1.0], {"deep": {"deeper": 2.5}}],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_floats_times_and_what_is_not_finite_have_no_spelling(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical_json(value)


@pytest.mark.parametrize("value", ["\ud800", "a\udfff", {"\udc00": 1}, ["\udbff"]])
def test_lone_surrogates_have_no_spelling(value: Any) -> None:
    with pytest.raises(NotCanonical, match="surrogate"):
        canonical_json(value)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[1, NaN]"])
def test_what_is_not_json_is_not_parsed(text: str) -> None:
    with pytest.raises(NotCanonical, match="is not JSON"):
        parse_json(text)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"a": 1, "\\u0061": 2}', '[{"b": {"c": 1, "c": 2}}]'])
def test_an_object_names_a_key_once(text: str) -> None:
    with pytest.raises(NotCanonical, match="the same key twice"):
        parse_json(text)


def test_numbers_are_parsed_without_losing_a_digit() -> None:
    parsed = parse_json("[0.1, 123456789012345678901234567890, 1e-18, 1.0000000000000000000000000000001]")
    assert parsed == [
        Decimal("0.1"),
        123456789012345678901234567890,
        Decimal("1e-18"),
        Decimal("1.0000000000000000000000000000001"),
    ]
    assert not any(isinstance(number, float) for number in parsed)  # type: ignore[union-attr]


def test_times_are_whole_microseconds_whatever_their_zone() -> None:
    moment = datetime(2026, 3, 1, 9, 30, 0, 123456, tzinfo=UTC)
    assert micros(moment) == 1772357400123456
    assert micros(moment.astimezone(timezone(timedelta(hours=5, minutes=30)))) == 1772357400123456
    assert micros(datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)) == -1
    assert micros(datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)) == 253402300799999999


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(NotCanonical, match="zone"):
        micros(datetime(2026, 3, 1))  # noqa: DTZ001


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 501 + "]" * 501, b"[" * 2_000])
def test_what_is_nested_too_deeply_is_refused_whatever_the_interpreters_limit(text: str | bytes) -> None:
    """Some libraries raise that limit for the whole process."""
    kept = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(RecursionError):
            parse_json(text)
    finally:
        sys.setrecursionlimit(kept)


def test_brackets_in_strings_are_no_levels() -> None:
    flat = json.dumps(["[{" * 1_000, 'a "quoted" [' * 1_000, "\\"])
    assert parse_json(flat) == json.loads(flat)
    assert parse_json("[" * 500 + "]" * 500)


PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text()


@given(
    st.recursive(
        PLAIN,
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text(st.characters(max_codepoint=127, min_codepoint=32)), inner)
        ),
    )
)
def test_what_is_plain_is_spelled_the_same_the_fast_way(value: Any) -> None:
    assert plain_json(value) == canonical_json(value)


@pytest.mark.parametrize("value", ["\ud800", 2**64, Decimal(1)])
def test_what_the_fast_way_cannot_spell_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        plain_json([value])
