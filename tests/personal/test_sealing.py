"""What is sealed opens with its own key, in its own place, and nowhere else."""

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from app.personal.sealing import (
    CannotOpen,
    Holder,
    InstitutionKey,
    Master,
    key_place,
    reference_place,
    seal,
    secret_place,
    unseal,
    value_place,
)

KEY = AESGCM(bytes(32))


@given(st.binary(max_size=500), st.text(max_size=50))
def test_what_was_sealed_opens_again(value: bytes, place: str) -> None:
    place = place.encode("utf-8", "replace").decode()
    assert unseal(KEY, seal(KEY, value, place), place) == value


def test_the_same_value_is_never_sealed_alike() -> None:
    assert len({seal(KEY, b"Jane", "here") for _ in range(50)}) == 50


@pytest.mark.parametrize("place", [0, 5, 12, 20, -1])
def test_a_changed_byte_is_found(place: int) -> None:
    sealed = bytearray(seal(KEY, b"Jane Q. Holder", "here"))
    sealed[place] ^= 1
    with pytest.raises(CannotOpen):
        unseal(KEY, bytes(sealed), "here")


@pytest.mark.parametrize("sealed", [b"", b"short", bytes(12), bytes(27)])
def test_what_is_too_short_to_be_sealed_does_not_open(sealed: bytes) -> None:
    with pytest.raises(CannotOpen):
        unseal(KEY, sealed, "here")


def test_neither_another_key_nor_another_place_opens() -> None:
    sealed = seal(KEY, b"Jane", "here")
    with pytest.raises(CannotOpen):
        unseal(KEY, sealed, "there")
    with pytest.raises(CannotOpen):
        unseal(AESGCM(os.urandom(32)), sealed, "here")


def test_every_place_is_another() -> None:
    places = [
        secret_place("a"),
        key_place("a", "b"),
        reference_place("a", "b"),
        value_place("a", "b", "holder"),
        value_place("a", "b", "reason"),
    ]
    assert len(set(places)) == len(places)


def test_a_blind_index_is_the_institutions_own() -> None:
    one, other = InstitutionKey.of(bytes(32)), InstitutionKey.of(b"\x01" * 32)
    assert one.blind("Jane") == one.blind("Jane")
    assert len(one.blind("Jane")) == 32
    assert one.blind("Jane") != one.blind("jane")
    assert one.blind("Jane") != other.blind("Jane")


def test_no_key_shows_itself() -> None:
    master = Master.of(bytes(range(32)))
    told = repr(master) + repr(InstitutionKey.of(bytes(range(32)))) + repr(Holder("hld_1", KEY))
    assert bytes(range(32)).hex() not in told
    assert "AESGCM" not in told
    assert len(master.id) == 16
    assert master.id != Master.of(bytes(32)).id
