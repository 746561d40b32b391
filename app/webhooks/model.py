"""Webhook endpoints and deliveries: which events an endpoint wants, and what becomes of an attempt."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from app.ledger.model import Event, Kind
from app.positions.model import State

ENDPOINTS_MAX = 20
URL_LENGTH_MAX = 2_048
DESCRIPTION_LENGTH_MAX = 255
SECRETS_MAX = 5
OVERLAP_DEFAULT = timedelta(hours=24)
OVERLAP_MAX = timedelta(days=7)
REPLAY_EVENTS_MAX = 10_000
ERROR_LENGTH_MAX = 500
RESPONSE_BYTES_MAX = 500

# Standard Webhooks 1.0: the pause before each attempt, 75 hours in all.
SCHEDULE = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
# Each pause is up to this part of it longer or shorter, so that receivers are not met by waves.
JITTER = 0.1
RETRY_AFTER_MAX = timedelta(hours=24)

# An endpoint at which every attempt has failed for so long is disabled.
FAILING_MAX = timedelta(days=5)
GONE = 410
PATIENT = frozenset({429, 503})  # they may say in Retry-After when to come again


class DeliveryState(StrEnum):
    """Where a delivery is."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class DisabledReason(StrEnum):
    """Why an endpoint gets nothing."""

    ASKED = "ASKED"
    GONE = "GONE"
    FAILING = "FAILING"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events an endpoint wants; None for all kinds, or all states."""

    kinds: tuple[Kind, ...] | None = None
    states: tuple[State, ...] | None = None

    def includes(self, event: Event) -> bool:
        """Whether that event is one of them."""
        kind = self.kinds is None or event.kind in self.kinds
        return kind and (self.states is None or event.new_state in self.states)


@dataclass(frozen=True, slots=True)
class EndpointDraft:
    """An endpoint as somebody asks for it."""

    url: str
    description: str = ""
    wanted: Wanted = Wanted()
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an institution wants events sent. Events up to `starts_after` are not sent by themselves."""

    id: str
    institution_id: str
    url: str
    description: str
    wanted: Wanted
    enabled: bool
    disabled_reason: DisabledReason | None
    starts_after: int
    created_by: str
    created_at: datetime
    updated_at: datetime
    # Since when every attempt at an event has failed.
    failing_since: datetime | None = None

    @property
    def draft(self) -> EndpointDraft:
        """What can be changed of it, as it is."""
        return EndpointDraft(self.url, self.description, self.wanted, self.enabled)


@dataclass(frozen=True, slots=True)
class Secret:
    """What is told of a signing secret: since when and until when it signs, never its value."""

    id: str
    endpoint_id: str
    created_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event (or a test, which has none) on its way to one endpoint."""

    id: str
    institution_id: str
    endpoint_id: str
    event_id: str | None
    position_id: str | None
    sequence: int | None
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None
    last_status: int | None
    last_error: str | None
    last_response: str | None
    last_attempt_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def webhook_id(self) -> str:
        """What the receiver knows it by."""
        return webhook_id(self.event_id or self.id, self.endpoint_id)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt: the answer, or in `error` why there was none."""

    status: int | None = None
    error: str | None = None
    response: str | None = None
    retry_after: timedelta | None = None
    # Nothing was sent, for a reason on the sender's side: it says nothing about the endpoint.
    is_ours: bool = False

    @property
    def is_success(self) -> bool:
        """Only 2xx is; a redirect is not followed and counts as a failure."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery after an attempt."""

    state: DeliveryState
    step: int
    next_attempt_at: datetime | None


def webhook_id(subject_id: str, endpoint_id: str) -> str:
    """The `webhook-id`: the same at every attempt and replay. No full stop: it is signed between two."""
    return f"{subject_id}-{endpoint_id}"


def has_failed_too_long(failing_since: datetime | None, now: datetime) -> bool:
    """Whether an endpoint that has failed since then is disabled."""
    return failing_since is not None and now - failing_since >= FAILING_MAX


def judge(outcome: Outcome, step: int, *, now: datetime, chance: float, is_test: bool = False) -> Verdict:
    """What follows from the attempt at `step` (0, 1, 2 …); `chance` is in 0..1. A test is tried only once."""
    made = step + 1
    if outcome.is_success:
        return Verdict(DeliveryState.DELIVERED, made, None)
    if outcome.status == GONE or made >= len(SCHEDULE) or is_test:
        return Verdict(DeliveryState.FAILED, made, None)
    return Verdict(DeliveryState.PENDING, made, now + pause(made, chance, outcome))


def pause(step: int, chance: float, outcome: Outcome) -> timedelta:
    """The wait before the attempt at `step`: by the schedule, longer where the receiver asks for it."""
    planned = SCHEDULE[step] * (1 + JITTER * (2 * chance - 1))
    if outcome.retry_after is None or outcome.status not in PATIENT:
        return planned
    return max(planned, min(outcome.retry_after, RETRY_AFTER_MAX))
