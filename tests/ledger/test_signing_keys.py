"""The key that signs checkpoints can be replaced: what former keys signed holds, and nothing they sign later."""

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr, ValidationError

from app.ledger.signer import Signer, SigningKeys
from app.main import assemble
from app.positions.escrow import BUILT_IN
from app.positions.model import State
from app.settings import Settings
from app.storage.database import Address
from app.verify.findings import Report
from app.verify.walk import verify
from tests import factories
from tests.serving import ROOT, plain_environment

SEEDS = ["11" * 32, "22" * 32]
KEYS = [Signer(bytes.fromhex(seed)).public_key for seed in SEEDS]


async def signed(settings: Settings, address: Address, seed: str, folder: Path) -> None:
    """A server with that key, and something to sign; it signs the end when it stops."""
    changes = {"checkpoint_key": SecretStr(seed), "data_dir": folder, "checkpoint_seconds": 3600}
    made = assemble(settings.model_copy(update=changes), address)
    async with made.running():
        place = await factories.place(made.services, name=f"Acme {uuid4()}")
        await factories.position(made.services, place.asset, state=State.FUNDED)


def command(address: Address, folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = plain_environment() | {"STORE_BACKEND": "postgres", "DATABASE_URL": address.url}
    environment |= {"DATA_DIR": str(folder), "CHECKPOINT_KEY": SEEDS[1]} | settings
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


async def test_what_a_former_key_signed_holds_when_it_is_named_and_only_until_it_was_replaced(
    settings: Settings, address: Address, tmp_path: Path
) -> None:
    await signed(settings, address, SEEDS[0], tmp_path)
    await signed(settings, address, SEEDS[1], tmp_path)

    def told(*words: str, **given: str) -> subprocess.CompletedProcess[str]:
        return command(address, tmp_path, *words, **given)

    unnamed = await asyncio.to_thread(told, "verify")
    assert unnamed.returncode == 1
    assert "names another key than the ledger's" in unnamed.stdout
    listed = await asyncio.to_thread(told, "checkpoints", "keys")
    assert listed.returncode == 0, listed.stderr
    first, second = listed.stdout.splitlines()
    assert first.startswith(KEYS[0].hex() + "@")
    assert second.startswith(KEYS[1].hex() + "@")
    assert (first.endswith("in force here"), second.endswith("in force here")) == (False, True)
    named = await asyncio.to_thread(told, "verify", CHECKPOINT_KEYS_FORMER=first.split()[0])
    assert (named.returncode, "and 1 before it" in named.stdout) == (0, True), named.stdout

    async def judged(until_seconds: float) -> Report:
        until = settled_at + timedelta(seconds=until_seconds)
        return await verify(address.direct_url, BUILT_IN, keys=SigningKeys(KEYS[1], {KEYS[0]: until}))

    _key, _at, spelled = first.split()[0].partition("@")
    settled_at = settings.model_copy(
        update={"checkpoint_keys_former": f"{KEYS[0].hex()}@{spelled}"}
    ).former_checkpoint_keys[KEYS[0]]
    assert "names another key than the ledger's" in str((await judged(-1)).findings)

    # Whoever found the former key signs with it what comes later, and says that it was earlier.
    await signed(settings, address, SEEDS[0], tmp_path)
    report = await judged(3600)
    # One at its end; one more where it was slow to lead, and something was there to sign when it did.
    assert {one.message for one in report.findings if one.table == "checkpoints"} == {
        "a former key signed it after the one in force had"
    }


@pytest.mark.parametrize(
    "text",
    ["11" * 32, "1122@2026-01-01T00:00:00Z", "11" * 32 + "@yesterday", "11" * 32 + "@2026-01-01T00:00:00"],
)
def test_a_former_key_is_a_key_and_a_time_with_its_offset(text: str) -> None:
    with pytest.raises(ValidationError, match="CHECKPOINT_KEYS_FORMER"):
        Settings(checkpoint_keys_former=text)
