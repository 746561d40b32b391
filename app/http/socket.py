"""GraphQL over WebSocket: the graphql-transport-ws protocol, one context an operation, nobody without a key.

A socket says who it is in connection_init (or in the headers of its handshake). Without a valid key it is
closed with 4403 right there, so that no socket stays open that nobody answers for; whoever subscribes before
the acknowledgement gets 4401, as the protocol says.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING

import orjson
import strawberry
from strawberry.http.exceptions import WebSocketDisconnected
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import (
    BaseGraphQLTransportWSHandler,
    Operation,
)
from strawberry.utils.aio import aclosing

from app.context import Context, Request
from app.engine.masking import INTERNAL, LIMIT_EXCEEDED, refusal
from app.errors import AppError
from app.http import exchange, frames
from app.http.auth import Caller, secret_in
from app.http.frames import BadFrameError, Complete, Init, Ping, Pong, SocketAdapter, Subscribe
from app.http.live import TRY_LATER, UNAUTHORISED, Connection, reason, within
from app.http.operation import Asked
from app.http.running import SOCKET, Runner
from app.http.told import Told
from app.http.wire import RefusedError

if TYPE_CHECKING:
    from app.http.view import GraphQLView

log = logging.getLogger("escrowgrid.live")

TRANSPORT = SOCKET
BAD_MESSAGE = 4400
NOT_YET = 4401
DUPLICATE_ID = 4409
TWICE_INITIALISED = 4429


class SocketOperation(Operation[Context, None]):
    """One operation of a socket, and its context while it runs."""

    __slots__ = ("asked", "context", "cursor", "spelled_id")

    def __init__(self, handler: "SocketHandler", id: str, asked: Asked) -> None:
        super().__init__(handler, id, asked.query or "", asked.variables, asked.operation_name)
        self.asked = asked
        self.context: Context | None = None
        # Where the last message stands that was sent: what was made and not sent is sent again after a resume.
        self.cursor: str | None = None
        self.spelled_id = orjson.dumps(id).decode()


class SocketHandler(BaseGraphQLTransportWSHandler[Context, None], Connection):
    """One socket."""

    transport = TRANSPORT
    websocket: SocketAdapter

    def __init__(
        self,
        view: "GraphQLView",
        websocket: SocketAdapter,
        context: Context,
        root_value: None,
        schema: strawberry.Schema,
        connection_init_wait_timeout: timedelta,
        max_subscriptions_per_connection: int | None = None,
    ) -> None:
        super().__init__(
            view,
            websocket,
            context,
            root_value,
            schema,
            connection_init_wait_timeout,
            max_subscriptions_per_connection,
        )
        self.runner: Runner = view.runner
        Connection.__init__(self, exchange.of(websocket.ws.scope), self.runner.live.pace)
        self._numbers = count(1)
        self._quiet_since = monotonic()
        self._awaiting_pong = False

    async def handle(self) -> None:
        """The life of the socket."""
        async with self.runner.live.holding(self):
            await super().handle()

    async def handle_message(self, message: object) -> None:
        """One frame, in the order they came."""
        self._awaiting_pong = False
        try:
            frame = frames.parse(message)
        except BadFrameError as error:
            await self.handle_invalid_message(str(error))
            return
        match frame:
            case Init():
                await self._init(frame)
            case Ping():
                echo = {} if frame.payload is None else {"payload": frame.payload}
                await self._send({"type": "pong", **echo})
            case Subscribe():
                await self._subscribe(frame)
            case Complete():
                await self.cleanup_operation(frame.id)
            case Pong():
                pass

    async def handle_invalid_message(self, error_message: str) -> None:
        """A client that does not speak the protocol."""
        await self._close(BAD_MESSAGE, error_message)

    async def _init(self, frame: Init) -> None:
        if self.connection_timed_out:
            return
        if self.connection_init_received:
            await self._close(TWICE_INITIALISED, "Too many initialisation requests")
            return
        self.connection_init_received = True
        if self.connection_init_timeout_task is not None:
            self.connection_init_timeout_task.cancel()
        secret = secret_in(frame.payload) or self.exchange.secret
        try:
            caller = await self.runner.known(self.exchange, secret)
            self.runner.live.crowd.enter_key(caller.principal)
            self.counted = caller.principal
        except RefusedError as refused:
            self.exchange.note_error(refused.code)
            code = UNAUTHORISED if refused.status == 401 else TRY_LATER
            await self._close(code, refused.message)
            return
        self.exchange.principal = caller.principal
        await self._send({"type": "connection_ack"})
        self.connection_acknowledged = True
        self.confirmed_at = self._quiet_since = monotonic()
        self.caller = caller

    async def _subscribe(self, frame: Subscribe) -> None:
        if not self.connection_acknowledged:
            await self._close(NOT_YET, "Unauthorized")
            return
        if frame.id in self.operations:
            await self._close(DUPLICATE_ID, f"Subscriber for {frame.id} already exists")
            return
        most = self.max_subscriptions_per_connection
        if most is not None and len(self.operations) >= most:
            words = f"this socket has {most} operations open; close one first"
            error = refusal(LIMIT_EXCEEDED, words, limit="operations_per_socket_max", max=most)
            self.exchange.note_error(LIMIT_EXCEEDED)
            await self._send({"id": frame.id, "type": "error", "payload": [error.formatted]})
            return
        operation = SocketOperation(self, frame.id, frame.asked)
        self.operations[frame.id] = operation
        operation.task = asyncio.create_task(self.run_operation(operation))

    async def run_operation(self, operation: Operation[Context, None]) -> None:
        """The whole of one operation; what goes wrong in it ends it alone."""
        assert isinstance(operation, SocketOperation), "this handler makes its operations itself"
        request = Request(
            id=f"{self.exchange.request_id}.{next(self._numbers)}",
            client_address=self.exchange.client_address,
        )
        try:
            await self._run(operation, request)
        except WebSocketDisconnected:
            pass
        except Exception:
            log.exception("request %s: unexpected error", request.id)
            self.exchange.note_error(INTERNAL)
            words = f"something went wrong on our side; request id {request.id}"
            error = refusal(INTERNAL, words, requestId=request.id)
            with suppress(WebSocketDisconnected):
                await operation.send_initial_errors([error])
        finally:
            self.forget(operation)

    async def _run(self, operation: SocketOperation, request: Request) -> None:
        caller = await self._confirmed()
        if caller is None:
            return
        async with self.runner.context(self.exchange, caller, request, TRANSPORT) as context:
            operation.context = context
            groups = self.runner.groups
            async with aclosing(
                groups.follow(self.runner, context, operation.asked, self.exchange)
            ) as results:
                async for told in results:
                    if told.refused:
                        await self._tell(operation, "error", orjson.loads(told.body)["errors"])
                        return
                    await self._next(operation, told)
        await self._tell(operation, "complete")

    async def _confirmed(self) -> Caller | None:
        """Who asks, still; nobody when the key is over, which ends the socket. As with every request over HTTP."""
        caller = self.caller
        assert caller is not None, "nothing runs before the acknowledgement"
        try:
            found = await self.runner.authenticator.authenticate(caller.secret)
        except AppError:
            # It cannot be told now: the lease is judged by those who look after it.
            return caller
        if found is not None and found.reaches_like(caller.principal):
            return caller
        self.runner.live.withdraw(self)
        return None

    async def _next(self, operation: SocketOperation, told: Told) -> None:
        if self.is_expired():
            self.runner.live.lapse(self)
        elif not operation.completed:
            head = f'{{"id":{operation.spelled_id},"type":"next","payload":'
            assert operation.context is not None, "what runs has a context"
            ending = told.ending(operation.context)
            await self.watched(self.websocket.send_text(f"{head}{told.stem}{ending}}}"))
            operation.cursor = told.cursor

    async def _tell(self, operation: SocketOperation, kind: str, payload: object = None) -> None:
        if operation.completed:
            return
        # The id is free before the last word is sent: the client may use it again at once.
        operation.completed = True
        self.forget(operation)
        more = {} if payload is None else {"payload": payload}
        await self._send({"id": operation.id, "type": kind, **more})

    def forget(self, operation: Operation[Context, None]) -> None:
        """Free the id, unless another operation has it by now."""
        if self.operations.get(operation.id) is operation:
            del self.operations[operation.id]

    async def _send(self, message: Mapping[str, object]) -> None:
        await self.watched(self.websocket.send_json(message))

    async def _close(self, code: int, text: str) -> None:
        await self.websocket.close(code, reason(text, self._cursor()))

    def _cursor(self) -> str | None:
        """Where to resume, when that is one place: operations at different ones cannot share it."""
        found = {getattr(operation, "cursor", None) for operation in self.operations.values()} - {None}
        return found.pop() if len(found) == 1 else None

    async def beat(self) -> None:
        """Ask whether the client is there; one that does not answer is gone."""
        if not self.connection_acknowledged:
            return
        # While nothing was taken no pong could come: that time does not count.
        quiet = monotonic() - max(self._quiet_since, self.stalled_until)
        if self._awaiting_pong and quiet > self.pace.pong_seconds_max:
            self.ending = True
            await self.end(TRY_LATER, "no pong came")
        elif not self._awaiting_pong and quiet >= self.pace.ping_seconds:
            self._awaiting_pong, self._quiet_since = True, monotonic()
            with suppress(WebSocketDisconnected):
                await self._send({"type": "ping"})

    async def end(self, code: int, text: str) -> None:
        """Close from our side; nothing follows the close frame, and it does not wait for ever to be taken."""
        cursor = self._cursor()
        for operation_id in list(self.operations):
            await self.cleanup_operation(operation_id)
        await within(self.pace.farewell_seconds_max, self._part(code, text, cursor), self.drop)

    async def _part(self, code: int, text: str, cursor: str | None) -> None:
        why = reason(text, cursor)
        if cursor is not None and cursor not in why:
            # Too long for a close frame: the protocol lets a ping carry anything.
            with suppress(WebSocketDisconnected):
                await self._send({"type": "ping", "payload": {"closing": text, "cursor": cursor}})
        await self.websocket.close(code, why)
