"""The embedded server is restored by the runbook to the letter: `restore-finished` is what starts it."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests import factories
from tests.restore.conftest import Site, archived, base_backup, ledger, lend
from tests.restore.test_point_in_time import write
from tests.serving import ROOT, plain_environment


async def test_restore_finished_waits_for_the_recovery_of_an_embedded_server(
    site: Site, serve, tmp_path: Path
) -> None:
    async with ledger(site) as first:
        async with serve(first.address) as parts:
            place = await factories.place(parts.services)
            await write(parts.services, place, 1)
            await asyncio.to_thread(base_backup, first.running, site.folder / "second")
            for _ in range(3):
                await write(parts.services, place, 1)
                await first.ask("SELECT pg_switch_wal()")
            await first.ask("SELECT pg_create_restore_point('before_the_mistake')")
            await write(parts.services, place, 1)
        await archived(first, site)
        first.running.kill()
    data = site.folder / "second" / "data"
    with (data / "postgresql.auto.conf").open("a") as file:
        # A recovery that takes a while, as that of a day does.
        restoring = site.restoring(name="before_the_mistake")
        restoring["restore_command"] = "sleep 0.5; " + restoring["restore_command"]
        file.writelines(f"{name} = '{value}'\n" for name, value in restoring.items())
    (data / "recovery.signal").touch()
    lend(data, data)
    environment = plain_environment() | {
        "STORE_BACKEND": "embedded",
        "DATA_DIR": str(site.folder / "second"),
        "PATH": os.environ["PATH"],
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "app.cli", "restore-finished"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Epoch 2 begins" in done.stdout
