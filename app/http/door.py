"""What is turned away at the door, told in the audit: whole while it is little, sampled when it is much.

So nobody can brake money by failing to log in; how many were left out is told with the next row.
"""

import asyncio
from collections import OrderedDict
from dataclasses import replace
from typing import Protocol

from app.audit.model import Action, AuditEntry, Outcome
from app.http.exchange import Exchange
from app.http.gate import neighbourhood
from app.http.metrics import Metrics
from app.kit.buckets import Buckets

# Of one address or key and one action; and of all together.
ROWS_AT_ONCE = 10
ROWS_PER_SECOND = 0.2
ALL_ROWS_AT_ONCE = 500
ALL_ROWS_PER_SECOND = 20.0
NAMES_MAX = 10_000
EVERYBODY = "*"
# When a flood is over no next row comes: then what was left out is told after this time.
SUM_UP_SECONDS = 60.0
SUMMED_UP_MAX = 100

ACTIONS = {
    "UNAUTHENTICATED": Action.AUTH_FAILED,
    "RATE_LIMITED": Action.RATE_LIMITED,
    "BAD_REQUEST": Action.VALIDATION_FAILED,
    "BAD_USER_INPUT": Action.VALIDATION_FAILED,
    "GRAPHQL_PARSE_FAILED": Action.VALIDATION_FAILED,
    "GRAPHQL_VALIDATION_FAILED": Action.VALIDATION_FAILED,
    "LIMIT_EXCEEDED": Action.VALIDATION_FAILED,
    "DOCUMENT_NOT_TRUSTED": Action.VALIDATION_FAILED,
    "PAYLOAD_TOO_LARGE": Action.VALIDATION_FAILED,
    "UNSUPPORTED_MEDIA_TYPE": Action.VALIDATION_FAILED,
}
NOBODY = "nobody"

Subject = tuple[Action, str]


class Recorder(Protocol):
    """Where rows go; it never waits."""

    def offer(self, entry: AuditEntry) -> None:
        """Have it written soon."""


class Door:
    """One per process."""

    def __init__(self, recorder: Recorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._each = Buckets(ROWS_AT_ONCE, ROWS_PER_SECOND, NAMES_MAX)
        self._all = Buckets(ALL_ROWS_AT_ONCE, ALL_ROWS_PER_SECOND, 1)
        # How many rows of whom were left out, and what the last of them would have told.
        self._left_out: OrderedDict[Subject, tuple[int, AuditEntry]] = OrderedDict()
        self._summing: asyncio.TimerHandle | None = None

    def note(self, known: Exchange, code: str) -> None:
        """Somebody was refused; what is refused further in is told by those who refuse it."""
        action = ACTIONS.get(code)
        if action is None:
            return
        self._metrics.turned_away(action)
        entry = _entry(known, action, code)
        who = known.principal.id if known.principal is not None else neighbourhood(known.client_address)
        subject = (action, who)
        now = asyncio.get_running_loop().time()
        if self._each.take(f"{action}:{who}", now) and self._all.take(EVERYBODY, now):
            count, _ = self._left_out.pop(subject, (0, None))
            self._offer(entry, count)
        else:
            self._leave_out(subject, entry)

    def _offer(self, entry: AuditEntry, left_out: int) -> None:
        if left_out:
            entry = _with_count(entry, left_out)
        self._recorder.offer(entry)

    def _leave_out(self, subject: Subject, entry: AuditEntry) -> None:
        self._metrics.left_out(subject[0])
        count, _ = self._left_out.get(subject, (0, None))
        self._left_out[subject] = (count + 1, entry)
        if len(self._left_out) > NAMES_MAX:
            self._left_out.popitem(last=False)
        if self._summing is None:
            self._summing = asyncio.get_running_loop().call_later(SUM_UP_SECONDS, self._sum_up)

    def _sum_up(self) -> None:
        """One row for each that was left out since; the others' turn comes later."""
        self._summing = None
        for _ in range(min(SUMMED_UP_MAX, len(self._left_out))):
            _, (count, entry) = self._left_out.popitem(last=False)
            # The row itself stands for one of them.
            self._offer(entry, count - 1)
        if self._left_out:
            self._summing = asyncio.get_running_loop().call_later(SUM_UP_SECONDS, self._sum_up)

    def close(self) -> None:
        """Tell what is left, within the bound."""
        if self._summing is not None:
            self._summing.cancel()
            self._sum_up()
        if self._summing is not None:
            self._summing.cancel()
            self._summing = None


def _entry(known: Exchange, action: Action, code: str) -> AuditEntry:
    principal = known.principal
    return AuditEntry(
        institution_id=principal.institution_id if principal is not None else None,
        actor_id=principal.id if principal is not None else NOBODY,
        actor_role=principal.role if principal is not None else "",
        operation=known.path,
        action=action,
        resource_type="request",
        resource_id=None,
        outcome=Outcome.FAILURE,
        code=code,
        request_id=known.request_id,
        client_address=known.client_address,
        payload={},
    )


def _with_count(entry: AuditEntry, left_out: int) -> AuditEntry:
    return replace(entry, payload={"leftOut": left_out})
