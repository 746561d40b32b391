"""The Merkle tree of RFC 6962 §2.1 (RFC 9162 §2.1): a compact range to grow it, its proofs, and their verification."""

import hashlib
from collections.abc import Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()

# The leaves from the first number up to, not including, the second.
Span = tuple[int, int]
# A perfect subtree: 2**level leaves, the place-th of that size.
Subtree = tuple[int, int]


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

    def append(self, leaf: bytes) -> list[bytes]:
        """Add one leaf; returns the roots of the perfect subtrees it completes, by level from 0 (itself)."""
        carry, size = leaf_hash(leaf), self.size
        completed = [carry]
        while size & 1:
            carry = node_hash(self._frontier.pop(), carry)
            completed.append(carry)
            size >>= 1
        self._frontier.append(carry)
        self.size += 1
        return completed

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves in order."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The tree's root: MTH(D[n])."""
        return fold(self._frontier) if self._frontier else EMPTY_ROOT


def fold(subtrees: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees that stand side by side, the largest first."""
    *left, found = subtrees
    for subtree in reversed(left):
        found = node_hash(subtree, found)
    return found


def perfect(span: Span) -> list[Subtree]:
    """The perfect subtrees that a node of the tree is made of, the largest first."""
    start, end = span
    found: list[Subtree] = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def inclusion_spans(index: int, size: int) -> list[Span]:
    """The nodes whose roots prove that leaf `index` (from 0) is in the tree of `size`: PATH(m, D[n]), bottom up."""
    if not 0 <= index < size:
        raise ValueError("the leaf is not in the tree")
    start, end, found = 0, size, list[Span]()
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def consistency_spans(first: int, size: int) -> list[Span]:
    """The nodes whose roots prove that the tree of `first` is where that of `size` began: PROOF(m, D[n])."""
    if not 0 < first <= size:
        raise ValueError("only a smaller tree that is not empty can be proven")
    start, end, whole, found = 0, size, True, list[Span]()
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start, whole = middle, False
    if not whole:
        found.append((start, end))
    return found[::-1]


def root_by_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 §2.1.3.2); `ValueError` when it has not the right length."""
    if not 0 <= index < size:
        raise ValueError("the leaf is not in the tree")
    here, last, found = index, size - 1, leaf_hash(leaf)
    for sibling in path:
        if last == 0:
            raise ValueError("the path is too long")
        if here & 1 or here == last:
            found = node_hash(sibling, found)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        here, last = here >> 1, last >> 1
    if last:
        raise ValueError("the path is too short")
    return found


def is_consistent(first: int, first_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree of `first` leaves is the beginning of the one of `size` (RFC 9162 §2.1.4.2)."""
    if not 0 < first <= size:
        return False
    if first == size:
        return not proof and first_root == root
    hashes = list(proof) if first.bit_count() != 1 else [first_root, *proof]
    if not hashes:
        return False
    here, last = first - 1, size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        here, last = here >> 1, last >> 1
    return last == 0 and before == first_root and after == root


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1
