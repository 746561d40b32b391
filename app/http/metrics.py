"""What the HTTP side counts, in a registry of its own, and where it is read."""

from collections.abc import Callable
from typing import TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.http.vitals import Vitals, VitalsCollector

# A client picks the names of its operations: beyond so many different ones they are counted together.
OPERATION_NAMES_MAX = 100
OPERATION_NAME_LENGTH_MAX = 64
OTHER = "other"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "POST", "OPTIONS", "HEAD", "WS"})

M = TypeVar("M", Counter, Gauge, Histogram)


class Metrics:
    """The counters of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._names: set[str] = set()
        self._children: dict[tuple[object, ...], object] = {}
        self._requests = Counter(
            "escrowgrid_http_requests_total",
            "Requests answered; operation is the name in the document.",
            ("method", "status", "operation"),
            registry=registry,
        )
        self._seconds = Histogram(
            "escrowgrid_http_request_seconds",
            "How long requests took; streams and sockets are not among them.",
            ("method",),
            buckets=BUCKETS,
            registry=registry,
        )
        self._open = Gauge(
            "escrowgrid_live_connections",
            "WebSockets and event streams open.",
            ("transport",),
            registry=registry,
        )
        self._operations = Counter(
            "escrowgrid_operations_total",
            "GraphQL operations begun.",
            ("transport", "kind"),
            registry=registry,
        )
        self._running = Gauge(
            "escrowgrid_operations_open", "GraphQL operations running.", ("transport",), registry=registry
        )
        self._errors = Counter(
            "escrowgrid_errors_total", "Errors told to clients, by code.", ("code",), registry=registry
        )

        self._limited = Counter(
            "escrowgrid_rate_limited_total",
            "Requests refused for asking too much, by whose bucket was empty: key, root, sensitive, address, "
            "connections.",
            ("by",),
            registry=registry,
        )
        self._turned_away = Counter(
            "escrowgrid_turned_away_total",
            "Requests turned away at the door, by what the audit calls it.",
            ("action",),
            registry=registry,
        )
        self._left_out = Counter(
            "escrowgrid_audit_left_out_total",
            "Of those, the ones without an audit row of their own: the next row counts them.",
            ("action",),
            registry=registry,
        )

        ProcessCollector(registry=registry)

    def count_groups(self, count: Callable[[], int]) -> None:
        """Show how many live groups there are."""
        gauge = Gauge(
            "escrowgrid_live_groups", "Live groups: executions shared by subscribers.", registry=self.registry
        )
        gauge.set_function(count)

    def request(self, method: str, status: int, operation: str, seconds: float, *, timed: bool) -> None:
        """One request was answered, or one socket is closed."""
        known = method if method in METHODS else OTHER
        self._child(self._requests, known, str(status), self._name(operation)).inc()
        if timed:
            self._child(self._seconds, known).observe(seconds)

    def error(self, code: str) -> None:
        """One error was told."""
        self._child(self._errors, code).inc()

    def limited(self, by: str) -> None:
        """Somebody asked for too much."""
        self._child(self._limited, by).inc()

    def turned_away(self, action: str) -> None:
        """Somebody was refused at the door."""
        self._child(self._turned_away, action).inc()

    def left_out(self, action: str) -> None:
        """That was not told in the audit by itself."""
        self._child(self._left_out, action).inc()

    def connection(self, transport: str, change: int) -> None:
        """A live connection was opened (1) or closed (-1)."""
        self._child(self._open, transport).inc(change)

    def began(self, transport: str) -> None:
        """An operation began."""
        self._child(self._running, transport).inc()

    def ended(self, transport: str, kind: str) -> None:
        """An operation is over; kind is empty when its document was refused."""
        self._child(self._running, transport).dec()
        self._child(self._operations, transport, kind or "refused").inc()

    def _child(self, metric: M, *labels: str) -> M:
        """`metric.labels(...)`, which takes a lock and several microseconds, once for each set of labels."""
        found = self._children.get((metric, *labels))
        if found is None:
            found = self._children[metric, *labels] = metric.labels(*labels)
        return cast("M", found)

    def _name(self, operation: str) -> str:
        if operation in self._names or not operation:
            return operation
        if len(self._names) >= OPERATION_NAMES_MAX or len(operation) > OPERATION_NAME_LENGTH_MAX:
            return OTHER
        self._names.add(operation)
        return operation


def route(registry: CollectorRegistry, vitals: Vitals | None = None) -> Route:
    """`/metrics`, in Prometheus' own text."""
    if vitals is not None:
        registry.register(VitalsCollector(vitals.all))

    async def metrics(_: Request) -> Response:
        if vitals is not None and vitals.refresh is not None:
            await vitals.refresh()
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Route("/metrics", metrics)
