"""What the rest of the server shows of itself: read when somebody looks, so that it costs nobody anything."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.kit.histogram import Histogram

log = logging.getLogger("escrowgrid.http")

Value = float | Mapping[str, float] | Histogram


class Kind(StrEnum):
    """What a number means."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Vital:
    """One thing worth watching. `read` never waits; with `label` it tells one number for each value of the label."""

    kind: Kind
    name: str
    help: str
    read: Callable[[], Value]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """All of them; `refresh` asks, within a bound of time, what some of them have to be asked for."""

    all: Sequence[Vital]
    refresh: Callable[[], Awaitable[None]] | None = None


class VitalsCollector(Collector):
    """Hands them to Prometheus."""

    def __init__(self, vitals: Sequence[Vital]) -> None:
        self._vitals = vitals

    def describe(self) -> list[Metric]:
        """Nothing: else everything would be read once at the start, when nothing runs yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read them all; one that cannot be read takes no other down."""
        for vital in self._vitals:
            try:
                value = vital.read()
            except Exception:
                log.exception("%s cannot be read", vital.name)
                continue
            yield _family(vital, value)


def _family(vital: Vital, value: Value) -> Metric:
    if isinstance(value, Histogram):
        return _histogram(vital, value)
    family: CounterMetricFamily | GaugeMetricFamily
    labels = () if vital.label is None else (vital.label,)
    if vital.kind is Kind.COUNTER:
        family = CounterMetricFamily(vital.name, vital.help, labels=labels)
    else:
        family = GaugeMetricFamily(vital.name, vital.help, labels=labels)
    if isinstance(value, Mapping):
        for name, number in value.items():
            family.add_metric((name,), number)
    else:
        family.add_metric((), value)
    return family


def _histogram(vital: Vital, value: Histogram) -> Metric:
    family = HistogramMetricFamily(vital.name, vital.help)
    so_far, buckets = 0, []
    for bound, count in zip((*value.bounds, float("inf")), value.counts, strict=True):
        so_far += count
        buckets.append(("+Inf" if bound == float("inf") else repr(float(bound)), so_far))
    family.add_metric((), buckets, value.sum)
    return family
