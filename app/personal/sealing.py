"""How personal values are sealed: a holder's data key, under the institution's key, under a master key."""

import hashlib
import hmac
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12


class CannotOpen(Exception):
    """What is sealed was sealed with another key, or for another place, or was changed since."""


@dataclass(frozen=True, slots=True)
class Master:
    """A master key, known in the database by `id` alone."""

    id: str
    cipher: AESGCM = field(repr=False, compare=False)

    @classmethod
    def of(cls, key: bytes) -> "Master":
        """From its 32 bytes."""
        return cls(hashlib.sha256(b"escrowgrid/master/1" + key).hexdigest()[:16], AESGCM(key))


@dataclass(frozen=True, slots=True)
class InstitutionKey:
    """What one secret of an institution serves for: to seal data keys, and to find holders without reading them."""

    cipher: AESGCM = field(repr=False, compare=False)
    index: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> "InstitutionKey":
        """Two keys that tell nothing of one another."""
        return cls(AESGCM(_derived(secret, b"escrowgrid/seal/1")), _derived(secret, b"escrowgrid/index/1"))

    def blind(self, reference: str) -> bytes:
        """The same for the same holder reference, and nothing that tells it to whoever lacks the key."""
        return hmac.digest(self.index, reference.encode(), "sha256")


@dataclass(frozen=True, slots=True)
class Holder:
    """A holder who is not erased, as values are sealed for them."""

    id: str
    cipher: AESGCM = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A holder as the database keeps them. Nothing is left of one who was erased."""

    institution_id: str
    id: str
    reference: bytes | None
    data_key: bytes | None


def seal(cipher: AESGCM, value: bytes, place: str) -> bytes:
    """`value` as it may be stored at `place`; it opens for no other."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, value, place.encode())


def unseal(cipher: AESGCM, sealed: bytes, place: str) -> bytes:
    """What was sealed for `place`; raises `CannotOpen`."""
    try:
        return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode())
    except (InvalidTag, ValueError):
        raise CannotOpen(f"{place} cannot be opened") from None


def secret_place(institution_id: str) -> str:
    """Where the secret of an institution is kept."""
    return f"institution/{institution_id}"


def key_place(institution_id: str, holder_id: str) -> str:
    """Where the data key of a holder is kept."""
    return f"holder/{institution_id}/{holder_id}"


def reference_place(institution_id: str, holder_id: str) -> str:
    """Where the reference of a holder is kept."""
    return f"reference/{institution_id}/{holder_id}"


def value_place(institution_id: str, event_id: str, part: str) -> str:
    """Where a personal value of an event is kept."""
    return f"event/{institution_id}/{event_id}/{part}"


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hmac.digest(secret, purpose, "sha256")
