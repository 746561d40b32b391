"""Operations traced by OpenTelemetry: a collector of the test's own sees what the server sends over OTLP."""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from app import settings as module
from app.institutions.model import NewKey
from app.main import Parts
from app.settings import Settings
from tests import factories
from tests.conftest import eventually
from tests.factories import Place
from tests.serving import ROOT, plain_environment

from .conftest import Serve

# The extra `otel`, which the development lock has.
wire = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

DEEP = "query Deep { positions(first: 3) { edges { node { id asset { label } events { edges { node { id } } } } } } }"
MOVE = 'mutation Move($id: ID!) { fundPosition(input: {id: $id, reason: "SECRET-WORD"}) { userErrors { code } } }'
CARRIED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Collector:
    """What came, span by span."""

    url: str
    spans: list[dict[str, Any]] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        for resource in wire.ExportTraceServiceRequest.FromString(body).resource_spans:
            told = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(told["service.name"])
            for scope in resource.scope_spans:
                self.spans += map(_span, scope.spans)

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name]

    def below(self, span: dict[str, Any]) -> list[dict[str, Any]]:
        return [one for one in self.spans if one["parent"] == span["id"]]


def _span(span: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "id": span.span_id.hex(),
        "trace": span.trace_id.hex(),
        "parent": span.parent_span_id.hex(),
        "links": [link.span_id.hex() for link in span.links],
        "error": span.status.code == 2,
        "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        **{one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes},
    }


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            zipped = self.headers.get("Content-Encoding") == "gzip"
            found.take(self.path, gzip.decompress(body) if zipped else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


async def test_an_operation_is_a_trace_with_its_statements(
    serve: Serve, collector: Collector, parts: Parts, place: Place, key: NewKey
) -> None:
    await factories.position(parts.services, place.asset)
    async with serve(otel_exporter_otlp_endpoint=collector.url) as server:
        answer = await server.ask(DEEP, key=key.secret, traceparent=CARRIED)
        assert "errors" not in answer.json()
    (operation,) = collector.named("query Deep")
    assert (operation["trace"], operation["parent"]) == (CARRIED[3:35], CARRIED[36:52]), (
        "the caller's trace goes on"
    )
    assert operation["escrowgrid.institution_id"] == place.institution.id
    assert operation["escrowgrid.key_id"] == key.key.id
    assert operation["escrowgrid.transport"] == "http"
    statements = collector.below(operation)
    assert {one["name"] for one in statements} == {"sql"}
    assert sum(one["db.response.returned_rows"] for one in statements) == operation["escrowgrid.rows"] > 2
    assert any("ledger_events" in one["db.query.text"] for one in statements), (
        "those beside SQLAlchemy as well"
    )
    assert all(0 <= one["seconds"] <= operation["seconds"] for one in statements)
    assert not operation["error"]
    assert (collector.services, collector.paths) == ({"escrowgrid"}, {"/v1/traces"})


async def test_a_command_waits_for_a_batch_that_is_linked_to_it(
    serve: Serve, collector: Collector, parts: Parts, place: Place, key: NewKey
) -> None:
    position = await factories.position(parts.services, place.asset)
    async with serve(otel_exporter_otlp_endpoint=collector.url) as server:
        assert "errors" not in (await server.ask(MOVE, {"id": position.id}, key=key.secret)).json()
    (operation,) = collector.named("mutation Move")
    (waited,) = (one for one in collector.below(operation) if one["name"] == "ledger.command")
    (batch,) = (one for one in collector.named("ledger.batch") if waited["id"] in one["links"])
    assert batch["escrowgrid.commands"] == 1
    assert any("INSERT INTO ledger_events" in one["db.query.text"] for one in collector.below(batch))
    assert "SECRET-WORD" not in json.dumps(collector.spans), "no values"
    assert key.secret not in json.dumps(collector.spans)


async def test_operations_of_sockets_and_failures_are_told(
    serve: Serve, collector: Collector, place: Place, key: NewKey
) -> None:
    async with serve(otel_exporter_otlp_endpoint=collector.url) as server:
        peer = await server.dial(key.secret)
        for name in ("a", "b"):
            await peer.subscribe(name, "query Who { viewer { id } }")
            await peer.until("complete")
        await peer.subscribe("c", "query Broken { nothing }")
        await peer.until("error")
        await peer.socket.close()

        async def idle() -> bool:
            return len(server.app.state.live) == 0

        await eventually(idle)
    assert len(collector.named("query Who")) == 2
    assert len({one["trace"] for one in collector.named("query Who")}) == 2
    (refused,) = collector.named("refused")
    assert (refused["error.type"], refused["error"]) == ("GRAPHQL_VALIDATION_FAILED", False)
    assert refused["escrowgrid.transport"] == "websocket"


async def test_a_collector_that_is_away_stops_nobody(serve: Serve, place: Place, key: NewKey) -> None:
    async with serve(otel_exporter_otlp_endpoint="http://127.0.0.1:1") as server:
        assert (await server.ask(DEEP, key=key.secret)).status_code == 200


def test_nothing_is_loaded_where_nothing_is_traced() -> None:
    code = "import sys, app.asgi, app.main; print([name for name in sys.modules if 'opentelemetry' in name])"
    told = subprocess.run(
        (sys.executable, "-c", code),
        cwd=ROOT,
        env=plain_environment() | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "url", ["collector:4318", "grpc://collector", "http://", "http://me:secret@x", "http://x?y"]
)
def test_addresses_that_are_none_are_told_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="http:// or https://"):
        Settings(otel_exporter_otlp_endpoint=url)


def test_packages_that_are_missing_are_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(ValidationError, match=r"escrowgrid\[otel\]"):
        Settings(otel_exporter_otlp_endpoint="http://127.0.0.1:4318")
    assert Settings().otel_exporter_otlp_endpoint is None
