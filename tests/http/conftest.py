"""A small schema of its own behind the real HTTP side, in process or on a real port."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import httpx
import pytest
import strawberry
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from strawberry.schema.config import StrawberryConfig
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.context import Context, Services
from app.engine.limits import KEYED_BY_HEADER, extensions
from app.engine.masking import Schema
from app.engine.scalars import SCALARS, JsonObject
from app.errors import Forbidden, NotFound, Overloaded, Unavailable
from app.http import routes
from app.http.live import Pace
from app.http.server import Server, config
from app.kit.cursor import BadCursor
from app.principal import ROLE_SCOPES, Principal, Role, root
from app.settings import Settings
from app.storage.database import Address, Database

ROOT = "root-key-for-these-tests"
TENANT = "tenant-key-for-these-tests"
AWAY = "key-that-cannot-be-looked-up"
PROTOCOL = Subprotocol("graphql-transport-ws")
AUTH = {"Authorization": f"Bearer {ROOT}"}
JSON = "application/json"
GRAPHQL = "application/graphql-response+json"
EVENTS = "text/event-stream"
# What asyncio says when it sweeps up the connections that an earlier test has killed.
OF_EARLIER = "unexpected connection_lost() call"


def cost(requested: int, actual: int | None = None, available: int | None = None) -> dict[str, Any]:
    """What an answer tells of its cost; nothing is limited here."""
    spent = requested if actual is None else actual
    return {"extensions": {"cost": {"requested": requested, "actual": spent, "available": available}}}


COST = cost(1)

Info = strawberry.Info[Context, None]
Resolve = Annotated[int | None, strawberry.argument(description="x")]


@strawberry.type
class Item:
    number: int

    @strawberry.field
    def items(self, first: int | None = None, last: int | None = None) -> list["Item"]:
        return [Item(number=n) for n in range(first or last or 2)]


@strawberry.input
class Pair:
    left: int
    right: str = "r"


@strawberry.type
class Asker:
    key: str
    request_id: str
    client_address: str | None
    idempotency_key: str | None
    last_event_id: str | None
    operation: str
    context: str
    extensions: str


def asker(info: Info) -> Asker:
    context = info.context
    return Asker(
        key=context.principal.id,
        request_id=context.request.id,
        client_address=context.request.client_address,
        idempotency_key=context.request.idempotency_key,
        last_event_id=context.request.last_event_id,
        operation=f"{context.operation_kind} {context.operation_name}".strip(),
        context=str(id(context)),
        extensions=str(info._raw_info.operation_extensions),  # type: ignore[attr-defined]
    )


@strawberry.type
class Query:
    asker: Asker = strawberry.field(resolver=asker)

    @strawberry.field
    def ping(self) -> str:
        return "pong"

    @strawberry.field
    def echo(self, text: str) -> str:
        return text

    @strawberry.field
    def json(self, value: JsonObject) -> JsonObject:
        return value

    @strawberry.field
    def add(self, pair: Pair) -> int:
        return pair.left

    @strawberry.field
    def items(self, first: int | None = None, last: int | None = None) -> list[Item]:
        return [Item(number=n) for n in range(first or last or 2)]

    @strawberry.field
    def item(self) -> Item:
        return Item(number=0)

    @strawberry.field
    def boom(self) -> str | None:
        raise RuntimeError("the secret of the house")

    @strawberry.field
    def boom_hard(self) -> str:
        raise RuntimeError("the secret of the house")

    @strawberry.field
    def refused(self, kind: str) -> str | None:
        raise {
            "missing": NotFound("position", "id"),
            "forbidden": Forbidden("this key may not do that"),
            "overloaded": Overloaded("too much at once"),
            "cursor": BadCursor("the cursor is not one of ours"),
        }[kind]

    @strawberry.field
    async def slow(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"


@strawberry.type
class Mutation:
    @strawberry.mutation(metadata={KEYED_BY_HEADER: True})
    def note(self, info: Info, text: str) -> str | None:
        return f"{text}:{info.context.request.idempotency_key}"


ENDED: list[str] = []


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(
        self, info: Info, to: int = 3, every: float = 0.0, name: str = "count", pad: int = 0
    ) -> AsyncIterator[int]:
        try:
            for number in range(1, to + 1):
                info.context.last_cursor = f"c{number}" + "x" * pad
                yield number
                await asyncio.sleep(every)
        finally:
            ENDED.append(name)

    @strawberry.subscription
    async def resumed(self, info: Info) -> AsyncIterator[str]:
        yield str(info.context.request.last_event_id)

    @strawberry.subscription
    async def silent(self, name: str = "silent") -> AsyncIterator[int]:
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            ENDED.append(name)

    @strawberry.subscription
    async def breaks(self) -> AsyncIterator[int]:
        yield 1
        raise RuntimeError("the secret of the house")

    @strawberry.subscription
    async def flood(self, info: Info, size: int = 100_000) -> AsyncIterator[str]:
        for number in itertools.count(1):
            info.context.last_cursor = f"f{number}"
            yield "x" * size

    @strawberry.subscription
    async def contexts(self, info: Info) -> AsyncIterator[str]:
        yield str(id(info.context))


def schema_of(settings: Settings) -> Schema:
    return Schema(
        Query,
        Mutation,
        Subscription,
        extensions=extensions(settings),
        config=StrawberryConfig(scalar_map=cast("Any", SCALARS)),
    )


@dataclass
class Keys:
    """Knows two keys until they are revoked; counts who asks."""

    known: dict[str, Principal] = field(
        default_factory=lambda: {
            ROOT: root(),
            TENANT: Principal("key_1", "tenant", Role.ADMIN, "inst_1", ROLE_SCOPES[Role.ADMIN]),
        }
    )
    away: bool = False

    async def authenticate(self, secret: str) -> Principal | None:
        if self.away or secret == AWAY:
            raise Unavailable("the database cannot be reached")
        return self.known.get(secret)


@dataclass
class Site:
    """The application as its tests see it."""

    app: Starlette
    keys: Keys
    registry: CollectorRegistry
    checks: dict[str, bool]
    settings: Settings
    closed: list[Context]
    url: str = ""

    @property
    def sockets_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/graphql"

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


QUICK = Pace(
    sweep_seconds=0.05,
    ping_seconds=0.3,
    pong_seconds_max=0.3,
    keep_alive_seconds=0.2,
    unconfirmed_seconds_max=0.5,
    farewell_seconds_max=2.0,
    drain_seconds=0.2,
    stalled_seconds=0.6,
)
CALM = Pace(drain_seconds=0.2, farewell_seconds_max=2.0)


# What the transports do is told without a database or any other part of a server.
PARTS = [part.name for part in dataclasses.fields(Services)]


def nowhere() -> Database:
    address = Address.of("postgresql://nobody@127.0.0.1:1/none")
    return Database(address, pool_size_max=2, pool_timeout=1, statement_timeout=1)


def make_site(monkeypatch: pytest.MonkeyPatch, pace: Pace = CALM, **settings: Any) -> Site:
    found = Settings(_env_file=None, **settings)  # type: ignore[call-arg]
    services = Services(**(dict.fromkeys(PARTS) | {"settings": found, "database": nowhere()}))  # type: ignore[arg-type]
    keys, registry, checks = Keys(), CollectorRegistry(), {"database": True, "tail": True}
    closed: list[Context] = []
    close = Context.close

    async def noting(context: Context) -> None:
        await close(context)
        closed.append(context)

    monkeypatch.setattr(Context, "close", noting)

    async def ready() -> dict[str, bool]:
        return checks

    app = routes.build(services, schema_of(found), keys, ready, registry=registry, pace=pace)
    return Site(app, keys, registry, checks, found, closed)


@asynccontextmanager
async def served(site: Site, **options: Any) -> AsyncIterator[Server]:
    server = Server(config(site.app, site.settings, **{"port": 0, "lifespan": "off", **options}))
    with contextlib.ExitStack() as stack:
        server.capture_signals = lambda: stack  # type: ignore[method-assign]
        task = asyncio.create_task(server.serve())
        await eventually(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        site.url = f"http://127.0.0.1:{port}"
        try:
            yield server
        finally:
            server.should_exit = True
            await task


@pytest.fixture
def pace() -> Pace:
    return CALM


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {}


@pytest.fixture
async def inside(monkeypatch: pytest.MonkeyPatch, pace: Pace, overrides: dict[str, Any]) -> Site:
    """The application without a port."""
    ENDED.clear()
    return make_site(monkeypatch, pace, **overrides)


@pytest.fixture
async def direct(inside: Site) -> AsyncIterator[httpx.AsyncClient]:
    """Asks it in process; for answers that are whole when they come."""
    transport = httpx.ASGITransport(inside.app, client=("127.0.0.1", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch, pace: Pace, overrides: dict[str, Any]) -> AsyncIterator[Site]:
    """The application on a real port."""
    ENDED.clear()
    made = make_site(monkeypatch, pace, **overrides)
    async with served(made):
        yield made


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=site.url, timeout=10, trust_env=False) as client:
        yield client


@dataclass
class Peer:
    """A WebSocket client that speaks frames."""

    socket: ClientConnection

    async def send(self, frame: object) -> None:
        await self.socket.send(frame if isinstance(frame, (str, bytes)) else json.dumps(frame))

    async def next(self, seconds: float = 5) -> Any:
        text = await asyncio.wait_for(self.socket.recv(), seconds)
        assert isinstance(text, str), "frames are text"
        return json.loads(text)

    async def init(self, **payload: object) -> None:
        await self.send(
            {"type": "connection_init", "payload": payload or {"authorization": f"Bearer {ROOT}"}}
        )
        assert await self.next() == {"type": "connection_ack"}

    async def subscribe(self, id: str, query: str, **payload: object) -> None:
        await self.send({"type": "subscribe", "id": id, "payload": {"query": query, **payload}})

    async def until(self, kind: str, id: str | None = None) -> Any:
        while True:
            frame = await self.next()
            if frame["type"] == kind and (id is None or frame.get("id") == id):
                return frame

    async def _drain(self) -> None:
        while True:
            await self.socket.recv()

    async def closed(self, seconds: float = 5) -> tuple[int, str]:
        """The code and reason that the server closes with."""
        async with asyncio.timeout(seconds):
            with pytest.raises(ConnectionClosed) as gone:
                await self._drain()
        assert gone.value.rcvd is not None, "closed without a close frame"
        return gone.value.rcvd.code, gone.value.rcvd.reason


Dial = Callable[..., Any]


@pytest.fixture
async def dial(site: Site) -> AsyncIterator[Dial]:
    """Opens sockets; `acknowledged=False` leaves connection_init to the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_socket(*, acknowledged: bool = True, **options: Any) -> Peer:
            arguments = {"subprotocols": [PROTOCOL], "ping_interval": None, "proxy": None, **options}
            socket = await stack.enter_async_context(connect(site.sockets_url, **arguments))
            peer = Peer(socket)
            if acknowledged:
                await peer.init()
            return peer

        yield open_socket


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing that a client does wrong is an error of ours: no traceback, no key, in any log."""
    caplog.set_level(logging.INFO)
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    if "noisy" not in request.fixturenames:
        loud = [
            record
            for record in records
            if (record.levelno >= logging.ERROR or record.exc_info) and OF_EARLIER not in record.getMessage()
        ]
        assert not loud, [record.getMessage() for record in loud]
    for record in records:
        assert ROOT not in record.getMessage()
        assert TENANT not in record.getMessage()


@pytest.fixture
def noisy() -> None:
    """For tests of what goes wrong on our side."""


async def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
