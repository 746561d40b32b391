"""The audit as lines of JSON, oldest first, read in pages: nobody holds much of it, or a transaction for long."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from app.audit import service
from app.audit.model import AuditEvent
from app.kit.canonical import EPOCH, MICROSECOND, Json, canonical_json
from app.storage.conditions import Condition
from app.storage.database import Database
from app.storage.paging import PageRequest

PAGE_SIZE = 500


@dataclass(frozen=True, slots=True)
class Span:
    """What is wanted: from the first instant on, before the second; of one institution, or of all that may be seen."""

    start: datetime | None
    end: datetime
    institution_id: str | None = None

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The same as tests of a list."""
        tests = [Condition("occurred_at", "lte", max(self.end, EPOCH) - MICROSECOND)]
        if self.start is not None:
            tests.append(Condition("occurred_at", "gte", self.start))
        if self.institution_id is not None:
            tests.append(Condition("institution_id", "eq", self.institution_id))
        return tuple(tests)


async def pages(database: Database, scope: str, span: Span) -> AsyncIterator[Sequence[AuditEvent]]:
    """Every audit event of the span that `scope` sees, in pages, each read in a transaction of its own."""
    request, conditions = PageRequest(PAGE_SIZE), span.conditions
    while True:
        async with database.reading(scope) as connection:
            page = await service.page(connection, scope, request, conditions, newest_first=False)
        if page.rows:
            yield [event for _cursor, event in page.rows]
            request = replace(request, after=page.end)
        if not page.has_next:
            return


def line(event: AuditEvent) -> bytes:
    """One line: RFC 8785 JSON with the names that GraphQL has."""
    told: dict[str, Json] = {
        "id": event.id,
        "occurredAt": event.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "institutionId": event.institution_id,
        "actorId": event.actor_id,
        "actorRole": event.actor_role or None,
        "operation": event.operation or None,
        "action": event.action,
        "resourceType": event.resource_type,
        "resourceId": event.resource_id,
        "outcome": event.outcome,
        "code": event.code,
        "requestId": event.request_id,
        "clientAddress": event.client_address,
        "payload": event.payload,
    }
    return canonical_json(told).encode() + b"\n"
