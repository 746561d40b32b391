"""Who signs: a key of the environment or of an encrypted keystore file. The key is never shown and never logged."""

import json
from pathlib import Path
from typing import Any, Protocol

from eth_account import Account
from eth_account.signers.local import LocalAccount
from pydantic import SecretStr

from app.errors import Invalid
from app.settings import Settings

NO_KEY = "CHAIN_KEY is 64 hex digits: a private key of secp256k1"
NO_STORE = "CHAIN_KEYSTORE cannot be opened with CHAIN_KEYSTORE_PASSWORD"


class Signer(Protocol):
    """Signs transactions of one account; another kind of it may ask a device or a service."""

    @property
    def address(self) -> str:
        """The account, with its checksum."""

    async def sign(self, transaction: dict[str, Any]) -> tuple[bytes, bytes]:
        """The raw transaction, and its hash."""


class LocalSigner:
    """A key in this process's memory."""

    def __init__(self, account: LocalAccount) -> None:
        self._account = account

    def __repr__(self) -> str:
        return f"LocalSigner({self.address})"

    def __reduce__(self) -> str:
        raise TypeError("a signer is not copied to elsewhere")

    @property
    def address(self) -> str:
        """The account, with its checksum."""
        return str(self._account.address)

    async def sign(self, transaction: dict[str, Any]) -> tuple[bytes, bytes]:
        """The raw transaction, and its hash."""
        signed = self._account.sign_transaction(transaction)
        return bytes(signed.raw_transaction), bytes(signed.hash)


def signer_from(settings: Settings) -> LocalSigner:
    """The signer that the settings name; raises `Invalid`, which tells nothing of the key."""
    if settings.chain_key is not None:
        return from_key(settings.chain_key)
    assert settings.chain_keystore is not None, "the settings demand a key"
    return from_keystore(settings.chain_keystore, settings.chain_keystore_password)


def from_key(key: SecretStr) -> LocalSigner:
    """Of a private key in hex."""
    try:
        return LocalSigner(Account.from_key(key.get_secret_value()))
    except Exception:  # noqa: BLE001 - whatever it says may quote the key
        raise Invalid(NO_KEY) from None


def from_keystore(file: Path, password: SecretStr | None) -> LocalSigner:
    """Of a keystore file (Web3 Secret Storage, version 3), as geth and others write it."""
    try:
        text = file.read_text()
    except OSError as error:
        raise Invalid(f"CHAIN_KEYSTORE cannot be read: {error.strerror}") from None
    try:
        key = Account.decrypt(json.loads(text), "" if password is None else password.get_secret_value())
        return LocalSigner(Account.from_key(key))
    except Exception:  # noqa: BLE001 - as above
        raise Invalid(NO_STORE) from None
