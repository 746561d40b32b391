"""Links and commitments."""

import hashlib

import pytest

from app.kit import chain

SALT = bytes(range(16))


def test_a_link_is_the_hash_of_tag_previous_and_content() -> None:
    linked = chain.link(b"tag", chain.GENESIS, b"content")
    assert linked == hashlib.sha256(b"tag" + bytes(32) + b"content").digest()
    assert linked.hex() == "999855ab7a54b755420aadfd84fb5c76a69512b0113de5386106e16129e5a17c"


def test_every_part_changes_the_link() -> None:
    links = {
        chain.link(b"tag", chain.GENESIS, b"content"),
        chain.link(b"tag2", chain.GENESIS, b"content"),
        chain.link(b"tag", b"\x01" * 32, b"content"),
        chain.link(b"tag", chain.GENESIS, b"content2"),
    }
    assert len(links) == 4


@pytest.mark.parametrize("previous", [b"", bytes(31), bytes(33)])
def test_a_link_hangs_on_a_whole_hash(previous: bytes) -> None:
    with pytest.raises(AssertionError, match="whole hash"):
        chain.link(b"tag", previous, b"content")


def test_a_commitment_is_the_hash_of_salt_and_value() -> None:
    assert chain.commit(SALT, b"ACME") == hashlib.sha256(SALT + b"ACME").digest()
    assert chain.commit(SALT, b"ACME") != chain.commit(bytes(16), b"ACME")


@pytest.mark.parametrize("salt", [b"", bytes(15), bytes(17)])
def test_a_commitment_needs_a_whole_salt(salt: bytes) -> None:
    with pytest.raises(AssertionError, match="whole salt"):
        chain.commit(salt, b"ACME")


def test_secrets_are_compared_whole() -> None:
    assert chain.same(b"abc", b"abc")
    assert not chain.same(b"abc", b"abd")
    assert not chain.same(b"abc", b"ab")
