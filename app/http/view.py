"""GraphQL over HTTP, as its specification says: media types, status codes and one shape for every refusal."""

from datetime import timedelta
from time import monotonic
from typing import cast

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.schema.exceptions import InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from app.context import Context, Request
from app.engine.masking import RATE_LIMITED, ToldError
from app.http import exchange, limits, negotiation, tolls
from app.http.auth import Caller
from app.http.frames import SocketAdapter
from app.http.gate import deny
from app.http.graphiql import page
from app.http.live import RESTART
from app.http.negotiation import Wanted
from app.http.operation import Asked, posted, queried
from app.http.running import ALL, QUERY, SINGLE, Runner, body_of, cost_of, is_request_error
from app.http.socket import SocketHandler
from app.http.sse import EventStream
from app.http.tolls import Toll
from app.http.wire import GRAPHQL_TYPE, JSON_TYPE, RefusedError, answer, encode, refusal

TRANSPORT = "http"
METHODS = "GET, POST"
VARY = {"Vary": "Accept, Authorization, X-API-Key"}
READING = QUERY | {OperationType.SUBSCRIPTION}
LAST_EVENT_ID_LENGTH_MAX = 1024
SPENT_BODY_BYTES_MAX = 8_192

# Of an operation that was not executed: by the code of its first error, where that is not the client's doing.
STATUSES = {
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "OVERLOADED": 503,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    RATE_LIMITED: 429,
}


