"""What JSON objects are taken."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.assets.objects import OBJECT_BYTES_MAX, check_object
from app.errors import Invalid
from app.kit.canonical import canonical_json, parse_json


def nested(depth):
    value = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": None},
        nested(10),
        {"a": [1, [2, {"b": Decimal("0.10")}]]},
        {"": "", "é": "漢"},
        {"n": 10**59},
    ],
)
def test_an_object_within_the_limits_is_taken_as_it_came(value):
    assert check_object(value, "metadata") is value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "metadata: a JSON object"),
        ([], "metadata: a JSON object"),
        (nested(11), "nested more than 10 deep"),
        ({"a": "x" * OBJECT_BYTES_MAX}, "at most 65536"),
        ({"a": [0.5]}, "metadata.a[0]: a value of type float"),
        ({"a": Decimal("NaN")}, "metadata.a: a number is finite"),
        ({"a": Decimal("1e-999999999")}, "metadata.a: a number has at most 60 digits"),
        ({"a": Decimal("1e999999999")}, "metadata.a: a number has at most 60 digits"),
        ({"a": 10**60}, "metadata.a: a number has at most 60 digits"),
        ({"a": "x\0"}, "metadata.a: text must not contain the NUL"),
        ({"a": {"\ud800": 1}}, "metadata.a: a key: text must not contain half"),
        ({"k" * 256: 1}, "metadata: a key"),
        ({1: 1}, "metadata: the keys of an object are text"),
        ({"a": b"x"}, "metadata.a: a value of type bytes"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(value, told):
    with pytest.raises(Invalid) as refusal:
        check_object(value, "metadata")
    assert refusal.value.field == "metadata"
    assert told in refusal.value.message


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**59), 10**59)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
    | st.decimals(allow_nan=False, allow_infinity=False, places=5, min_value=-(10**20), max_value=10**20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10), inner, max_size=4
        )
    ),
    max_leaves=15,
)


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10), json_values, max_size=4
    )
)
def test_whatever_is_taken_can_be_spelled_and_read_back(value):
    try:
        taken = check_object(value, "metadata")
    except Invalid:
        return
    assert parse_json(canonical_json(taken)) == value
