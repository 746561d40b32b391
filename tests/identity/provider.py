"""An OpenID provider of the tests' own: it publishes keys over HTTP and signs tokens with them."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "escrowgrid"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass
class SigningKey:
    """A private key, and how the provider publishes the public half."""

    id: str
    algorithm: str
    private: Private
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def new(cls, id: str, algorithm: str = "ES256", **extra: Any) -> "SigningKey":
        made: Private
        match algorithm:
            case "ES256":
                made = ec.generate_private_key(ec.SECP256R1())
            case "ES384":
                made = ec.generate_private_key(ec.SECP384R1())
            case "EdDSA":
                made = ed25519.Ed25519PrivateKey.generate()
            case _:
                made = rsa.generate_private_key(65537, extra.pop("bits", 2048))
        return cls(id, algorithm, made, extra)

    def jwk(self, *, private: bool = False) -> dict[str, Any]:
        key: Any = self.private if private else self.private.public_key()
        kind: Any = {"ES": ECAlgorithm, "Ed": OKPAlgorithm}.get(self.algorithm[:2], RSAAlgorithm)
        found: dict[str, Any] = kind.to_jwk(key, as_dict=True)
        return (
            {key: value for key, value in found.items() if key != "key_ops"} | {"kid": self.id} | self.extra
        )


@dataclass
class Provider:
    """What it answers, and how often it was asked."""

    issuer: str = ""
    keys: list[SigningKey] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)
    status: int = 200
    delay: float = 0.0
    body: bytes | None = None
    said_issuer: str | None = None
    said_keys_url: str | None = None

    def answer(self, path: str) -> bytes:
        self.asked[path] = self.asked.get(path, 0) + 1
        if self.body is not None and path == "/keys":
            return self.body
        if path == "/.well-known/openid-configuration":
            found: Mapping[str, Any] = {
                "issuer": self.said_issuer or self.issuer,
                "jwks_uri": self.said_keys_url or f"{self.issuer}/keys",
            }
        else:
            found = {"keys": [key.jwk() for key in self.keys]}
        return json.dumps(found).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = self.answer(head.split()[1].decode())
            await asyncio.sleep(self.delay)
            writer.write(
                f"HTTP/1.1 {self.status} x\r\nLocation: {self.issuer}/other\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def publish(self, *keys: SigningKey) -> None:
        """Have other keys from now on; nobody asks for them again within a moment."""
        self.keys = list(keys)
        await asyncio.sleep(0.05)

    def token(
        self, key: SigningKey | None = None, *, headers: Mapping[str, Any] | None = None, **changed: Any
    ) -> str:
        """A token that is good but for what is changed; a claim changed to None is left out."""
        by = key or self.keys[0]
        claims = {name: value for name, value in (self.claims() | changed).items() if value is not None}
        kept = {
            name: value for name, value in ({"kid": by.id} | dict(headers or {})).items() if value is not None
        }
        return jwt.encode(claims, by.private, algorithm=by.algorithm, headers=kept)

    def claims(self) -> dict[str, Any]:
        now = time.time()
        return {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "somebody",
            "iat": now - 1,
            "nbf": now - 1,
            "exp": now + 300,
            "role": "admin",
        }


@asynccontextmanager
async def provided(*keys: SigningKey) -> AsyncIterator[Provider]:
    """A provider on a port of its own."""
    provider = Provider(keys=list(keys))
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        await server.wait_closed()


def forged(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    """A token spelled by hand."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
