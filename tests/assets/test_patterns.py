"""Patterns of strangers: the same answers as Python's engine, in linear time."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.assets.patterns import PATTERN_LENGTH_MAX, PatternError, check_pattern, matches

atoms = st.sampled_from(["a", "b", "-", "[ab]", "[^a]", r"\.", "[a-c]"])
counts = st.sampled_from(["", "*", "+", "?", "{2}", "{1,3}", "{0,}"])
pieces = st.recursive(
    st.builds(str.__add__, atoms, counts),
    lambda inner: (
        st.builds("({}){}".format, inner, counts)
        | st.builds("(?:{}|{})".format, inner, inner)
        | st.builds("{}{}".format, inner, inner)
    ),
    max_leaves=6,
)


@given(pieces, st.booleans(), st.booleans(), st.lists(st.text("abc.-", max_size=8), min_size=1, max_size=8))
@settings(max_examples=300)
def test_plain_patterns_mean_what_they_mean_in_python(body, start, end, texts):
    pattern = f"{'^' * start}(?:{body}){'$' * end}"
    try:
        check_pattern(pattern)
    except PatternError:
        return
    for text in texts:
        assert matches(pattern, text) is (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    "pattern", [r"^(a+)+$", r"^(a|a)*$", r"^(.*a){12}$", r"(x+x+)+y", r"^(a?){30}a{30}$"]
)
def test_patterns_that_explode_elsewhere_are_answered_at_once(pattern):
    check_pattern(pattern)
    started = time.perf_counter()
    matches(pattern, "a" * 20_000 + "!")
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("a" * (PATTERN_LENGTH_MAX + 1), "at most 200"),
        (r"(?=a)b", "no look-around"),
        (r"(?<=a)b", "look-around"),
        (r"(?i)a", "no flags"),
        (r"(?x)a { 50 }", "no flags"),
        (r"(a)\1", "backreferences"),
        (r"(", "linear time"),
        (r"(\w{100}){100}", "repeats too much"),
        (r"\w{ 200 }", "repeats too much"),
        (r"((a{0,30}){0,30}){0,30}", "repeats too much"),
        (r"[ab]{999999999}", "repeats too much"),
    ],
)
def test_what_is_large_or_needs_backtracking_is_refused(pattern, told):
    with pytest.raises(PatternError, match=told):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [r"^[0-9a-f]{64}$", r"^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$", r"^\d{4}-\d{2}-\d{2}$", r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
     r"^(?<year>\d{4})$", r"^\(?\d+\)?$", r"\p{Lu}"],
)  # fmt: skip
def test_patterns_people_write_are_taken(pattern):
    check_pattern(pattern)
