"""Signatures by Standard Webhooks 1.0: HMAC-SHA256 of `id.timestamp.body`, one for each secret in force."""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime

SECRET_START = "whsec_"  # noqa: S105 - how a secret begins, not one
SECRET_BYTES = 32


def spell(secret: bytes) -> str:
    """A secret as receivers' libraries take it."""
    return SECRET_START + base64.b64encode(secret).decode()


def headers(webhook_id: str, moment: datetime, body: bytes, secrets: Sequence[bytes]) -> Mapping[str, str]:
    """The three headers of an attempt made at `moment`; the newest secret's signature comes first."""
    assert secrets, "an endpoint always has a secret in force"
    timestamp = str(int(moment.timestamp()))
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_sign(secret, webhook_id, timestamp, body) for secret in secrets),
    }


def _sign(secret: bytes, webhook_id: str, timestamp: str, body: bytes) -> str:
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
