"""Keeps signing secrets: sealed with AES-256-GCM, so that the database alone tells none of them."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_FILE = "webhook.key"
KEY_BYTES = 32
NONCE_BYTES = 12


class CannotOpen(Exception):
    """The secret was sealed with another key than this server's, or was changed since."""


class Vault:
    """Seals and opens secrets; what is sealed for one row opens for no other."""

    def __init__(self, key: Callable[[], bytes], former: bytes | None = None) -> None:
        self._key = key
        self._cipher: AESGCM | None = None
        # Opens what was sealed before the key was turned over; seals nothing.
        self._former = None if former is None else AESGCM(former)

    def __repr__(self) -> str:
        return "Vault()"

    def seal(self, secret: bytes, place: str) -> bytes:
        """`secret` as it may be stored at `place`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._opened().encrypt(nonce, secret, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """The secret that was sealed for `place`; raises `CannotOpen`."""
        for cipher in (self._opened(), self._former):
            if cipher is not None:
                with suppress(InvalidTag):
                    return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode())
        raise CannotOpen("the signing secret does not open with this server's WEBHOOK_KEY") from None

    def _opened(self) -> AESGCM:
        # Not before it is needed: a server without webhooks makes no key.
        if self._cipher is None:
            self._cipher = AESGCM(self._key())
        return self._cipher


def vault_from(hex_key: str | None, folder: Path, former: str | None = None) -> Vault:
    """The vault of the settings' key, else of the key file of `folder`, made (0600) on first use."""
    before = None if former is None else bytes.fromhex(former)
    if hex_key is not None:
        key = bytes.fromhex(hex_key)
        return Vault(lambda: key, before)
    return Vault(lambda: _key_of(folder), before)


def place_of(institution_id: str, endpoint_id: str, secret_id: str) -> str:
    """The name of the row that a secret is sealed for."""
    return f"{institution_id}/{endpoint_id}/{secret_id}"


def _key_of(folder: Path) -> bytes:
    file = folder / KEY_FILE
    if not file.exists():
        folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        _make_key(file)
    return bytes.fromhex(file.read_text().strip())


def _make_key(file: Path) -> None:
    # Written whole (and 0600, by mkstemp) before it has its name: nobody ever reads half a key.
    descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{KEY_FILE}.")
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(os.urandom(KEY_BYTES).hex() + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):  # another process made it just now
            os.link(draft, file)
    finally:
        Path(draft).unlink()
