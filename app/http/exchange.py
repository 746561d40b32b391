"""One request or socket as the server knows it: made outermost, filled in on the way, told in the log."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.types import Scope, Send

from app.limits.model import Purse
from app.principal import Principal

KEY = "escrowgrid.exchange"
ERROR_CODES_MAX = 20


@dataclass(frozen=True, slots=True)
class Ran:
    """An operation that is over, as the log tells it. `rows`: what its statements read or wrote."""

    kind: str
    name: str
    document: str
    cost: int | None
    rows: int
    refusals: Sequence[str]
    failures: Sequence[str]
    request_id: str
    trace_id: str | None = None


@dataclass(slots=True)
class Exchange:
    """What is known of one request or socket.

    `abort` drops its connection without another word; `wire` takes a socket's frames past all those who look at how
    answers begin and end.
    """

    request_id: str
    client_address: str | None = None
    path: str = ""
    # The key in the headers, until it is known whose it is; and whether its bringer has paid as a stranger.
    secret: str | None = field(default=None, repr=False)
    is_stranger: bool = False
    purse: Purse | None = None
    principal: Principal | None = None
    operation: str = ""
    # Of a request the one operation; of a socket none, each of them is told by itself.
    ran: Ran | None = None
    cost: int | None = None
    rows: int = 0
    operations: int = 0
    # W3C's `traceparent`, where operations are traced.
    carried: str | None = None
    error_codes: list[str] = field(default_factory=list)
    abort: Callable[[], None] | None = None
    wire: Send | None = None
    count_error: "Callable[[Exchange, str], None] | None" = None
    _told: tuple[int, str] | None = None

    def note_error(self, code: object) -> None:
        """Have the log, the metrics and the audit tell of an error."""
        if len(self.error_codes) < ERROR_CODES_MAX:
            self.error_codes.append(str(code))
        if self.count_error is not None:
            self.count_error(self, str(code))

    def is_news(self, code: str) -> bool:
        """Whether this operation has not told of such an error before: one document can have many mistakes."""
        before, self._told = self._told, (self.operations, code)
        return before != self._told


def of(scope: Scope) -> Exchange:
    """The exchange of a request; every request has one by the time a route sees it."""
    found: Exchange = scope[KEY]
    return found


def aborter(send: Send) -> Callable[[], None] | None:
    """How to drop the connection behind `send`: ASGI has no word for it; uvicorn's senders know theirs."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    abort: Callable[[], None] | None = getattr(transport, "abort", None)
    return abort
