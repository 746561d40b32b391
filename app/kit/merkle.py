"""The Merkle tree of RFC 6962 §2.1, kept as a compact range: enough to append and to tell the root, and no more."""

import hashlib
from collections.abc import Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """sha256(0x00 ‖ leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """sha256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactRange:
    """The roots of the perfect subtrees that `size` leaves fall into, the largest first."""

    def __init__(self, size: int = 0, frontier: Sequence[bytes] = ()) -> None:
        if len(frontier) != size.bit_count():
            raise ValueError("a compact range has one hash for each bit of its size")
        self.size = size
        self._frontier = list(frontier)

    @property
    def frontier(self) -> tuple[bytes, ...]:
        """What has to be kept to go on."""
        return tuple(self._frontier)

    def append(self, leaf: bytes) -> None:
        """Add one leaf."""
        carry, size = leaf_hash(leaf), self.size
        while size & 1:
            carry = node_hash(self._frontier.pop(), carry)
            size >>= 1
        self._frontier.append(carry)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves in order."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The tree's root: MTH(D[n])."""
        if not self._frontier:
            return EMPTY_ROOT
        *left, found = self._frontier
        for subtree in reversed(left):
            found = node_hash(subtree, found)
        return found
