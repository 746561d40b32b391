"""Spans by OpenTelemetry: sent over OTLP to where the settings say. Loaded only where they do."""

import asyncio
import logging
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Span as TheirSpan
from opentelemetry.trace import Tracer as TheirTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.kit.spans import Attribute, Span

log = logging.getLogger("escrowgrid.tracing")

NAME = "escrowgrid"
PATH = "/v1/traces"
CARRIED_LENGTH_MAX = 255
CLOSE_SECONDS_MAX = 5


class OpenSpan:
    """One span of theirs, as ours."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: TheirTracer, span: TheirSpan) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def link(self) -> Link:
        """What points to it from elsewhere."""
        return Link(self._span.get_span_context())

    def child(self, name: str, *, began_ns: int | None = None) -> "OpenSpan":
        """Begin a part of it."""
        context = set_span_in_context(self._span)
        return OpenSpan(self._tracer, self._tracer.start_span(name, context, start_time=began_ns))

    def rename(self, name: str) -> None:
        """It is known by now what it was."""
        self._span.update_name(name)

    def note(self, name: str, value: Attribute) -> None:
        """Have something told of it."""
        self._span.set_attribute(name, value)

    def end(self, failure: str | None = None) -> None:
        """It is over."""
        if failure is not None:
            self._span.set_attribute("error.type", failure)
            self._span.set_status(Status(StatusCode.ERROR, failure))
        self._span.end()


class OpenTelemetry:
    """One per process. What else there is to set (headers, sampling, batches) the SDK reads from `OTEL_…` itself."""

    def __init__(self, endpoint: str, exporter: SpanExporter | None = None) -> None:
        exporter = exporter or OTLPSpanExporter(endpoint.rstrip("/") + PATH)
        # The resource of the environment wins: it may name several servers apart.
        resource = Resource({SERVICE_NAME: NAME}).merge(Resource.create())
        named = resource.attributes.get(SERVICE_NAME)
        if isinstance(named, str) and named.startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: NAME}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(NAME)
        self._carrier = TraceContextTextMapPropagator()

    def begin(
        self, name: str, *, served: bool = False, carried: str | None = None, links: Sequence[Span] = ()
    ) -> OpenSpan:
        """Begin a whole, or a part of what is carried here."""
        context = Context()
        if carried is not None and len(carried) <= CARRIED_LENGTH_MAX:
            context = self._carrier.extract({"traceparent": carried}, context)
        pointed = [span.link for span in links if isinstance(span, OpenSpan)]
        kind = SpanKind.SERVER if served else SpanKind.INTERNAL
        return OpenSpan(self._tracer, self._tracer.start_span(name, context, kind=kind, links=pointed))

    async def close(self) -> None:
        """Send what has not been sent; a collector that is away is not waited for."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await asyncio.to_thread(self._provider.shutdown)
        except TimeoutError:
            log.warning("the last spans were not sent: the collector did not take them in time")
