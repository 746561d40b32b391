"""What text is taken at all: no NUL, no lone surrogates, a named length."""


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
