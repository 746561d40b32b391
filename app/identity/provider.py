"""Reads the provider's key set over HTTP: a bounded answer in a bounded time, from where the settings say."""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from app.identity.keyring import Unreadable
from app.kit.canonical import Json, NotCanonical, parse_json

TIMEOUT_SECONDS = 5.0
ANSWER_BYTES_MAX = 262_144
DISCOVERY_PATH = "/.well-known/openid-configuration"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Provider:
    """One OpenID provider. Without `keys_url` it is asked for it, as OpenID Connect Discovery says."""

    def __init__(self, issuer: str, keys_url: str | None = None) -> None:
        self._issuer = issuer
        self._keys_url = keys_url

    async def keys(self) -> Sequence[Json]:
        """The key set as it is now; raises `Unreadable`."""
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False) as client,
            ):
                url = self._keys_url or await self._discovered(client)
                found = await _read(client, url)
        except TimeoutError:
            raise Unreadable(f"it did not answer within {TIMEOUT_SECONDS:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unreadable(type(error).__name__) from None
        keys = found.get("keys")
        if not isinstance(keys, list):
            raise Unreadable("what it answers is no key set")
        return keys

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        found = await _read(client, self._issuer.rstrip("/") + DISCOVERY_PATH)
        if found.get("issuer") != self._issuer:
            raise Unreadable("it calls itself by another name than OIDC_ISSUER")
        url = found.get("jwks_uri")
        if not isinstance(url, str) or not is_safe(url):
            raise Unreadable("its jwks_uri is not an https address")
        return url


def is_safe(url: str) -> bool:
    """Whether what comes from there can be believed: https, or this very machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK))


async def _read(client: httpx.AsyncClient, url: str) -> dict[str, Json]:
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        if answer.status_code != httpx.codes.OK:
            raise Unreadable(f"it answers with the status {answer.status_code}")
        body = b""
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > ANSWER_BYTES_MAX:
                raise Unreadable("its answer is too long")
    try:
        found = parse_json(body)
    except (NotCanonical, ValueError, RecursionError):
        raise Unreadable("its answer is not JSON") from None
    if not isinstance(found, dict):
        raise Unreadable("its answer is not a JSON object")
    return found
