"""Text that is taken and text that is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit.text import BadText, check_name, check_text


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_text_comes_back_as_it_came(text: str) -> None:
    assert check_text(text, length_max=20) == text


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "ends with\x00"])
def test_the_nul_character_is_refused(text: str) -> None:
    with pytest.raises(BadText, match="NUL"):
        check_text(text, length_max=20)


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b", "\udc00\ud800"])
def test_half_of_a_surrogate_pair_is_refused(text: str) -> None:
    with pytest.raises(BadText, match="surrogate"):
        check_text(text, length_max=20)


def test_length_is_counted_in_characters_and_told() -> None:
    assert check_text("😀" * 5, length_max=5) == "😀" * 5
    with pytest.raises(BadText, match="between 1 and 5 characters; it has 6"):
        check_text("😀" * 6, length_max=5)
    with pytest.raises(BadText, match="it has 0"):
        check_text("", length_max=5)
    assert check_text("", length_max=5, length_min=0) == ""


@pytest.mark.parametrize("name", ["Acme", " Acme ", "بنك الإمارات", "می\u200cخواهم", "👩\u200d🌾", "北京"])
def test_a_name_in_any_script_is_a_name(name: str) -> None:
    assert check_name(name, length_max=20) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("   ", "blank"),
        ("\u200b", "blank"),
        ("\u00a0\u200d", "blank"),
        ("two\nlines", "one line"),
        ("a\tb", "one line"),
        ("a\u2029b", "one line"),
        ("\u202etfel", "direction"),
        ("a\u2067b", "direction"),
    ],
)
def test_what_cannot_be_read_is_no_name(name: str, why: str) -> None:
    with pytest.raises(BadText, match=why):
        check_name(name, length_max=20)
