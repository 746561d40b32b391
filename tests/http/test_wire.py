"""JSON over the wire: what goes in comes out, digit by digit."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.http.auth import secret_in
from app.http.live import reason
from app.http.negotiation import wanted
from app.http.wire import BadJsonError, RefusedError, decode, encode

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(10**40), 10**40) | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20
).filter(lambda number: number.as_tuple().exponent > -300)  # type: ignore[operator]
values = st.recursive(
    st.none() | st.booleans() | words | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_is_encoded_decodes_to_the_same(value: Any) -> None:
    assert decode(encode(value)) == value


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_nothing_but_a_refusal_comes_of_rubbish(rubbish: bytes | str) -> None:
    try:
        value = decode(rubbish)
    except BadJsonError:
        return
    assert decode(encode(value)) == value


def test_amounts_are_spelled_in_fixed_point() -> None:
    assert encode({"a": Decimal("1E+3"), "b": Decimal("-0.10"), "c": 2**70, "d": "\ud800"}) == (
        b'{"a":1000,"b":-0.10,"c":1180591620717411303424,"d":"?"}'
    )
    for bad in (Decimal("NaN"), Decimal("Infinity"), object(), {1, 2}):
        with pytest.raises(TypeError):
            encode({"a": bad})


def test_a_reason_fits_and_keeps_the_cursor() -> None:
    assert reason("bye", None) == "bye"
    assert reason("bye", "abc") == "bye; cursor=abc"
    assert reason("ü" * 100, None) == "ü" * 61
    assert reason("x" * 100, "c" * 60) == "cursor=" + "c" * 60
    assert reason("bye", "c" * 200) == "bye"
    assert reason("\ud800", None) == "?"


@given(st.text(max_size=60))
def test_any_accept_header_is_understood_or_refused(accept: str) -> None:
    try:
        found = wanted(Headers(raw=[(b"accept", accept.encode())]), page=True)
    except RefusedError:
        return
    else:
        assert (
            found.html
            or found.events_first
            or found.json
            in {
                "application/json",
                "application/graphql-response+json",
            }
        )


def test_weights_decide_between_page_stream_and_json() -> None:
    def chosen(accept: str, *, page: bool = True) -> str | None:
        found = wanted(Headers({"accept": accept}), page=page)
        return "html" if found.html else "events" if found.events_first else found.json

    assert chosen("text/html, */*;q=0.8") == "html"
    assert chosen("text/html, application/json") == "application/json"
    assert chosen("text/html;q=0.9, application/json") == "application/json"
    assert chosen("text/html, */*;q=0.8", page=False) == "application/json"
    assert chosen("text/event-stream, */*;q=0.1") == "events"
    assert chosen("text/event-stream;q=0.5, application/json") == "application/json"
    assert chosen("text/event-stream") == "events"
    assert chosen("application/json;q=nan, application/graphql-response+json;q=0.001") == (
        "application/graphql-response+json"
    )
    assert chosen("application/json;q=2, */*;q=0.5") == "application/graphql-response+json"


def test_keys_in_a_payload() -> None:
    assert secret_in({"authorization": "Bearer abc"}) == "abc"
    assert secret_in({"apiKey": " abc "}) == "abc"
    for payload in ({}, {"authorization": "abc"}, {"apiKey": ""}, {"apiKey": "a\x00b"}, {"token": "abc"}):
        assert secret_in(payload) is None
