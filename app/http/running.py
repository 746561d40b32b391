"""Runs one operation, whichever way it came, in a context of its own that is closed whatever happens."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import strawberry
from graphql import ExecutionResult as CoreResult
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError
from strawberry.schema.schema import StreamResult
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from app.context import Context, Request, Services
from app.engine.masking import BAD_REQUEST, refusal, request_id_of, told_all
from app.http.auth import Authenticator, Caller
from app.http.exchange import Exchange
from app.http.live import Live
from app.http.metrics import Metrics
from app.http.operation import Asked
from app.http.wire import RefusedError

if TYPE_CHECKING:
    from app.http.groups import Groups

QUERY = frozenset({OperationType.QUERY})
SINGLE = frozenset({OperationType.QUERY, OperationType.MUTATION})
ALL = frozenset(OperationType)


@dataclass(frozen=True, slots=True)
class Runner:
    """What every transport needs to run operations."""

    services: Services
    schema: strawberry.Schema
    authenticator: Authenticator
    live: Live
    metrics: Metrics
    groups: "Groups"

    @asynccontextmanager
    async def context(
        self, exchange: Exchange, caller: Caller, request: Request, transport: str
    ) -> AsyncIterator[Context]:
        """One operation's reach, for the length of the block."""
        context = Context(self.services, caller.principal, request)
        self.metrics.began(transport)
        try:
            yield context
        finally:
            exchange.operations += 1
            exchange.operation = context.operation_name
            self.metrics.ended(transport, context.operation_kind)
            try:
                await context.close()
            except asyncio.CancelledError:
                # Cancelled once more: the connection goes back to its pool all the same.
                self.live.spawn(context.close())
                raise

    async def execute(
        self, context: Context, asked: Asked, allowed: Iterable[OperationType]
    ) -> ExecutionResult:
        """The one result of a query or mutation; one that is not allowed raises as Strawberry does."""
        try:
            return await self.schema.execute(
                asked.query,
                variable_values=asked.variables,
                context_value=context,
                operation_name=asked.operation_name,
                allowed_operation_types=allowed,
                operation_extensions=asked.extensions,
            )
        except CannotGetOperationTypeError as error:
            return PreExecutionError(None, [refusal(BAD_REQUEST, error.as_http_error_reason())])
        except MissingQueryError:
            raise RefusedError(400, BAD_REQUEST, "there is no `query`") from None

    async def stream(
        self, context: Context, asked: Asked, allowed: Iterable[OperationType] = ALL
    ) -> StreamResult:
        """The results of any operation, one after the other; close it when done."""
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


def body_of(result: Any, context: Context, exchange: Exchange) -> Mapping[str, object]:
    """What is sent of a result, its errors as the client may see them."""
    body: dict[str, object] = {}
    if result.errors:
        errors = told_all(result.errors, request_id_of(context))
        for error in errors:
            exchange.note_error((error.extensions or {}).get("code"))
        body["errors"] = [error.formatted for error in errors]
    if not is_request_error(result):
        body["data"] = result.data
    if result.extensions:
        body["extensions"] = result.extensions
    return body
