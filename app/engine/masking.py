"""What a client is told of an error: refusals in words and a code, of the unexpected only where to ask."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import strawberry
from graphql import ExecutionResult as CoreResult
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.exceptions import MissingQueryError, StrawberryInputCoercionError
from strawberry.extensions import SchemaExtension
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import ExecutionContext, ExecutionResult
from strawberry.types.execution import StreamExecutionResult

from app.engine.hooks import HooksRunner
from app.errors import AppError, Refusal
from app.kit.cursor import BadCursor

log = logging.getLogger("escrowgrid.graphql")

PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
BAD_USER_INPUT = "BAD_USER_INPUT"
BAD_REQUEST = "BAD_REQUEST"
LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
CURSOR_INVALID = "CURSOR_INVALID"
RATE_LIMITED = "RATE_LIMITED"
DOCUMENT_NOT_TRUSTED = "DOCUMENT_NOT_TRUSTED"
INTERNAL = "INTERNAL"

# How graphql-core begins what it says about the value of a variable or an argument.
INPUT_WORDS = (
    "Variable '$",
    "Argument '",
    "Too many errors processing variables",
    "Variable values are nested too deeply",
)
# What it calls a number with a fraction, which we read exactly.
DECIMAL_WORDS = "<Decimal instance>"
# What its parser says when one of its limits is passed.
PARSER_LIMIT_WORDS = ("contains more than", "nested too deeply")


class ToldError(GraphQLError):
    """An error as the client may see it; its extensions hold a code."""


def refusal(code: str, message: str, **extensions: object) -> ToldError:
    """An error of ours that belongs to no place in the document."""
    return ToldError(message, extensions={"code": code, **extensions})


def restated(error: GraphQLError, code: str, message: str | None = None, **extensions: object) -> ToldError:
    """The same place in the document and in the answer, with a code and perhaps other words."""
    said = error.message if message is None else message
    found = {"code": code, **extensions}
    return ToldError(said, error.nodes, error.source, error.positions, error.path, extensions=found)


def told(error: GraphQLError, request_id: str = "") -> ToldError:
    """`error` as the client may see it; what is unexpected is logged whole and leaves only the request id."""
    if isinstance(error, ToldError):
        return error
    origin = _origin(error)
    match origin:
        case Refusal():
            field = {} if origin.field is None else {"field": origin.field}
            found = restated(error, str(origin.code), origin.message, **field, **origin.extensions)
        case AppError():
            found = restated(error, origin.code, origin.message, **origin.extensions)
        case BadCursor():
            found = restated(error, CURSOR_INVALID, str(origin))
        case GraphQLSyntaxError():
            found = restated(error, _syntax_code(error))
        case CannotGetOperationTypeError() | InvalidOperationTypeError():
            found = restated(error, BAD_REQUEST)
        case MissingQueryError():
            found = restated(error, BAD_REQUEST, "there is no `query`")
        case StrawberryInputCoercionError():
            found = restated(error, BAD_USER_INPUT, origin.message)
        case _ if _about_input(error):
            found = restated(error, BAD_USER_INPUT, error.message.replace(DECIMAL_WORDS, "a fraction"))
        case _:
            place = error.path or "the operation"
            log.error("request %s: unexpected error at %s", request_id, place, exc_info=origin)
            words = f"something went wrong on our side; request id {request_id}"
            found = restated(error, INTERNAL, words, requestId=request_id)
    return found


def told_all(errors: Sequence[GraphQLError], request_id: str) -> list[GraphQLError]:
    """Every error as the client may see it."""
    return [told(error, request_id) for error in errors]


def request_id_of(context: Any) -> str:
    """The request id of an operation's context; empty outside of a request."""
    return str(getattr(getattr(context, "request", None), "id", ""))


def _origin(error: GraphQLError) -> Exception:
    found: Exception = error
    while isinstance(found, GraphQLError) and found.original_error is not None:
        found = found.original_error
    return found


def _about_input(error: GraphQLError) -> bool:
    # With a path, the outer error repeats what a resolver raised: graphql-core's own words are inside.
    said = error if error.path is None else error.original_error
    return isinstance(said, GraphQLError) and said.message.startswith(INPUT_WORDS)


def _syntax_code(error: GraphQLError) -> str:
    return LIMIT_EXCEEDED if any(words in error.message for words in PARSER_LIMIT_WORDS) else PARSE_FAILED


class Masking(SchemaExtension):
    """Puts told errors into every result: of queries, of mutations and of each event of a subscription."""

    def on_operation(self) -> Iterator[None]:
        """Queries and mutations: once, when the operation is over."""
        yield
        self._mask(self.execution_context.result)

    def on_stream_result(self, result: StreamExecutionResult) -> Iterator[None]:
        """Streams: each result before it is sent."""
        self._mask(result)
        yield

    def _mask(self, result: object) -> None:
        if isinstance(result, (CoreResult, ExecutionResult)) and result.errors:
            result.errors = told_all(result.errors, request_id_of(self.execution_context.context))


class Schema(strawberry.Schema):
    """A schema that leaves logging to `told`: refusals are no news, and the unexpected is logged once."""

    def process_errors(
        self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None
    ) -> None:
        """Nothing: Strawberry's own would log the caller's mistakes with their tracebacks."""

    def create_extensions_runner(
        self, execution_context: ExecutionContext, extensions: list[SchemaExtension]
    ) -> HooksRunner:
        """One that knows its hooks already."""
        return HooksRunner(execution_context, extensions)
