"""What strangers can have the libraries log is told, and does not fill the log."""

import asyncio
import logging
from urllib.parse import urlsplit

import pytest

from app.http.noise import LINES_AT_ONCE, LINES_PER_SECOND, LOGGERS, SAMPLED, Sampled
from app.http.server import config
from app.settings import Settings

from .conftest import Site


def record(text: str, *values: object) -> logging.LogRecord:
    return logging.LogRecord("uvicorn.error", logging.ERROR, "x", 1, text, values, None)


def test_a_flood_is_sampled_and_the_next_line_says_how_much_was_left_out() -> None:
    now = [1_000.0]
    sampled = Sampled(lambda: now[0])
    invalid = "Invalid HTTP request received."
    assert [sampled.filter(record(invalid)) for _ in range(100)].count(True) == LINES_AT_ONCE
    now[0] += 1 / LINES_PER_SECOND
    told = record(invalid)
    assert sampled.filter(told)
    assert told.getMessage() == f"{invalid} ({100 - LINES_AT_ONCE} more like it were left out)"
    assert told.levelno == logging.WARNING
    now[0] += 1 / LINES_PER_SECOND
    again = record(invalid)
    assert sampled.filter(again)
    assert again.getMessage() == invalid


def test_kinds_are_counted_apart_and_values_stay_in_their_places() -> None:
    sampled = Sampled(lambda: 0.0)
    for _ in range(50):
        sampled.filter(record("Invalid UTF-8 sequence received from client."))
    told = record("Rejected WebSocket connection from origin %r to host %r.", "https://100%.example", "here")
    assert sampled.filter(told)
    assert (
        told.getMessage()
        == "Rejected WebSocket connection from origin 'https://100%.example' to host 'here'."
    )


def test_whatever_else_is_said_is_always_told() -> None:
    sampled = Sampled(lambda: 0.0)
    fault = record("Exception in ASGI application")
    assert all(sampled.filter(fault) for _ in range(100))
    assert fault.levelno == logging.ERROR


async def test_requests_that_are_none_do_not_fill_the_log(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "filters", [Sampled()])
    where = urlsplit(site.url).hostname, urlsplit(site.url).port
    for _ in range(3 * LINES_AT_ONCE):
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"NONSENSE\r\n\r\n")
        assert b"400" in await reader.readline()
        writer.close()
    said = [one for one in caplog.records if one.getMessage().startswith("Invalid HTTP request")]
    assert LINES_AT_ONCE <= len(said) < 2 * LINES_AT_ONCE


def test_whoever_serves_samples_them_once() -> None:
    for _ in range(2):
        config(None, Settings())
    assert [logging.getLogger(name).filters.count(SAMPLED) for name in LOGGERS] == [1, 1]