class GraphQLView(GraphQL[Context, None]):
    """`/graphql`: single answers, event streams, sockets and, for a browser, the GraphiQL page."""

    websocket_adapter_class = SocketAdapter
    graphql_transport_ws_handler_class = SocketHandler

    def __init__(self, runner: Runner) -> None:
        settings = runner.services.settings
        self.runner = runner
        super().__init__(
            runner.schema,
            graphql_ide=None,
            subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL,),
            connection_init_wait_timeout=timedelta(seconds=settings.connection_init_seconds),
            max_subscriptions_per_connection=settings.operations_per_socket_max,
            multipart_uploads_enabled=False,
            allowed_origins=settings.cors_origins,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or live through one socket."""
        if scope["type"] == "websocket":
            await self._socket(WebSocket(scope, receive, send))
            return
        request = HTTPRequest(scope, receive)
        response: ASGIApp
        media_type = JSON_TYPE
        try:
            wanted = self._wanted(request)
            media_type = wanted.errors
            response = page() if wanted.html else await self._answered(request, wanted)
        except RefusedError as refused:
            known = exchange.of(scope)
            known.note_error(refused.code)
            refused.headers = {**tolls.headers(tolls.standing(known.purse)), **refused.headers}
            response = refusal(refused, media_type)
        await response(scope, receive, send)

    def encode_json(self, data: object) -> str:
        """For whatever Strawberry itself encodes; text, so that sockets get text frames."""
        return encode(data).decode()

    async def _socket(self, socket: WebSocket) -> None:
        if self.runner.live.draining:
            # Accepted first: clients know what 1012 means, a refused handshake only looks broken.
            await socket.accept(await self.pick_websocket_subprotocol(socket))
            await socket.close(RESTART, "the server restarts")
            return
        known, crowd = exchange.of(socket.scope), self.runner.live.crowd
        try:
            crowd.enter_address(known.client_address)
        except RefusedError as refused:
            known.note_error(refused.code)
            await deny(socket, refused)
            return
        try:
            # A context is made for each operation; Strawberry would share one among all of a socket's.
            await self.run(socket, context=cast("Context", None))
        finally:
            crowd.leave_address(known.client_address)

    def _wanted(self, request: HTTPRequest) -> Wanted:
        if request.method not in {"GET", "POST"}:
            raise RefusedError(405, "METHOD_NOT_ALLOWED", "use GET or POST", {"Allow": METHODS})
        return negotiation.wanted(request.headers, page=request.method == "GET")

    async def _answered(self, request: HTTPRequest, wanted: Wanted) -> ASGIApp:
        known = exchange.of(request.scope)
        # Before the body is read: nobody unknown makes us hold a megabyte.
        caller = await self.runner.known(known, known.secret)
        self._refuse_large(request, caller)
        asked = queried(request) if request.method == "GET" else await posted(request)
        if wanted.json is None or wanted.events_first:
            return self._stream(request, caller, asked)
        try:
            return await self._single(request, caller, asked, wanted.json)
        except InvalidOperationTypeError as error:
            if error.operation_type is OperationType.MUTATION:
                words = "mutations are sent with POST"
                raise RefusedError(405, "METHOD_NOT_ALLOWED", words, {"Allow": "POST"}) from None
        if not wanted.events:
            words = "a subscription needs Accept: text/event-stream, or a WebSocket"
            raise RefusedError(406, "NOT_ACCEPTABLE", words)
        return self._stream(request, caller, asked)

    async def _single(self, request: HTTPRequest, caller: Caller, asked: Asked, media_type: str) -> Response:
        known = exchange.of(request.scope)
        allowed = QUERY if request.method == "GET" else SINGLE
        async with self.runner.context(known, caller, _request(request), TRANSPORT) as context:
            result = await self.runner.execute(context, asked, allowed)
            body = body_of(result, context, known)
            cost = cost_of(result, context, known)
        standing = tolls.standing(known.purse)
        if cost is not None:
            body["extensions"] = {"cost": cost.told(standing)}
        headers = {**VARY, **tolls.headers(standing), **_retry_after(result)}
        return answer(body, status=_status(result, media_type), media_type=media_type, headers=headers)

    def _refuse_large(self, request: HTTPRequest, caller: Caller) -> None:
        """Whoever has nothing left to spend is not read at length; a small body may ask to revoke a key."""
        purse = exchange.of(request.scope).purse
        if purse is None or request.method == "GET" or not purse.is_spent(monotonic()):
            return
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length[:20]) > SPENT_BODY_BYTES_MAX:
            raise _refused(Toll(self.runner.tolls, caller.principal, purse).spent())

    def _stream(self, request: HTTPRequest, caller: Caller, asked: Asked) -> EventStream:
        if self.runner.live.draining:
            raise RefusedError(503, "UNAVAILABLE", "the server restarts", {"Retry-After": "2"})
        allowed = READING if request.method == "GET" else ALL
        known = exchange.of(request.scope)
        return EventStream(self.runner, known, caller, asked, _request(request), allowed)


def _request(request: HTTPRequest) -> Request:
    known = exchange.of(request.scope)
    last_event_id = request.headers.get("last-event-id") or None
    if last_event_id is not None and len(last_event_id) > LAST_EVENT_ID_LENGTH_MAX:
        raise RefusedError(400, "CURSOR_INVALID", "Last-Event-ID is too long to be a cursor of ours")
    return Request(
        id=known.request_id,
        client_address=known.client_address,
        idempotency_key=limits.idempotency_key(request.headers),
        last_event_id=last_event_id,
    )


def _status(result: ExecutionResult, media_type: str) -> int:
    if not is_request_error(result):
        return 200
    errors = result.errors or []
    code = (errors[0].extensions or {}).get("code") if errors else None
    status = STATUSES.get(str(code), 400)
    # application/json cannot tell a GraphQL answer from a proxy's: there 200 says "this is one".
    return 200 if status == 400 and media_type != GRAPHQL_TYPE else status


def _retry_after(result: ExecutionResult) -> dict[str, str]:
    """When to come back, for whoever is refused only for now."""
    extensions = (
        result.errors[0].extensions if isinstance(result, PreExecutionError) and result.errors else None
    )
    seconds = (extensions or {}).get("retryAfter")
    return {} if seconds is None else {"Retry-After": str(seconds)}


def _refused(error: ToldError) -> RefusedError:
    """The same refusal, of a request that is not even read."""
    extensions = dict(error.extensions or {})
    code, seconds = str(extensions.pop("code")), extensions["retryAfter"]
    return RefusedError(STATUSES[code], code, error.message, {"Retry-After": str(seconds)}, **extensions)
