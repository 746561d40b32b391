"""Ids: their spelling and their order."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit.ids import ALPHABET, ID_PATTERN, Ids, encode, is_id

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PREFIXES = ["inst", "key", "tmpl", "ast", "pos", "evt", "pol", "aud", "req", "auto"]


def decoded(id: str) -> int:
    number = 0
    for letter in id.rpartition("_")[2]:
        number = number * 32 + ALPHABET.index(letter)
    return number


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_id_is_its_prefix_and_twenty_six_characters(prefix: str) -> None:
    made = Ids().new(prefix)
    assert ID_PATTERN.fullmatch(made)
    assert len(made) == len(prefix) + 1 + 26
    assert is_id(made)
    assert is_id(made, prefix)
    assert not is_id(made, prefix + "x")


def test_an_id_holds_a_uuid_of_version_7_with_its_time() -> None:
    number = decoded(Ids(lambda: NOON).new("evt"))
    assert number >> 80 == int(NOON.timestamp() * 1000)
    assert (number >> 76) & 0xF == 0x7
    assert (number >> 62) & 0b11 == 0b10


def test_ids_sort_in_the_order_they_were_made_even_when_the_clock_stands_still() -> None:
    ids = Ids(lambda: NOON)
    made = [ids.new("evt") for _ in range(10_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_sort_in_the_order_they_were_made_even_when_the_clock_runs_backwards() -> None:
    moments = iter(NOON - timedelta(seconds=number) for number in range(100))
    ids = Ids(lambda: next(moments))
    made = [ids.new("evt") for _ in range(100)]
    assert made == sorted(made)


def test_ids_of_two_makers_sort_by_their_millisecond() -> None:
    early = Ids(lambda: NOON, lambda bits: (1 << bits) - 1).new("evt")
    late = Ids(lambda: NOON + timedelta(milliseconds=1), lambda _bits: 0).new("evt")
    assert early < late


def test_the_same_clock_and_chance_make_the_same_id() -> None:
    assert Ids(lambda: NOON, lambda _bits: 7).new("pos") == "pos_01kjmma2g0e008000000000007"


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_the_order_of_the_text_is_the_order_of_the_numbers(left: int, right: int) -> None:
    assert (encode(left) < encode(right)) == (left < right)
    assert decoded(encode(left)) == left


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pos_",
        "pos",
        "01kjq6qtr074000000000000007",
        "pos_01kjq6qtr07400000000000007x",
        "pos_01kjq6qtr0740000000000000",
        "pos_81kjq6qtr07400000000000007",  # more than 128 bits
        "pos_01KJQ6QTR07400000000000007",
        "pos_01kjq6qtr0740000000000000u",
        "pos_01kjq6qtr0740000000000000i",
        "pos_01kjq6qtr07400000000000007\n",
        " pos_01kjq6qtr0740000000000000",
        "pos_01kjq6qtr0740000000000000\x00",
        "pos_01kjq6qtr0740000000000000٣",
        "*",
        "a,b",
    ],
)
def test_what_is_not_spelled_like_an_id_is_none(text: str) -> None:
    assert not is_id(text)
    assert not is_id(text, "pos")
