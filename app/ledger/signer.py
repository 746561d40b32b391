"""The key that signs heads of the ledger, where it is kept, and which keys signed before it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.settings import Settings

KEY_FILE = "checkpoint.key"
SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Whose signatures count: the key in force, and those before it for as long as they were in force."""

    # None where this machine does not have it: then every signature is judged by the key that it names.
    present: bytes | None = None
    former: Mapping[bytes, datetime] = field(default_factory=dict)

    def judging(self, named: bytes, signed_at: datetime) -> bytes:
        """By which key a signature of that time is judged that names `named`."""
        until = self.former.get(named)
        if self.present is None or (until is not None and signed_at <= until):
            return named
        return self.present

    def __str__(self) -> str:
        if self.present is None:
            return "the key each names itself: who made them up could have signed them"
        former = f" and {len(self.former)} before it" if self.former else ""
        return f"the key {self.present.hex()}{former}"


class Signer:
    """The ledger's Ed25519 key; its repr shows the public half alone."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def __repr__(self) -> str:
        return f"Signer({self.public_key.hex()})"

    def sign(self, content: bytes) -> bytes:
        """An Ed25519 signature (64 bytes)."""
        return self._key.sign(content)


def signer_from(hex_seed: str | None, folder: Path) -> Signer:
    """The signer of the settings, else of the key file of `folder`, made (0600) on first use."""
    if hex_seed is not None:
        return Signer(bytes.fromhex(hex_seed))
    file = folder / KEY_FILE
    if not file.exists():
        folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        # Written whole before it gets its name: of processes that start at once, one names its own, all read that.
        with NamedTemporaryFile("w", dir=folder, prefix=f"{KEY_FILE}.") as draft:
            draft.write(os.urandom(SEED_BYTES).hex() + "\n")
            draft.flush()
            os.fsync(draft.fileno())
            with suppress(FileExistsError):
                file.hardlink_to(draft.name)
    return Signer(bytes.fromhex(file.read_text().strip()))


def signing_keys_of(settings: Settings) -> SigningKeys:
    """The public halves of the keys of the settings; none is ever made for judging."""
    key, former = settings.checkpoint_key, settings.former_checkpoint_keys
    if key is None and not (settings.data_dir / KEY_FILE).exists():
        return SigningKeys(None, former)
    seed = None if key is None else key.get_secret_value()
    return SigningKeys(signer_from(seed, settings.data_dir).public_key, former)
