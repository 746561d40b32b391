"""JSON as it goes over the wire: exact numbers in, exact numbers out, and one shape for every refusal."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from json import JSONDecodeError
from typing import Any

import orjson
from starlette.responses import Response

from app.kit.canonical import Json, NotCanonical, parse_json

JSON_TYPE = "application/json"
GRAPHQL_TYPE = "application/graphql-response+json"
NO_STORE = {"Cache-Control": "no-store"}

# Beyond these a number is no double in any other language, and its plain spelling becomes huge.
EXPONENT_MAX = 308
DIGITS_MAX = 400
NESTING_MAX = 100
BITS_MAX = 1330
NUMBER_WORDS = f"a number has at most {DIGITS_MAX} digits and an exponent of at most {EXPONENT_MAX}"
# Half a surrogate pair as an escape, a long exponent, a long number: rare enough to look closer then.
SUSPICIOUS = re.compile(r"\\u[dD][89a-fA-F]|[eE][+-]?[0-9]{3}|[0-9]{400}")
LONG_MAX = 2**63


class BadJsonError(ValueError):
    """Text that is no JSON we take; the message says why."""


class RefusedError(Exception):
    """A request that is answered with a refusal before, or instead of, running anything."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        **extensions: object,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.extensions = extensions


def decode(text: str | bytes) -> Json:
    """JSON text as values, fractions as Decimal; raises `BadJsonError` for what no answer could give back."""
    try:
        checked = text.decode() if isinstance(text, bytes) else text
        value = parse_json(checked)
        if SUSPICIOUS.search(checked) or checked.count("{") + checked.count("[") > NESTING_MAX:
            _check(value)
    except BadJsonError:
        raise
    except UnicodeDecodeError:
        raise BadJsonError("the text is not UTF-8") from None
    except RecursionError:
        raise BadJsonError("the JSON is nested too deeply") from None
    except NotCanonical as error:
        raise BadJsonError(str(error)) from None
    except JSONDecodeError as error:
        raise BadJsonError(f"the text is not JSON: {error.msg}") from None
    except (ValueError, ArithmeticError):
        raise BadJsonError(NUMBER_WORDS) from None
    return value


def encode(value: object) -> bytes:
    """Values as JSON text; a Decimal is written as the number it is, digit by digit."""
    try:
        return orjson.dumps(value, default=_exact)
    except TypeError:
        # Whole numbers of more than 64 bits, which orjson refuses without asking `default`.
        return orjson.dumps(_spelled(value), default=_exact)


def answer(
    body: object, *, status: int = 200, media_type: str = JSON_TYPE, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer that no cache may keep."""
    typed = {"Content-Type": f"{media_type}; charset=utf-8", **NO_STORE, **(headers or {})}
    return Response(encode(body), status, typed)


def refusal(refused: RefusedError, media_type: str = JSON_TYPE) -> Response:
    """The one shape of every error: `{"errors": [{"message", "extensions": {"code"}}]}`."""
    error = {"message": refused.message, "extensions": {"code": refused.code, **refused.extensions}}
    return answer({"errors": [error]}, status=refused.status, media_type=media_type, headers=refused.headers)


def _check(value: Json) -> None:
    level: list[Json] = [value]
    for _ in range(NESTING_MAX):
        level = [inner for item in level for inner in _checked(item)]
        if not level:
            return
    raise BadJsonError("the JSON is nested too deeply")


def _checked(item: Json) -> Iterable[Json]:
    """What is inside `item`, which by itself is in order."""
    match item:
        case str():
            _check_text(item)
        case Decimal() if abs(item.adjusted()) > EXPONENT_MAX or len(item.as_tuple().digits) > DIGITS_MAX:
            raise BadJsonError(NUMBER_WORDS)
        case int() if item.bit_length() > BITS_MAX:
            raise BadJsonError(NUMBER_WORDS)
        case Mapping():
            return (*item, *item.values())
        case list():
            return item
    return ()


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadJsonError("text must not contain half of a surrogate pair") from None


def _exact(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(format(value, "f"))
    raise TypeError(f"a {type(value).__name__} reached the answer")


def _spelled(value: Any) -> Any:
    match value:
        case bool():
            return value
        case int() if not -LONG_MAX <= value < LONG_MAX:
            return orjson.Fragment(str(value))
        case str():
            return value.encode(errors="replace").decode()
        case Mapping():
            return {_spelled(name): _spelled(item) for name, item in value.items()}
        case list() | tuple():
            return [_spelled(item) for item in value]
    return value
