"""What text is taken at all: no NUL, no lone surrogates, a named length; and what can be a name."""

import unicodedata

# They turn around how the text beside them is shown: a name could pass for another.
TURNING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Control characters, and the ends of lines and paragraphs.
BREAKING = frozenset({"Cc", "Zl", "Zp"})
# Spaces, and what is drawn as nothing by itself.
UNSEEN = frozenset({"Cf", "Zs"})


class BadText(ValueError):
    """Text that cannot be stored as it stands; the message says why."""


def check_text(value: str, *, length_max: int, length_min: int = 1) -> str:
    """`value` as it came; raises `BadText` for NUL, lone surrogates, and too few or too many characters."""
    if "\x00" in value:
        raise BadText("text must not contain the NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadText("text must not contain half of a surrogate pair") from None
    if not length_min <= len(value) <= length_max:
        raise BadText(f"text must have between {length_min} and {length_max} characters; it has {len(value)}")
    return value


def check_name(value: str, *, length_max: int) -> str:
    """`value` as it came; raises `BadText` also for what cannot be read as one line of visible text."""
    check_text(value, length_max=length_max)
    kinds = set(map(unicodedata.category, value))
    if kinds & BREAKING:
        raise BadText("a name is one line, without control characters")
    if not TURNING.isdisjoint(value):
        raise BadText("a name must not contain characters that turn around the direction of text")
    if kinds <= UNSEEN:
        raise BadText("a name has something to be seen; this one is blank")
    return value
