"""The key that signs heads of the ledger, and where it is kept."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEY_FILE = "checkpoint.key"
SEED_BYTES = 32


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


def public_key_from(hex_seed: str | None, folder: Path) -> bytes | None:
    """The public half of the same key where this machine has it; a key is never made for judging."""
    if hex_seed is None and not (folder / KEY_FILE).exists():
        return None
    return signer_from(hex_seed, folder).public_key
