"""The command line: what runs servers, writes the schema and handles keys; `operator_cli` adds the rest."""

import asyncio
import errno
import os
import secrets
import socket
from pathlib import Path

import click
from pydantic import SecretStr

from app import onchain_cli, operator_cli
from app.faults import Fault, guarded, settings_of, unusable
from app.interrupts import Interrupts
from app.settings import Settings, StoreBackend
from app.storage.provide import provide

ROOT_KEY_FILE = "root.key"
SCHEMA_FILE = Path("schema.graphql")


@click.group()
def main() -> None:
    """Escrowgrid: a real-time ledger for what is held on somebody's behalf."""


@main.command()
@click.option("--memory", is_flag=True, help="Keep nothing: a database in memory, gone at exit.")
@click.option("--port", type=int, default=None, help="Port to listen on (default 8000).")
@click.option("--host", default=None, help="Address to listen on (default 127.0.0.1).")
@click.option("--no-demo", is_flag=True, help="Start empty: no demo institutions, nothing moves by itself.")
@click.option("--chain", is_flag=True, help="Anchor on a development chain of its own, gone at exit.")
def dev(*, memory: bool, port: int | None, host: str | None, no_demo: bool, chain: bool) -> None:
    """Everything in one process: database, demo data, GraphiQL."""
    changes: dict[str, object] = {}
    if memory:
        changes["store_backend"] = StoreBackend.MEMORY
    settings = settings_of(port=port, host=host, **changes)
    _check_port(settings)
    own = settings.root_api_key is not None
    settings = settings.model_copy(update={"root_api_key": SecretStr(_root_key(settings, keep=not memory))})

    def work() -> None:
        with Interrupts() as interrupts:
            from app.dev import run

            run(settings, interrupts, demo=not no_demo, chain=chain, tell_key=not own)

    guarded(work)


@main.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Server processes on the one port.")
@click.option("--port", type=int, default=None, help="Port to listen on (default 8000).")
@click.option("--host", default=None, help="Address to listen on (default 127.0.0.1).")
def serve(*, workers: int, port: int | None, host: str | None) -> None:
    """Serve the database that the settings name."""
    settings = settings_of(port=port, host=host)
    _check_port(settings)

    def work() -> None:
        with Interrupts() as interrupts:
            from app.dev import serve as run

            run(settings, interrupts, workers)

    guarded(work)


@main.command()
def migrate() -> None:
    """Bring the database to the newest schema and give the server's login its roles."""
    from urllib.parse import unquote, urlsplit

    from app.storage.migrate import grant
    from app.storage.migrate import migrate as bring_up

    settings = settings_of()

    def work() -> None:
        with provide(settings, attach=True) as address:
            asyncio.run(bring_up(address.owner_url))
            login = unquote(urlsplit(address.url).username or "")
            if address.url != address.owner_url and login:
                asyncio.run(grant(address.owner_url, login))
        click.echo("The database is at the newest schema.")

    guarded(work)


@main.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when schema.graphql has drifted.")
def schema(*, check: bool) -> None:
    """Write schema.graphql, the contract of the API."""
    from app.schema import build

    text = build(Settings()).as_str() + "\n"
    if not check:
        SCHEMA_FILE.write_text(text)
        click.echo(f"Wrote {SCHEMA_FILE}.")
    elif not SCHEMA_FILE.exists():
        raise Fault(f"there is no {SCHEMA_FILE} in this folder: run this where the project is")
    elif SCHEMA_FILE.read_text() != text:
        raise Fault("schema.graphql has drifted from the code: run `make schema` and commit what it writes")


@main.command("settings")
def list_settings() -> None:
    """List every setting: the environment variable, its value, what it means."""
    settings = settings_of()
    # Those of a part come behind the others.
    for name, field in sorted(
        Settings.model_fields.items(), key=lambda one: one[0] not in Settings.__annotations__
    ):
        click.echo(f"{name.upper()}={_shown(getattr(settings, name))}\n    {field.description}")


@main.group()
def keys() -> None:
    """API keys of institutions."""


@keys.command("create")
@click.option("--institution", required=True, help="The institution's id.")
@click.option("--label", required=True, help="What the key is for.")
@click.option("--role", type=click.Choice(["ADMIN", "OPERATOR", "READ_ONLY", "AUDITOR"]), default="READ_ONLY")
def create_key(*, institution: str, label: str, role: str) -> None:
    """Make a key; its secret is printed once."""
    from app import keys as work

    guarded(lambda: work.create(settings_of(), institution, label, role))


@keys.command("list")
@click.option("--institution", default=None, help="Only this institution's.")
def list_keys(*, institution: str | None) -> None:
    """List keys without their secrets."""
    from app import keys as work

    guarded(lambda: work.listing(settings_of(), institution))


@keys.command("revoke")
@click.argument("key_id")
def revoke_key(*, key_id: str) -> None:
    """Revoke a key; every process refuses it within a second."""
    from app import keys as work

    guarded(lambda: work.revoke(settings_of(), key_id))


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "(set, hidden)"
    return "" if value is None else ",".join(value) if isinstance(value, tuple) else str(value)


def _check_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise Fault(
                    f"cannot listen on {settings.host} ({error.strerror}): HOST has to be an address of this machine"
                ) from None
            if error.errno == errno.EACCES:
                raise Fault(
                    f"cannot listen on port {settings.port} ({error.strerror}): choose one from 1024 on, such as "
                    "`make run PORT=8123` (escrowgrid dev --port …)"
                ) from None
            raise Fault(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): stop what uses the port, or "
                f"choose another with `make run PORT={settings.port + 1}` (escrowgrid dev --port …)"
            ) from None


def _root_key(settings: Settings, *, keep: bool) -> str:
    """The key of the settings, else the kept one, else a new one (kept where it should be)."""
    if settings.root_api_key is not None:
        return settings.root_api_key.get_secret_value()
    made = f"egroot_{secrets.token_urlsafe(32)}"
    if not keep:
        return made
    file = settings.data_dir / ROOT_KEY_FILE
    try:
        if file.exists():
            return file.read_text().strip()
        settings.data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(made + "\n")
    except OSError as error:
        raise unusable(error, settings.data_dir) from None
    return made


for command in (*operator_cli.COMMANDS, *onchain_cli.COMMANDS):
    main.add_command(command)
