"""Prefixed, time-ordered identifiers: a UUIDv7 (RFC 9562) in Crockford base32, lower case."""

import re
import secrets
from collections.abc import Callable

from app.kit.clock import Clock, system_clock

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_PATTERN = re.compile(r"[a-z]{2,5}_[0-7][0-9abcdefghjkmnpqrstvwxyz]{25}")
PAIRS = [high + low for high in ALPHABET for low in ALPHABET]
RANDOM_BITS = 62

RandomBits = Callable[[int], int]


class Ids:
    """Makes ids that sort in the order they were made, within this process and, to the millisecond, across."""

    def __init__(self, clock: Clock = system_clock, random_bits: RandomBits = secrets.randbits) -> None:
        self._clock = clock
        self._random_bits = random_bits
        self._last = 0

    def new(self, prefix: str) -> str:
        """`prefix` + `_` + 26 characters, greater than every id this object made before."""
        return f"{prefix}_{encode(self._next_uuid7())}"

    def _next_uuid7(self) -> int:
        micros = int(self._clock().timestamp() * 1_000_000)
        millis, rest = divmod(micros, 1000)
        # The 12 bits of rand_a carry the fraction of the millisecond (RFC 9562 §6.2, method 3).
        stamp = max((millis << 12) | (rest * 4096 // 1000), self._last + 1)
        self._last = stamp
        time_part, fraction = stamp >> 12, stamp & 0xFFF
        return time_part << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | self._random_bits(RANDOM_BITS)


def encode(value: int) -> str:
    """128 bits as 26 Crockford base32 characters, big end first, so that text order is number order."""
    return "".join([PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def is_id(text: str, prefix: str | None = None) -> bool:
    """Whether `text` is spelled like one of our ids (of that prefix)."""
    if ID_PATTERN.fullmatch(text) is None:
        return False
    return prefix is None or text.startswith(f"{prefix}_")
