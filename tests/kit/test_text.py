"""Text that is taken and text that is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit.text import BadText, check_text


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
