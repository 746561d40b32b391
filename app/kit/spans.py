"""Spans: what took how long, and within what. Who follows them comes from outside; without, nobody does."""

from collections.abc import Sequence
from typing import Protocol

Attribute = str | int | float | bool


class Span(Protocol):
    """Something that takes time, from when it was begun until `end`."""

    @property
    def trace_id(self) -> str:
        """The whole that it is a part of, as other systems write it."""

    def child(self, name: str, *, began_ns: int | None = None) -> "Span":
        """Begin a part of it; `began_ns` in nanoseconds since 1970, for what has begun already."""

    def rename(self, name: str) -> None:
        """It is known by now what it was."""

    def note(self, name: str, value: Attribute) -> None:
        """Have something told of it."""

    def end(self, failure: str | None = None) -> None:
        """It is over; with what it failed by, if it did."""


class Tracer(Protocol):
    """Where spans go."""

    def begin(
        self, name: str, *, served: bool = False, carried: str | None = None, links: Sequence[Span] = ()
    ) -> Span:
        """Begin a whole, or a part of what a caller elsewhere has `carried` here (W3C's `traceparent`).

        `served`: somebody outside has asked for it.
        """

    async def close(self) -> None:
        """Send what has not been sent; bounded in time."""
