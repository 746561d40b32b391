"""`/audit.ndjson`: the audit of whoever may read it, as a stream of lines."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from time import monotonic

from graphql import GraphQLError
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from app.audit import export
from app.audit.export import Span
from app.context import Context, Request
from app.engine.masking import RATE_LIMITED
from app.engine.scalars import parse_time
from app.errors import Forbidden
from app.http import exchange
from app.http.auth import Caller
from app.http.exchange import Exchange
from app.http.running import Runner
from app.http.tolls import Toll
from app.http.wire import RefusedError, refusal
from app.kit.ids import is_id
from app.principal import Scope, lack_of

PATH = "/audit.ndjson"
PARAMETERS = frozenset({"from", "to", "institution"})
# Together, so that nobody's export keeps those waiting who ask for little.
PAGES_AT_ONCE = 2
GONE_SECONDS = 0.2
HEADERS = {
    "Content-Type": "application/x-ndjson; charset=utf-8",
    "Content-Disposition": 'attachment; filename="audit.ndjson"',
    "Cache-Control": "no-store",
    "Vary": "Authorization, X-API-Key",
}


class Export:
    """One per process."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._turns = asyncio.Semaphore(PAGES_AT_ONCE)

    async def __call__(self, request: HTTPRequest) -> Response:
        """Answer with a stream, or why not."""
        known = exchange.of(request.scope)
        try:
            caller = await self._runner.known(known, known.secret)
            self._check(known, caller)
            span = _span(request, self._runner.services.clock())
        except RefusedError as refused:
            known.note_error(refused.code)
            return refusal(refused)
        return StreamingResponse(self._lines(known, caller, span), headers=HEADERS)

    def _check(self, known: Exchange, caller: Caller) -> None:
        principal = caller.principal
        if not principal.may(Scope.AUDIT_READ):
            context = Context(
                self._runner.services, principal, Request(known.request_id, known.client_address)
            )
            context.note_forbidden(PATH)
            words = lack_of(Scope.AUDIT_READ)
            raise RefusedError(403, Forbidden.code, words)
        purse = known.purse
        if purse is not None and purse.is_spent(monotonic()):
            error = Toll(self._runner.tolls, principal, purse).spent()
            seconds = str((error.extensions or {})["retryAfter"])
            raise RefusedError(429, RATE_LIMITED, error.message, {"Retry-After": seconds})

    async def _lines(self, known: Exchange, caller: Caller, span: Span) -> AsyncIterator[bytes]:
        """A chunk for each page, as long as the key is still the same; each row is paid for when it is sent."""
        pages = export.pages(self._runner.services.database, caller.principal.tenant, span)
        while True:
            async with self._turns:
                page = await anext(pages, None)
            if page is None:
                return
            if await self._runner.authenticator.authenticate(caller.secret) != caller.principal:
                known.note_error("UNAUTHENTICATED")
                await _break_off(known)
                return
            if known.purse is not None:
                known.purse.debit(len(page))
            yield b"".join(map(export.line, page))


async def _break_off(known: Exchange) -> None:
    """Drop the connection, so that nobody takes what was sent for the whole."""
    if known.abort is None:
        raise ConnectionAbortedError("the key is no longer valid")
    known.abort()
    # It is known to be gone a moment later; until then the server would complain.
    await asyncio.sleep(GONE_SECONDS)


def route(runner: Runner) -> Route:
    """`GET /audit.ndjson?from=…&to=…&institution=…`."""
    return Route(PATH, Export(runner).__call__, methods=["GET"])


def _span(request: HTTPRequest, until: datetime) -> Span:
    given = request.query_params
    if not PARAMETERS.issuperset(given) or len(given.multi_items()) != len(given):
        raise RefusedError(
            400, "BAD_REQUEST", "the parameters are from, to and institution, each at most once"
        )
    start, end = (_moment(given.get(name), name) for name in ("from", "to"))
    institution = given.get("institution")
    if institution is not None and not is_id(institution, "inst"):
        raise RefusedError(400, "BAD_REQUEST", "`institution`: that is not the id of an institution (inst_…)")
    if start and end and start > end:
        raise RefusedError(400, "BAD_REQUEST", "`from` comes after `to`")
    # What is asked for up to now is not chased while it grows.
    return Span(start, end or until, institution)


def _moment(text: str | None, name: str) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except GraphQLError as error:
        raise RefusedError(400, "BAD_REQUEST", f"`{name}`: {error.message}") from None
