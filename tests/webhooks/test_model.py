"""When a delivery is tried again, and when it is over."""

from datetime import UTC, datetime, timedelta

import pytest

from app.webhooks.model import SCHEDULE, DeliveryState, Outcome, judge, webhook_id

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REFUSED = Outcome(error="ConnectError")


def test_the_schedule_is_the_standards() -> None:
    assert [int(pause.total_seconds()) for pause in SCHEDULE] == [
        0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400,
    ]  # fmt: skip
    assert sum(SCHEDULE, timedelta()) == timedelta(hours=75, minutes=35, seconds=5)


@pytest.mark.parametrize("step", range(9))
def test_each_failure_waits_for_the_next_pause_with_jitter(step: int) -> None:
    for chance, factor in ((0.0, 0.9), (0.5, 1.0), (1.0, 1.1)):
        verdict = judge(REFUSED, step, now=NOW, chance=chance)
        assert verdict.state is DeliveryState.PENDING
        assert verdict.step == step + 1
        assert verdict.next_attempt_at == NOW + SCHEDULE[step + 1] * factor


def test_after_the_last_attempt_it_has_failed() -> None:
    verdict = judge(REFUSED, 9, now=NOW, chance=0.5)
    assert (verdict.state, verdict.step, verdict.next_attempt_at) == (DeliveryState.FAILED, 10, None)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (200, "DELIVERED"),
        (204, "DELIVERED"),
        (299, "DELIVERED"),
        (101, "PENDING"),
        (301, "PENDING"),
        (404, "PENDING"),
        (500, "PENDING"),
        (410, "FAILED"),
    ],
)
def test_only_2xx_is_a_success_and_410_the_end(status: int, state: str) -> None:
    assert judge(Outcome(status=status), 0, now=NOW, chance=0.5).state == state


def test_a_test_is_tried_once() -> None:
    assert judge(REFUSED, 0, now=NOW, chance=0.5, is_test=True).state is DeliveryState.FAILED


@pytest.mark.parametrize(
    ("status", "asked", "waits"),
    [
        (503, timedelta(minutes=2), timedelta(minutes=2)),
        (429, timedelta(seconds=1), timedelta(seconds=5)),
        (429, timedelta(days=30), timedelta(hours=24)),
        (500, timedelta(minutes=2), timedelta(seconds=5)),
    ],
)
def test_retry_after_makes_a_pause_longer_never_shorter(
    status: int, asked: timedelta, waits: timedelta
) -> None:
    verdict = judge(Outcome(status=status, retry_after=asked), 0, now=NOW, chance=0.5)
    assert verdict.next_attempt_at == NOW + waits


def test_the_webhook_id_has_no_full_stop() -> None:
    assert "." not in webhook_id("evt_1", "whe_2")
    assert webhook_id("evt_1", "whe_2") != webhook_id("evt_1", "whe_3")
