"""Hashes that bind a value to what came before it."""

import hashlib
import hmac

HASH_BYTES = 32
SALT_BYTES = 16
GENESIS = bytes(HASH_BYTES)


def link(tag: bytes, previous: bytes, content: bytes) -> bytes:
    """sha256(tag ‖ previous ‖ content): the hash of one link, where `previous` is the hash before it."""
    assert len(previous) == HASH_BYTES, "a link hangs on a whole hash"
    return hashlib.sha256(tag + previous + content).digest()


def commit(salt: bytes, value: bytes) -> bytes:
    """H(salt ‖ value): binds to a value without telling it; once the salt is erased nobody can guess it."""
    assert len(salt) == SALT_BYTES, "a commitment needs a whole salt"
    return hashlib.sha256(salt + value).digest()


def digest(content: bytes) -> bytes:
    """sha256 of bytes that stand alone."""
    return hashlib.sha256(content).digest()


def same(left: bytes, right: bytes) -> bool:
    """Compare secrets without telling by the time it takes how far they agree."""
    return hmac.compare_digest(left, right)
