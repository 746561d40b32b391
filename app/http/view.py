"""GraphQL over HTTP, as its specification says: media types, status codes and one shape for every refusal."""

from datetime import timedelta
from typing import cast

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.schema.exceptions import InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.graphql import OperationType

from app.context import Context, Request
from app.http import exchange, limits, negotiation
from app.http.auth import Caller, caller_of, secret_of
from app.http.frames import SocketAdapter
from app.http.graphiql import page
from app.http.live import RESTART
from app.http.negotiation import Wanted
from app.http.operation import Asked, posted, queried
from app.http.running import ALL, QUERY, SINGLE, Runner, body_of, is_request_error
from app.http.socket import SocketHandler
from app.http.sse import EventStream
from app.http.wire import GRAPHQL_TYPE, JSON_TYPE, RefusedError, answer, encode, refusal

TRANSPORT = "http"
METHODS = "GET, POST"
VARY = {"Vary": "Accept, Authorization, X-API-Key"}
READING = QUERY | {OperationType.SUBSCRIPTION}
LAST_EVENT_ID_LENGTH_MAX = 1024

# Of an operation that was not executed: by the code of its first error, where that is not the client's doing.
STATUSES = {"INTERNAL": 500, "UNAVAILABLE": 503, "OVERLOADED": 503, "UNAUTHENTICATED": 401, "FORBIDDEN": 403}


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
            exchange.of(scope).note_error(refused.code)
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
        # A context is made for each operation; Strawberry would share one among all of a socket's.
        await self.run(socket, context=cast("Context", None))

    def _wanted(self, request: HTTPRequest) -> Wanted:
        if request.method not in {"GET", "POST"}:
            raise RefusedError(405, "METHOD_NOT_ALLOWED", "use GET or POST", {"Allow": METHODS})
        return negotiation.wanted(request.headers, page=request.method == "GET")

    async def _answered(self, request: HTTPRequest, wanted: Wanted) -> ASGIApp:
        known = exchange.of(request.scope)
        # Before the body is read: nobody unknown makes us hold a megabyte.
        caller = await caller_of(self.runner.authenticator, secret_of(request.headers))
        known.principal = caller.principal
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
        return answer(body, status=_status(result, media_type), media_type=media_type, headers=VARY)

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
