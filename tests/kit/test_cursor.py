"""Cursors of lists: sealed for one order, refused everywhere else."""

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit.chain import digest
from app.kit.cursor import CHECK_LENGTH, CURSOR_LENGTH_MAX, BadCursor, seal, unseal

PARTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.integers(-(2**63), 2**63 - 1),
    max_size=4,
)
URL_SAFE = set(string.ascii_letters + string.digits + "-_")
SEALED = seal("positions:asc", 1_700_000_000_000_000, "pos_1")


@given(PARTS)
def test_what_is_sealed_comes_back(parts: list[str | int]) -> None:
    sealed = seal("positions:asc", *parts)
    assert set(sealed) <= URL_SAFE
    assert unseal("positions:asc", sealed) == parts


def test_a_cursor_stays_the_same_text_for_ever() -> None:
    assert seal("ledger", "log", "*", 1, 42) == "MWNiN2M2ODBbImxlZGdlciIsImxvZyIsIioiLDEsNDJd"


def test_a_cursor_of_another_order_is_refused() -> None:
    with pytest.raises(BadCursor, match="another order"):
        unseal("positions:desc", SEALED)


@pytest.mark.parametrize("place", range(0, len(SEALED), 3))
def test_a_changed_character_is_noticed(place: int) -> None:
    other = "B" if SEALED[place] == "A" else "A"
    with pytest.raises(BadCursor):
        unseal("positions:asc", SEALED[:place] + other + SEALED[place + 1 :])


@pytest.mark.parametrize("length", range(1, len(SEALED)))
def test_a_cut_cursor_is_noticed(length: int) -> None:
    with pytest.raises(BadCursor):
        unseal("positions:asc", SEALED[:length])


def test_two_cursors_cannot_be_mixed() -> None:
    """The check of one before the body of another."""
    one, two = (base64.urlsafe_b64decode(seal("o", n) + "==") for n in (1, 2))
    mixed = base64.urlsafe_b64encode(one[:8] + two[8:]).decode()
    with pytest.raises(BadCursor, match="damaged"):
        unseal("o", mixed)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        " ",
        "nonsense",
        "123",
        "AAAA",
        "=",
        "é",
        "\x00",
        "\ud800",
        "ledger:5",
        "null",
        SEALED + "A",
        SEALED * 2,
    ],
)
def test_what_is_not_a_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(BadCursor):
        unseal("positions:asc", cursor)


def test_a_cursor_too_long_to_be_ours_is_refused_unread() -> None:
    with pytest.raises(BadCursor, match="too long"):
        unseal("positions:asc", "A" * (CURSOR_LENGTH_MAX + 1))


@given(st.text(max_size=80))
def test_no_text_at_all_does_worse_than_being_refused(text: str) -> None:
    with pytest.raises(BadCursor):
        unseal("positions:asc", text)


BODIES = ["5", "null", "true", "{}", "[]", "[[]]", '["o",1.5]', '["o",null]', '["o",true]', '["o",[1]]', '["o",{}]', '["o"', "\udcff"]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_somebody_made_up_is_refused_although_its_check_fits(body: str) -> None:
    made = body.encode(errors="surrogateescape")
    check = digest(b"escrowgrid.cursor" + made).hex()[:CHECK_LENGTH].encode()
    with pytest.raises(BadCursor):
        unseal("o", base64.urlsafe_b64encode(check + made).decode().rstrip("="))
