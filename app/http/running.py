"""Runs one operation, whichever way it came, in a context of its own that is closed whatever happens."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import strawberry
from graphql import ExecutionResult as CoreResult
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.schema.schema import StreamResult
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from app.context import Context, Request, Services
from app.engine.masking import BAD_REQUEST, INTERNAL, ToldError, refusal, request_id_of, told_all
from app.http import journal, traces
from app.http.auth import Authenticator, Caller, caller_of
from app.http.exchange import ERROR_CODES_MAX, Exchange, Ran
from app.http.gate import Doorman
from app.http.library import Library
from app.http.live import Live
from app.http.metrics import Metrics
from app.http.operation import Asked
from app.http.tolls import Cost, Toll, Tolls
from app.http.wire import RefusedError

if TYPE_CHECKING:
    from app.http.groups import Groups

QUERY = frozenset({OperationType.QUERY})
SINGLE = frozenset({OperationType.QUERY, OperationType.MUTATION})
ALL = frozenset(OperationType)
UNAUTHENTICATED = 401
SOCKET = "websocket"


@dataclass(frozen=True, slots=True)
class Runner:
    """What every transport needs to run operations."""

    services: Services
    schema: strawberry.Schema
    authenticator: Authenticator
    live: Live
    metrics: Metrics
    groups: "Groups"
    doorman: Doorman
    tolls: Tolls
    library: Library

    @asynccontextmanager
    async def context(
        self, exchange: Exchange, caller: Caller, request: Request, transport: str
    ) -> AsyncIterator[Context]:
        """One operation's reach, for the length of the block."""
        context = Context(self.services, caller.principal, request)
        toll = context.toll = Toll(self.tolls, caller.principal, exchange.purse)
        self.metrics.began(transport)
        began = monotonic()
        if (tracer := self.services.tracer) is not None:
            context.meter.span = tracer.begin(transport, served=True, carried=exchange.carried)
        try:
            yield context
        except Exception:
            context.failures.append(INTERNAL)
            raise
        finally:
            self._tell(context, exchange, transport, monotonic() - began)
            if context.bill is None:
                toll.leave()
            self.metrics.ended(transport, context.operation_kind)
            try:
                await context.close()
            except asyncio.CancelledError:
                # Cancelled once more: the connection goes back to its pool all the same.
                self.live.spawn(context.close())
                raise

    def _tell(self, context: Context, exchange: Exchange, transport: str, seconds: float) -> None:
        """An operation is over: for the log, and for whoever traces it."""
        span = context.meter.span
        ran = Ran(
            context.operation_kind,
            context.operation_name,
            context.document_hash,
            context.cost,
            context.meter.rows,
            context.refusals,
            context.failures,
            context.request.id,
            None if span is None else span.trace_id,
        )
        exchange.operations += 1
        exchange.operation = ran.name
        exchange.rows += ran.rows
        if transport == SOCKET:
            journal.tell_operation(exchange, ran, seconds)
        else:
            exchange.ran = ran
        if span is not None:
            traces.finish(span, ran, transport, exchange.principal)

    async def known(self, exchange: Exchange, secret: str | None) -> Caller:
        """Whose key it is; refuses as `caller_of` does, and the doorman remembers either way."""
        try:
            caller = await caller_of(self.authenticator, secret)
        except RefusedError as refused:
            if refused.status == UNAUTHENTICATED:
                self.doorman.turn_away(exchange, secret)
            raise
        self.doorman.welcome(exchange, caller.secret)
        exchange.principal = caller.principal
        exchange.purse = self.tolls.purse(caller.principal)
        return caller

    async def admitted(self, context: Context, asked: Asked) -> Asked | ToldError:
        """What is to run, with its text; or why nothing is, found out before anything is parsed."""
        meant = await self.library.meant(asked)
        if isinstance(meant, ToldError) or not isinstance(context.toll, Toll):
            return meant
        # A trusted document is known already: nobody has to pay for its being looked at.
        refused = await context.toll.enter(asked.query) if asked.query else None
        return meant if refused is None else refused

    async def execute(
        self, context: Context, asked: Asked, allowed: Iterable[OperationType]
    ) -> ExecutionResult:
        """The one result of a query or mutation; one that is not allowed raises as Strawberry does."""
        admitted = await self.admitted(context, asked)
        if isinstance(admitted, ToldError):
            return PreExecutionError(None, [admitted])
        context.freshness = asked.freshness
        try:
            return await self.schema.execute(
                admitted.query,
                variable_values=asked.variables,
                context_value=context,
                operation_name=asked.operation_name,
                allowed_operation_types=allowed,
                operation_extensions=asked.extensions,
            )
        except InvalidOperationTypeError:
            if isinstance(context.toll, Toll):
                context.toll.pass_on()
            raise
        except CannotGetOperationTypeError as error:
            return PreExecutionError(None, [refusal(BAD_REQUEST, error.as_http_error_reason())])
        except MissingQueryError:
            raise RefusedError(400, BAD_REQUEST, "there is no `query`") from None

    async def stream(
        self, context: Context, asked: Asked, allowed: Iterable[OperationType] = ALL
    ) -> StreamResult:
        """The results of any operation that was admitted, one after the other; close it when done."""
        return await self.schema.stream(
            asked.query,
            variable_values=asked.variables,
            context_value=context,
            operation_name=asked.operation_name,
            operation_extensions=asked.extensions,
            allowed_operation_types=allowed,
        )


def is_request_error(result: object) -> bool:
    """Whether nothing was executed at all: such an answer has no `data` entry."""
    if isinstance(result, PreExecutionError):
        return True
    if not isinstance(result, (ExecutionResult, CoreResult)):
        return False
    return (
        result.data is None
        and bool(result.errors)
        and all(error.path is None for error in result.errors or ())
    )


def body_of(result: Any, context: Context, exchange: Exchange) -> dict[str, object]:
    """What is sent of a result, its errors as the client may see them."""
    body: dict[str, object] = {}
    if result.errors:
        errors = told_all(result.errors, request_id_of(context))
        for error in errors:
            code = (error.extensions or {}).get("code")
            exchange.note_error(code)
            if len(context.failures) < ERROR_CODES_MAX:
                context.failures.append(str(code))
        body["errors"] = [error.formatted for error in errors]
    if not is_request_error(result):
        body["data"] = result.data
    return body


def cost_of(result: Any, context: Context, exchange: Exchange) -> Cost | None:
    """What a result was charged and what it came to; None for what was refused before that was estimated."""
    bill = context.bill
    if bill is None:
        return None
    requested = bill.estimate.requested
    if result.data is None:
        actual = 0 if is_request_error(result) else requested
    else:
        actual = min(max(bill.estimate.reckoning.of(result.data), 1), requested)
    cost = Cost(requested, actual)
    # A stream is paid for once, whatever it tells.
    context.cost = requested
    if bill.kind != OperationType.SUBSCRIPTION.value:
        context.cost = actual
        exchange.cost = (exchange.cost or 0) + actual
        # Errors hide what was read on the way to them: nothing is given back.
        if isinstance(context.toll, Toll) and not result.errors:
            context.toll.settle(cost)
    return cost
