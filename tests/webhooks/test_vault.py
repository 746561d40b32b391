"""Secrets are sealed for one row with one key, and told by nothing that is printed."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from app.settings import Settings
from app.webhooks.vault import KEY_FILE, CannotOpen, Vault, place_of, vault_from

KEY = "ab" * 32
SECRET = b"0123456789abcdef0123456789abcdef"
PLACE = place_of("inst_1", "whe_1", "whs_1")


def test_what_was_sealed_opens_with_the_same_key_at_the_same_place(tmp_path: Path) -> None:
    sealed = vault_from(KEY, tmp_path).seal(SECRET, PLACE)
    assert len(sealed) == 60
    assert SECRET not in sealed
    assert vault_from(KEY, tmp_path).open(sealed, PLACE) == SECRET
    assert not list(tmp_path.iterdir()), "a key of the settings makes no file"


def test_the_same_secret_never_looks_the_same() -> None:
    vault = Vault(lambda: bytes(32))
    assert vault.seal(SECRET, PLACE) != vault.seal(SECRET, PLACE)


@pytest.mark.parametrize("change", ["key", "place", "bytes", "short"])
def test_nothing_else_opens_it(tmp_path: Path, change: str) -> None:
    sealed = vault_from(KEY, tmp_path).seal(SECRET, PLACE)
    vault = vault_from("cd" * 32 if change == "key" else KEY, tmp_path)
    place = place_of("inst_2", "whe_1", "whs_1") if change == "place" else PLACE
    if change == "bytes":
        sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    if change == "short":
        sealed = sealed[:20]
    with pytest.raises(CannotOpen) as caught:
        vault.open(sealed, place)
    assert caught.value.__cause__ is None
    assert "WEBHOOK_KEY" in str(caught.value)


def test_a_key_file_is_made_on_first_use_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for it"
    vault = vault_from(None, folder)
    assert not folder.exists(), "a server without webhooks makes no key"
    sealed = vault.seal(SECRET, PLACE)
    file = folder / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert vault_from(None, folder).open(sealed, PLACE) == SECRET
    assert [path.name for path in folder.iterdir()] == [KEY_FILE], "no draft is left"


async def test_processes_that_start_together_use_one_key(tmp_path: Path) -> None:
    vaults = [vault_from(None, tmp_path) for _ in range(8)]
    sealed = await asyncio.gather(*(asyncio.to_thread(vault.seal, SECRET, PLACE) for vault in vaults))
    assert {vaults[0].open(one, PLACE) for one in sealed} == {SECRET}


def test_a_vault_tells_nothing() -> None:
    assert repr(vault_from(KEY, Path(os.devnull))) == "Vault()"
    settings = Settings(webhook_key=KEY)  # type: ignore[arg-type]
    assert KEY not in repr(settings) + str(settings)


@pytest.mark.parametrize("key", ["", "ab", "zz" * 32, "ab" * 33])
def test_a_key_is_64_hex_digits(key: str) -> None:
    with pytest.raises(ValueError, match="WEBHOOK_KEY"):
        Settings(webhook_key=key)  # type: ignore[arg-type]
