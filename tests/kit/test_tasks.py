"""A task that should last is never over unheard."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from app.kit.tasks import begin, end

Work = Callable[[], Awaitable[None]]


async def breaks() -> None:
    raise LookupError("what it looked for")


async def returns() -> None:
    await asyncio.sleep(0)


async def lasts() -> None:
    await asyncio.Event().wait()


async def is_taken_along() -> None:
    """What it waits for is cancelled by somebody else, as a driver may do."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def critical(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (breaks, "LookupError: what it looked for"),
        (returns, "it returned"),
        (is_taken_along, "what it waited for was cancelled"),
    ],
)
async def test_a_task_that_stops_by_itself_is_told_with_its_name_and_why(
    work: Work, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    stopped: list[str] = []
    task = begin(work(), "the-part", stopped=lambda: stopped.append("told"))  # type: ignore[arg-type]
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert critical(caplog) == [f"the-part has stopped by itself: {why}"]
    assert stopped == ["told"]


async def test_a_task_that_is_ended_stops_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    stopped: list[str] = []
    task = begin(lasts(), "the-part", stopped=lambda: stopped.append("told"))
    await asyncio.sleep(0)
    await end(task)
    await asyncio.sleep(0)
    assert (task.cancelled(), stopped, caplog.records) == (True, [], [])


async def test_a_task_that_is_over_may_return_but_not_break(caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.wait([begin(returns(), "fine", over=lambda: True)])
    await asyncio.sleep(0)
    assert not caplog.records
    await asyncio.wait([begin(breaks(), "broken", over=lambda: True)])
    await asyncio.sleep(0)
    assert critical(caplog) == ["broken has stopped by itself: LookupError: what it looked for"]


async def test_an_error_on_the_way_out_is_told_and_is_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    async def stumbles() -> None:
        try:
            await lasts()
        finally:
            raise LookupError("at the end")

    task = begin(stumbles(), "the-part")
    await asyncio.sleep(0)
    await end(task)
    await asyncio.sleep(0)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "the-part ended with an error")
    ]
