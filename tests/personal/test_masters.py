"""Where master keys come from, and that a server without the right one says so and does not start."""

import os
import stat
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner
from pydantic import SecretStr, ValidationError

from app import rekeying
from app.errors import Invalid, Unavailable
from app.main import assemble
from app.operator_cli import personal
from app.personal.masters import FileMasters, GivenMasters, masters_of
from app.settings import Settings, StoreBackend
from app.storage.database import Address
from tests import factories
from tests.conftest import Run

ONE, TWO = "11" * 32, "22" * 32


def of_database(settings: Settings, address: Address) -> Settings:
    """For the command line, which connects by itself."""
    return settings.model_copy(
        update={"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    )


def given(settings: Settings, keys: str) -> Settings:
    return settings.model_copy(update={"personal_keys": SecretStr(keys)})


def test_keys_are_given_by_comma_and_the_first_seals() -> None:
    masters = GivenMasters(f"{ONE}, {TWO}")
    assert masters.current() == masters.all()[0]
    assert [masters.named(master.id) for master in masters.all()] == list(masters.all())
    with pytest.raises(
        Unavailable, match=r"sealed under the master key 0123, this server has [0-9a-f]{16}, "
    ):
        masters.named("0123")


@pytest.mark.parametrize("keys", ["", "11", f"{ONE},", f"{ONE},xyz", ONE + "1", "g" * 64])
def test_what_is_no_key_is_refused_without_being_told(keys: str) -> None:
    with pytest.raises(ValidationError, match="PERSONAL_KEYS: 64 hex digits each") as refused:
        Settings(personal_keys=SecretStr(keys))
    told = "; ".join(error["msg"] for error in refused.value.errors())
    assert not keys or keys not in told


def test_a_key_file_is_made_once_readable_by_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    masters = masters_of(settings)
    assert masters.all() == ()
    with pytest.raises(Unavailable, match="set PERSONAL_KEYS or PERSONAL_KEY_FILE"):
        masters.current()
    masters.make()
    first = masters.current()
    masters.make()
    assert masters_of(settings).current() == first
    file = tmp_path / "new" / "personal.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(list(file.parent.iterdir())) == 1, "no draft is left"


def test_a_file_that_was_named_is_not_made(tmp_path: Path) -> None:
    masters = masters_of(Settings(personal_key_file=tmp_path / "named.key", data_dir=tmp_path))
    masters.make()
    assert list(tmp_path.iterdir()) == []
    assert masters.all() == ()


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{ONE}\n")
    masters = FileMasters(file)
    before = masters.current()
    file.write_text(f"\n{TWO}\n{ONE}\n")
    os.utime(file, ns=(1, 1))
    assert masters.current() != before
    assert masters.named(before.id) == before
    masters.renew()
    assert len(masters.all()) == 3
    file.write_text("nonsense\n")
    with pytest.raises(Unavailable, match="a master key is 64 hex digits"):
        masters.all()


def test_given_keys_are_not_renewed_from_here() -> None:
    with pytest.raises(Invalid, match="put a new key before the others"):
        GivenMasters(ONE).renew()


async def test_a_server_without_the_databases_key_does_not_start(
    settings: Settings, address: Address, owner: asyncpg.Connection
) -> None:
    async with assemble(given(settings, ONE), address).running():
        pass
    needed = GivenMasters(ONE).current().id
    assert [row["id"] for row in await owner.fetch("SELECT id FROM master_keys")] == [needed]
    for other in (given(settings, TWO), settings):
        with pytest.raises(Unavailable, match=f"sealed under the master key {needed}, this server has"):
            async with assemble(other, address).running():
                raise AssertionError("it started")
    assert not (settings.data_dir / "personal.key").exists(), "no key is made beside the one that is missing"
    assert await owner.fetchval("SELECT count(*) FROM master_keys") == 1
    async with assemble(given(settings, f"{TWO},{ONE}"), address).running():
        pass


async def test_values_move_to_another_master_key_while_servers_run(
    settings: Settings, address: Address, owner: asyncpg.Connection, run: Run
) -> None:
    """`run` is a server that read its key file before the rotation, as is the second one."""
    async with assemble(settings, address).running() as _, assemble(settings, address).running():
        pass
    document = "{ positions { edges { node { holderReference } } } }"
    parts = assemble(settings, address)
    async with parts.running():
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, holder_reference="Jane")
        old = masters_of(settings).current().id
        connection_settings = of_database(settings, address)
        import asyncio

        await asyncio.to_thread(rekeying.rotate, connection_settings, make_key=True)
        new = masters_of(settings).current().id
        assert new != old
        assert [row[0] for row in await owner.fetch("SELECT master_id FROM institution_keys")] == [new]
        # Running servers go on, and seal what is new under the new key.
        other = await factories.place(parts.services)
        await factories.position(parts.services, other.asset, holder_reference="John")
        rows = await owner.fetch("SELECT DISTINCT master_id FROM institution_keys")
        assert [row[0] for row in rows] == [new]
        told = await run(document)
        assert {edge["node"]["holderReference"] for edge in told.data["positions"]["edges"]} == {
            "Jane",
            "John",
        }
    # Nothing needs the old one any more.
    file = settings.data_dir / "personal.key"
    file.write_text(file.read_text().splitlines()[0])
    async with assemble(settings, address).running():
        again = await run(document)
    assert again.data == told.data


async def test_the_command_tells_what_it_did(settings: Settings, address: Address) -> None:
    import asyncio

    parts = assemble(given(settings, ONE), address)
    async with parts.running():
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset)
    environment = {
        "STORE_BACKEND": "postgres",
        "DATABASE_URL": address.url,
        "PERSONAL_KEYS": f"{TWO},{ONE}",
        "DATA_DIR": str(settings.data_dir),
    }
    new, old = (master.id for master in GivenMasters(f"{TWO},{ONE}").all())
    told = await asyncio.to_thread(CliRunner(env=environment).invoke, personal, ["rotate"])
    assert told.exit_code == 0, told.output
    assert f"1 institutions' keys are sealed under the master key {new} now." in told.output
    assert f"Nothing needs {old} any more" in told.output
    refused = await asyncio.to_thread(CliRunner(env=environment).invoke, personal, ["rotate", "--make-key"])
    assert refused.exit_code == 1
    assert "put a new key before the others" in refused.output
