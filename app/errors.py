"""The tree of expected failures: what went wrong, in a code that programs match and words that people read.

AppError
  Refusal     told in `userErrors` of a mutation: the caller can mend the input and try again
    Invalid     the input is malformed
    NotFound    not there, or not yours
    Conflict    true a moment ago: read again
    Refused     a rule of the domain says no
  Denied      told as a top-level error with `extensions.code`
    Unknown     no valid key
    Forbidden   known, but may not
    Overloaded  too much at once: try again later
    BadRequest  a query or subscription whose arguments cannot be served
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ErrorCode(StrEnum):
    """Every refusal a mutation can answer with."""

    VALIDATION_FAILED = "VALIDATION_FAILED"
    NOT_FOUND = "NOT_FOUND"
    VERSION_CONFLICT = "VERSION_CONFLICT"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    DUPLICATE_REFERENCE = "DUPLICATE_REFERENCE"
    DUPLICATE_NAME = "DUPLICATE_NAME"
    TRANSITION_NOT_ALLOWED = "TRANSITION_NOT_ALLOWED"
    INSUFFICIENT_HELD = "INSUFFICIENT_HELD"
    POSITION_EXPIRED = "POSITION_EXPIRED"
    TRY_AGAIN = "TRY_AGAIN"
    POLICY_REFUSED = "POLICY_REFUSED"
    TEMPLATE_REFUSED = "TEMPLATE_REFUSED"
    ROLE_REFUSED = "ROLE_REFUSED"
    BATCH_REFUSED = "BATCH_REFUSED"


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal as a value: it can be carried in an answer without being raised."""

    code: ErrorCode
    message: str
    field: str | None = None


class AppError(Exception):
    """An expected failure."""

    code: str = "INTERNAL"

    def __init__(self, message: str, *, extensions: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.extensions = dict(extensions or {})


class Refusal(AppError):
    """A rule or the input says no; nothing was written."""

    def __init__(self, code: ErrorCode, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field

    @property
    def problem(self) -> Problem:
        """The same as a value."""
        return Problem(ErrorCode(self.code), self.message, self.field)


class Invalid(Refusal):
    """The input is malformed; `field` names the part of it."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(ErrorCode.VALIDATION_FAILED, message, field)


class NotFound(Refusal):
    """Not there, or not yours: both read the same."""

    def __init__(self, what: str, field: str | None = None) -> None:
        super().__init__(ErrorCode.NOT_FOUND, f"there is no such {what}", field)


class Conflict(Refusal):
    """True a moment ago: read again, then decide."""


class Refused(Refusal):
    """A rule of the domain says no."""


class Denied(AppError):
    """Told as a top-level error."""


class Unknown(Denied):
    """No valid key came with the request."""

    code = "UNAUTHENTICATED"


class Forbidden(Denied):
    """The key is known, but its role may not do this."""

    code = "FORBIDDEN"


class Overloaded(Denied):
    """Too much at once; nothing was done, try again later."""

    code = "OVERLOADED"


class BadRequest(Denied):
    """A query or subscription whose arguments cannot be served."""

    code = "BAD_REQUEST"


class CursorInvalid(BadRequest):
    """A cursor that cannot be continued from; the message says what to do."""

    code = "CURSOR_INVALID"


class Unavailable(Denied):
    """The outcome is not known or the store is out of reach; retry with the same idempotency key."""

    code = "UNAVAILABLE"
