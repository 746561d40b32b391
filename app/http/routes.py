"""Puts the HTTP side together: what is served where, and what every request passes on its way there."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import strawberry
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from app.context import Services
from app.documents.service import TrustedDocuments
from app.http import dashboard, exchange, export, graphiql, health, metrics, pages, server
from app.http.access_log import AccessLog
from app.http.auth import Authenticator
from app.http.crowd import Crowd
from app.http.door import Door
from app.http.gate import Doorman, Gate
from app.http.graphiql import DevelopmentKey
from app.http.groups import Groups
from app.http.health import Ready
from app.http.library import Library
from app.http.limits import AnswerHeaders, Compressed, Guard
from app.http.live import Live, Pace
from app.http.metrics import Metrics
from app.http.negotiation import is_for_people
from app.http.running import Runner
from app.http.tolls import Tolls
from app.http.view import GraphQLView
from app.http.vitals import Vitals
from app.http.wire import RefusedError, refusal
from app.limits.service import Quota
from app.settings import Settings

GZIP_BYTES_MIN = 4096
GZIP_LEVEL = 5
CORS_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-API-Key",
    "X-Request-Id",
)
CORS_EXPOSED = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After", "X-Request-Id")
CODES = {400: "BAD_REQUEST", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[Any]]


def build(
    services: Services,
    schema: strawberry.Schema,
    authenticator: Authenticator,
    ready: Ready,
    graphiql_keys: Sequence[DevelopmentKey] = (),
    *,
    lifespan: Lifespan | None = None,
    registry: CollectorRegistry | None = None,
    pace: Pace | None = None,
    quota: Quota | None = None,
    documents: TrustedDocuments | None = None,
    vitals: Vitals | None = None,
) -> Starlette:
    """The ASGI application. Its `state.live` is drained before a server goes, see `app.http.server`."""
    settings = services.settings
    registry = CollectorRegistry() if registry is None else registry
    counted = Metrics(registry)
    crowd, doorman = Crowd(settings, counted), Doorman(settings, counted)
    live = Live(authenticator, counted, pace or Pace(stalled_seconds=settings.stalled_socket_seconds), crowd)
    tolls = Tolls(quota, settings, counted)
    library = Library(documents, settings.trusted_documents)
    runner = Runner(services, schema, authenticator, live, counted, Groups(), doorman, tolls, library)
    if services.holders is not None:
        services.holders.listeners.append(runner.groups.forget)
    counted.count_groups(lambda: len(runner.groups))
    view = GraphQLView(runner)
    door = Door(services.recorder, counted) if services.recorder is not None else None
    application = Starlette(
        routes=[
            Route("/graphql", view),
            WebSocketRoute("/graphql", view),
            export.route(runner),
            *health.routes(ready, lambda: live.draining),
            metrics.route(registry, vitals),
            *dashboard.routes(),
            *graphiql.routes(graphiql_keys, host=settings.host),
        ],
        middleware=_middleware(settings, doorman),
        exception_handlers={HTTPException: _refuse},
        lifespan=_draining(live, lifespan),
    )
    application.router.redirect_slashes = False
    # Outside of Starlette's own error handling, too: it sees every answer, and uvicorn's own `send`.
    application.middleware_stack = AccessLog(
        application.build_middleware_stack(), settings, counted, door, traced=services.tracer is not None
    )
    application.state.live = live
    return application


def _middleware(settings: Settings, doorman: Doorman) -> list[Middleware]:
    """From outermost to innermost; refusals of the guard pass CORS, so that browsers may read them."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "POST"),
        allow_headers=CORS_HEADERS,
        expose_headers=CORS_EXPOSED,
    )
    return [
        Middleware(AnswerHeaders),
        *([cors] if settings.cors_origins else []),
        Middleware(
            Guard,
            body_bytes_max=settings.body_bytes_max,
            body_seconds_max=settings.request_seconds_max,
        ),
        Middleware(Gate, doorman=doorman),
        Middleware(Compressed, minimum_size=GZIP_BYTES_MIN, compresslevel=GZIP_LEVEL),
    ]


def _draining(live: Live, lifespan: Lifespan | None) -> Lifespan:
    @asynccontextmanager
    async def both(application: Starlette) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            state = await stack.enter_async_context(lifespan(application)) if lifespan is not None else None
            stack.enter_context(server.draining(live))
            yield state

    return both


async def _refuse(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses, in our one shape."""
    assert isinstance(error, HTTPException), "this handler is registered for these alone"
    code = CODES.get(error.status_code, "BAD_REQUEST" if error.status_code < 500 else "INTERNAL")
    exchange.of(request.scope).note_error(code)
    if error.status_code == 404 and is_for_people(request.headers):
        return pages.missing()
    return refusal(RefusedError(error.status_code, code, error.detail, error.headers))
