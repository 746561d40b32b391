"""Sends a range of the ledger once more: deliveries that are there begin anew, missing ones are made."""

from dataclasses import dataclass

from app.audit import service as audit
from app.audit.model import Action
from app.audit.service import Work
from app.errors import Invalid, NotFound
from app.kit.canonical import Json
from app.ledger import service as ledger
from app.ledger.cursors import Epochs
from app.ledger.model import Event
from app.principal import ALL_INSTITUTIONS
from app.storage.conditions import Condition
from app.storage.paging import PageRequest
from app.webhooks import service, store
from app.webhooks.model import REPLAY_EVENTS_MAX, Endpoint
from app.webhooks.queue import Addition

PAGE_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Range:
    """A part of the ledger without its ends: by sequences of the institution, or by ledger cursors."""

    after_sequence: int | None = None
    before_sequence: int | None = None
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many deliveries began anew. With `is_more`, the range goes on behind `through_sequence`."""

    endpoint: Endpoint
    deliveries: int
    through_sequence: int | None
    is_more: bool


async def replay(
    work: Work,
    institution_id: str,
    endpoint_id: str,
    wanted: Range,
    *,
    epochs: Epochs,
    scope: str,
    undelivered_only: bool,
) -> Replayed:
    """Send what an endpoint wants of that range again, under the same webhook-ids and in order.

    At most REPLAY_EVENTS_MAX events at once. `scope` is whose cursors the range may be given by.
    """
    endpoint = await service.fetch_endpoint(work.connection, institution_id, endpoint_id)
    if endpoint is None:
        raise NotFound("webhook endpoint", "id")
    service.require_enabled(endpoint)
    head = (await ledger.head(work.connection, institution_id, epochs)).sequence
    place = _Place.of(wanted, institution_id, scope, epochs, head)
    additions, is_more = await _additions(work, endpoint, place, epochs)
    # Locked only now: while a long range was read, deliveries went on.
    service.require_enabled(await service.locked(work, institution_id, endpoint_id))
    count = await store.replay(
        work.connection, institution_id, additions, work.now, undelivered_only=undelivered_only
    )
    through = additions[-1].sequence if additions else None
    payload: dict[str, Json] = {"deliveries": count, "throughSequence": through}
    await audit.record(
        work,
        action=Action.WEBHOOKS_REPLAYED,
        resource_type="webhookEndpoint",
        resource_id=endpoint_id,
        institution_id=institution_id,
        payload=payload,
    )
    return Replayed(endpoint, count, through, is_more)


@dataclass(frozen=True, slots=True)
class _Place:
    """A range as the ledger pages through it: cursors of `scope`."""

    scope: str
    after: str | None
    before: str | None
    before_sequence: int | None = None

    @classmethod
    def of(cls, wanted: Range, institution_id: str, scope: str, epochs: Epochs, head: int) -> "_Place":
        by_sequence = (wanted.after_sequence, wanted.before_sequence) != (None, None)
        if by_sequence and (wanted.after, wanted.before) != (None, None):
            raise Invalid("give the range either by sequences or by cursors", "afterSequence")
        if not by_sequence:
            return cls(scope, wanted.after, wanted.before)
        for name, number in (
            ("afterSequence", wanted.after_sequence),
            ("beforeSequence", wanted.before_sequence),
        ):
            if number is not None and number < 0:
                raise Invalid("sequences start at 1", name)
        if (wanted.after_sequence or 0) > head:
            raise Invalid(f"the ledger ends at {head}", "afterSequence")
        after = epochs.cursor(institution_id, wanted.after_sequence or 0)
        # The end is not a cursor: it may well be beyond the end of the ledger.
        return cls(institution_id, after, None, wanted.before_sequence)

    def includes(self, event: Event) -> bool:
        """Whether it is ahead of the end that cannot be told by a cursor."""
        return self.before_sequence is None or event.sequence < self.before_sequence


async def _additions(
    work: Work, endpoint: Endpoint, place: _Place, epochs: Epochs
) -> tuple[list[Addition], bool]:
    """What the endpoint wants of the range, in order, and whether that is more than can be replayed at once."""
    tests = _tests(endpoint, place.scope)
    found: list[Addition] = []
    after = place.after
    while True:
        size = min(PAGE_SIZE, REPLAY_EVENTS_MAX + 1 - len(found))
        request = PageRequest(size, after=after, before=place.before)
        page = await ledger.events(work.connection, place.scope, epochs, tests, request, descending=False)
        inside = [event for _cursor, event in page.rows if place.includes(event)]
        found += [_addition(work, endpoint, event) for event in inside]
        if len(found) > REPLAY_EVENTS_MAX:
            return found[:REPLAY_EVENTS_MAX], True
        if len(inside) < size:
            return found, False
        after = page.end


def _addition(work: Work, endpoint: Endpoint, event: Event) -> Addition:
    return Addition(
        institution_id=endpoint.institution_id,
        id=work.ids.new("whd"),
        endpoint_id=endpoint.id,
        event_id=event.id,
        position_id=event.position_id,
        sequence=event.sequence,
    )


def _tests(endpoint: Endpoint, scope: str) -> tuple[Condition, ...]:
    tests = []
    if scope == ALL_INSTITUTIONS:
        tests.append(Condition("institution_id", "eq", endpoint.institution_id))
    if endpoint.wanted.kinds is not None:
        tests.append(Condition("kind", "in", endpoint.wanted.kinds))
    if endpoint.wanted.states is not None:
        tests.append(Condition("new_state", "in", endpoint.wanted.states))
    return tuple(tests)
