"""Who asks: the key of a request or a socket, and whether it still is one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from starlette.datastructures import Headers

from app.errors import AppError, Unavailable
from app.http.wire import RefusedError
from app.principal import Principal

SECRET_LENGTH_MAX = 8192
BEARER = "bearer "
# What a socket's connection_init may call it, first found wins.
PAYLOAD_NAMES = ("authorization", "apikey", "x-api-key", "api_key")
ADVICE = "send a valid key: Authorization: Bearer <key>, or X-API-Key: <key>"


class Authenticator(Protocol):
    """Knows keys; cached by whoever implements it, with revocations known everywhere within a second."""

    async def authenticate(self, secret: str) -> Principal | None:
        """Whose key this is, or None when it is nobody's (any more)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal and the secret that proves it, for as long as it does."""

    principal: Principal
    secret: str = field(repr=False)


def secret_of(headers: Headers) -> str | None:
    """The key in a request's headers."""
    authorization = headers.get("authorization")
    if authorization is not None:
        return _bearer(authorization)
    return _usable(headers.get("x-api-key"))


def secret_in(payload: Mapping[str, object]) -> str | None:
    """The key in the payload of a socket's connection_init, whatever the case of its name."""
    named = {name.lower(): value for name, value in payload.items()}
    for name in PAYLOAD_NAMES:
        value = named.get(name)
        if isinstance(value, str):
            return _bearer(value) if name == "authorization" else _usable(value)
    return None


async def caller_of(authenticator: Authenticator, secret: str | None) -> Caller:
    """Who asks; refuses with 401 when no key came or nobody has it, with 503 when that cannot be told now."""
    try:
        principal = await authenticator.authenticate(secret) if secret is not None else None
    except Unavailable as error:
        raise RefusedError(503, error.code, error.message, {"Retry-After": "1"}) from None
    except AppError as error:
        raise _unauthenticated(error.message) from None
    if principal is None or secret is None:
        raise _unauthenticated(ADVICE if secret is None else "there is no such key, or it is no longer valid")
    return Caller(principal, secret)


def _unauthenticated(message: str) -> RefusedError:
    return RefusedError(401, "UNAUTHENTICATED", message, {"WWW-Authenticate": 'Bearer realm="escrowgrid"'})


def _bearer(value: str) -> str | None:
    if value[: len(BEARER)].lower() != BEARER:
        return None
    return _usable(value[len(BEARER) :])


def _usable(value: str | None) -> str | None:
    """A key is one printable ASCII word; anything else is nobody's, and is not even looked up."""
    secret = (value or "").strip()
    if not secret or len(secret) > SECRET_LENGTH_MAX or not secret.isascii() or not secret.isprintable():
        return None
    return secret
