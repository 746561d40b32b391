"""The arithmetic of buckets, purses and small counters: no clock, no database."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit.buckets import Buckets
from app.kit.histogram import Histogram
from app.limits.model import EMPTY_PAUSE_SECONDS, Purse, Terms

TERMS = Terms(160, 10)


def purse(tokens: float = 0, shared: float = 160) -> Purse:
    return Purse("p", TERMS, shared, 0.0, tokens)


def test_a_purse_pays_from_what_is_at_hand_alone() -> None:
    mine = purse(tokens=5)
    assert mine.pay(3, 0)
    assert not mine.pay(3, 0)
    assert mine.tokens == 2


def test_a_slice_is_asked_for_or_what_those_who_wait_need() -> None:
    assert purse().wanted() == 10
    waiting = purse(tokens=4)
    waiting.waiting = 50
    assert waiting.wanted() == 46


def test_what_lies_elsewhere_flows_in_up_to_the_brim() -> None:
    mine = purse(shared=0)
    assert mine.elsewhere(3) == 30
    assert mine.elsewhere(1000) == 160


def test_waiting_is_for_what_is_missing() -> None:
    mine = purse(tokens=5, shared=0)
    assert mine.wait(25, 0) == 2
    assert mine.wait(25, 2) == 0
    mine.leased(0, 0, 2)
    assert mine.wait(5, 2) == pytest.approx(EMPTY_PAUSE_SECONDS)


def test_a_debt_is_bounded_and_a_refund_too() -> None:
    mine = purse(tokens=5)
    mine.debit(1000)
    assert mine.tokens == -160
    mine.refund(10_000)
    assert mine.tokens == 160


def test_a_standing_never_leaves_its_bounds() -> None:
    told = purse(tokens=100, shared=160).standing(0)
    assert (told.limit, told.remaining, told.reset) == (160, 160, 0)
    told = purse(tokens=-50, shared=0).standing(0)
    assert (told.limit, told.remaining, told.reset) == (160, 0, 16)
    told = purse(tokens=0.5, shared=0).standing(0)
    assert (told.remaining, told.reset) == (0, 16)


def test_a_purse_is_spent_when_nothing_is_left_anywhere() -> None:
    assert not purse(tokens=1, shared=0).is_spent(0)
    assert purse(tokens=0, shared=0).is_spent(0)
    assert not purse(tokens=0, shared=0).is_spent(0.2)
    owing = purse(tokens=-100, shared=0)
    assert owing.is_spent(9)
    assert not owing.is_spent(10.2)


steps = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 20)), max_size=60)


@given(steps)
def test_a_bucket_gives_no_more_than_it_holds_and_gets(asked: list[tuple[float, int]]) -> None:
    buckets, now, taken = Buckets(50, 7, 10), 0.0, 0
    for pause, tokens in asked:
        now += pause
        wait = buckets.wait("a", now, tokens)
        got = buckets.take("a", now, tokens)
        assert got == (wait <= 1e-6)
        taken += tokens if got else 0
        assert taken <= 50 + 7 * now + 1e-3


def test_what_is_given_back_can_be_taken_again() -> None:
    buckets = Buckets(2, 1, 10)
    assert buckets.take("a", 0)
    assert buckets.take("a", 0)
    assert not buckets.take("a", 0)
    buckets.give_back("a")
    assert buckets.take("a", 0)
    buckets.give_back("nobody")
    assert len(buckets) == 1


def test_names_do_not_share_and_the_one_used_longest_ago_is_forgotten() -> None:
    buckets = Buckets(1, 0.001, 3)
    for name in "abc":
        assert buckets.take(name, 0)
    assert not buckets.take("a", 0)
    assert buckets.take("d", 0)
    # b was the oldest; a was refused since, and is remembered for it.
    assert not buckets.take("a", 0)
    assert buckets.take("b", 0)
    assert len(buckets) == 3


def test_a_flood_of_names_stays_within_its_memory() -> None:
    buckets = Buckets(10, 1, 5_000)
    for number in range(20_000):
        buckets.take(f"10.0.{number >> 8}.{number & 255}", 0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(200_000):
        buckets.take(f"2001:db8:{number:x}/64", number / 1e4)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(buckets) == 5_000
    assert grown < 2_000_000


@given(st.lists(st.floats(0, 2000)))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    found = Histogram((1, 10, 100))
    for value in values:
        found.add(value)
    assert sum(found.counts) == len(values)
    assert found.counts[0] == sum(value <= 1 for value in values)
    assert found.counts[3] == sum(value > 100 for value in values)
    assert abs(found.sum - sum(values)) < 1e-6 * max(len(values), 1)
