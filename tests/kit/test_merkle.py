"""The Merkle tree is that of RFC 6962."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kit.merkle import (
    EMPTY_ROOT,
    CompactRange,
    consistency_spans,
    inclusion_spans,
    is_consistent,
    leaf_hash,
    node_hash,
    perfect,
    root_by_inclusion,
)

# The leaves and roots of the Certificate Transparency reference tests.
LEAVES = [bytes.fromhex(leaf) for leaf in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def mth(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962 §2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert CompactRange().root() == EMPTY_ROOT


def test_roots_are_those_of_the_reference_vectors() -> None:
    tree = CompactRange()
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        tree.append(leaf)
        assert tree.root().hex() == root


@given(st.lists(st.binary(max_size=8), max_size=70), st.integers(0, 70))
def test_a_range_that_was_put_away_goes_on_as_the_definition_says(leaves: list[bytes], cut: int) -> None:
    tree = CompactRange()
    tree.extend(leaves[:cut])
    again = CompactRange(tree.size, tree.frontier)
    again.extend(leaves[cut:])
    assert again.root() == mth(leaves)


def test_a_frontier_that_does_not_fit_its_size_is_refused() -> None:
    with pytest.raises(ValueError, match="one hash for each bit"):
        CompactRange(3, [b"x" * 32])


def roots(leaves: list[bytes], spans: list[tuple[int, int]]) -> list[bytes]:
    return [mth(leaves[start:end]) for start, end in spans]


# Of the reference tests, too: (leaf, size) → path, and (first, size) → proof.
PATHS = {
    (0, 1): (),
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
PROOFS = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}


@pytest.mark.parametrize(("place", "path"), PATHS.items())
def test_inclusion_proofs_are_those_of_the_reference_vectors(
    place: tuple[int, int], path: tuple[str, ...]
) -> None:
    found = roots(LEAVES, inclusion_spans(*place))
    assert tuple(one.hex() for one in found) == path


@pytest.mark.parametrize(("sizes", "proof"), PROOFS.items())
def test_consistency_proofs_are_those_of_the_reference_vectors(
    sizes: tuple[int, int], proof: tuple[str, ...]
) -> None:
    assert tuple(one.hex() for one in roots(LEAVES[: sizes[1]], consistency_spans(*sizes))) == proof


def test_every_leaf_of_every_small_tree_is_proven_and_no_other_place_is() -> None:
    leaves = [bytes([number]) for number in range(40)]
    for size in range(1, 40):
        root = mth(leaves[:size])
        for index in range(size):
            path = roots(leaves, inclusion_spans(index, size))
            assert root_by_inclusion(leaves[index], index, size, path) == root
            if index + 1 < size:
                with_another_index = path_or_none(leaves[index], index + 1, size, path)
                assert with_another_index != root
            for wrong in (path[:-1], [*path, root]):
                if wrong != path:
                    assert path_or_none(leaves[index], index, size, wrong) != root


def path_or_none(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    try:
        return root_by_inclusion(leaf, index, size, path)
    except ValueError:
        return None


def test_every_small_tree_is_proven_to_be_the_beginning_of_every_larger_one() -> None:
    leaves = [bytes([number]) for number in range(40)]
    for size in range(1, 40):
        for first in range(1, size + 1):
            proof = roots(leaves, consistency_spans(first, size))
            whole, part = mth(leaves[:size]), mth(leaves[:first])
            assert is_consistent(first, part, size, whole, proof)
            for wrong in ([*proof, whole], proof[:-1], [whole, *proof[1:]]):
                if wrong != proof:
                    assert not is_consistent(first, part, size, whole, wrong)
            if first < size:
                assert not is_consistent(first, mth([b"x", *leaves[1:first]]), size, whole, proof)


@given(st.integers(0, 4000), st.integers(1, 4000))
def test_every_node_of_a_tree_is_made_of_perfect_subtrees(start: int, length: int) -> None:
    size = start + length
    for span in inclusion_spans(start, size):
        pieces = perfect(span)
        assert next(place << level for level, place in pieces) == span[0]
        assert sum(1 << level for level, _place in pieces) == span[1] - span[0]
        assert max(pieces)[0] == pieces[0][0]
        assert all((place << level) >= span[0] for level, place in pieces)
