"""Opaque cursors: text that names a place in an order and cannot be mistaken for one of another order."""

import base64
import binascii

import orjson

from app.kit.chain import digest

CURSOR_LENGTH_MAX = 600
CHECK_LENGTH = 8


class BadCursor(ValueError):
    """A cursor that this server did not make, or made for something else."""


def seal(order: str, *parts: str | int) -> str:
    """A cursor of the named order holding `parts` (text, whole numbers of 64 bits), safe in URLs."""
    body = orjson.dumps([order, *parts])
    return base64.urlsafe_b64encode(_check(body) + body).decode().rstrip("=")


def unseal(order: str, cursor: str) -> list[str | int]:
    """The parts sealed into `cursor`; raises `BadCursor` unless it was made for this order."""
    if len(cursor) > CURSOR_LENGTH_MAX:
        raise BadCursor("the cursor is too long to be one of ours")
    try:
        packed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        check, body = packed[:CHECK_LENGTH], packed[CHECK_LENGTH:]
        if check != _check(body):
            raise BadCursor("the cursor is damaged or was not made by this server")
        found, *parts = orjson.loads(body)
    except (binascii.Error, UnicodeError, ValueError, TypeError) as error:
        if isinstance(error, BadCursor):
            raise
        raise BadCursor("the cursor is not one of ours") from None
    if found != order:
        raise BadCursor("the cursor belongs to a list with another order or filter")
    if not all(type(part) in (str, int) for part in parts):
        raise BadCursor("the cursor is not one of ours")
    return list(parts)


def _check(body: bytes) -> bytes:
    # Not a signature: it catches damage, and a cursor grants nothing that its holder could not ask for.
    return digest(b"escrowgrid.cursor" + body).hex()[:CHECK_LENGTH].encode()
