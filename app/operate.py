"""What an operator does beside a server: verify, steer followers, export checkpoints, maintain, finish a restore."""

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import asyncpg
import click

from app.audit import export
from app.audit import service as audit
from app.ledger import checkpoints, epochs, steering
from app.ledger.checkpoints import Checkpoint
from app.ledger.remembered import LastSigned
from app.ledger.signer import signing_keys_of
from app.personal.masters import masters_of
from app.positions.escrow import BUILT_IN
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.beside import Work, as_role, beside
from app.storage.database import Address, Database, DatabaseRole, Driver
from app.storage.provide import provide
from app.verify.findings import Report
from app.verify.keys import SignedBy, signed_by
from app.verify.walk import verify as walk
from app.webhooks import resealing
from app.webhooks.vault import vault_from

T = TypeVar("T")


def verify(settings: Settings, *, as_json: bool, checkpoint_file: Path | None) -> bool:
    """Prove the ledger; prints what was found and returns whether nothing was."""
    kept = read_checkpoints(checkpoint_file) if checkpoint_file else ()
    with provide(settings, attach=True) as address:
        report = asyncio.run(_verified(address, settings, kept, quiet=as_json))
    if as_json:
        findings = [{"table": f.table, "row": f.row, "message": f.message} for f in report.findings]
        told = {
            "clean": report.is_clean,
            "total": report.total,
            "lookedAt": report.looked_at,
            "notes": report.notes,
            "findings": findings,
        }
        click.echo(json.dumps(told, indent=2))
    else:
        _print(report)
    return report.is_clean


def read_checkpoints(file: Path) -> Sequence[Checkpoint]:
    """Checkpoints kept in a file, one a line."""
    try:
        return [Checkpoint.from_json(line) for line in file.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{file}: {error}") from None


def export_checkpoints(settings: Settings, file: Path | None) -> None:
    """Write every checkpoint, one a line, for keeping where the database's administrator cannot reach it."""

    async def work(driver: Driver) -> list[Checkpoint]:
        return await checkpoints.read_all(driver)

    lines = "".join(checkpoint.to_json() + "\n" for checkpoint in _as_feed(settings, work))
    if file is None:
        click.echo(lines, nl=False)
    else:
        file.write_text(lines)
        click.echo(f"Wrote {lines.count(chr(10))} checkpoints to {file}.")


def list_keys(settings: Settings) -> None:
    """Print by which keys checkpoints and seals were signed, from when to when."""
    present = signing_keys_of(settings).present

    async def work(driver: Driver) -> Sequence[SignedBy]:
        return await signed_by(driver)

    for one in _as_feed(settings, work):
        spelled = f"{one.public_key.hex()}@{one.until.isoformat(timespec='microseconds')}"
        force = "  in force here" if one.public_key == present else ""
        click.echo(f"{spelled}  {one.count} signatures since {one.since:%Y-%m-%d %H:%M:%S}Z{force}")


def list_followers(settings: Settings) -> None:
    """Print where every follower stands, and what it set aside."""

    async def work(driver: Driver) -> list[tuple[steering.Standing, Sequence[steering.Parked]]]:
        return [(one, await steering.parked(driver, one.name)) for one in await steering.standings(driver)]

    for one, parked in _as_feed(settings, work):
        state = "paused" if one.paused else f"led by {one.leader}" if one.leader else "nobody leads it"
        click.echo(
            f"{one.name}: at {one.cursor} of {one.head}, {one.lag} behind, {one.parked} parked, {state}"
        )
        if one.failure:
            click.echo(f"  failing: {one.failure}")
        for event in parked:
            click.echo(f"  parked {event.global_sequence} after {event.attempts} tries: {event.reason}")


def reset_follower(settings: Settings, name: str, cursor: int) -> None:
    """Have a follower go on after `cursor`."""
    _as_writer(settings, lambda driver: steering.reset(driver, name, cursor))
    click.echo(f"{name} goes on after event {cursor}.")


def pause_follower(settings: Settings, name: str, *, paused: bool) -> None:
    """Stop a follower, or let it go on."""
    _as_writer(settings, lambda driver: steering.pause(driver, name, paused=paused))
    click.echo(f"{name} {'is paused' if paused else 'goes on'}.")


def unpark(settings: Settings, name: str, global_sequence: int | None) -> None:
    """Ask for another try of parked events."""
    count = _as_writer(settings, lambda driver: steering.unpark(driver, name, global_sequence))
    click.echo(f"{count} parked events of {name} are tried again.")


def maintain(settings: Settings, months: int) -> None:
    """Make the audit's partitions ahead."""
    made = _as_writer(settings, lambda driver: audit.make_partitions(driver, months))
    missing = _as_writer(settings, lambda driver: audit.missing_partitions(driver, months))
    if missing:
        raise click.ClickException(
            f"{made} partitions made, {missing} are not there: their reasons are warnings in the database's log (such "
            "as a long reader, to be tried again), or their table was detached"
        )
    click.echo(f"{made} partitions made; the audit is ready for {months} months ahead.")


def reseal_webhooks(settings: Settings) -> None:
    """Seal the signing secrets of webhooks with the key in force."""
    key, former = settings.webhook_key, settings.webhook_key_former
    vault = vault_from(
        None if key is None else key.get_secret_value(),
        settings.data_dir,
        None if former is None else former.get_secret_value(),
    )

    async def run(url: str) -> resealing.Resealed:
        connection = await asyncpg.connect(url)
        try:
            return await resealing.reseal(connection, vault)
        finally:
            await connection.close()

    with provide(settings, attach=True) as address:
        done = asyncio.run(run(address.direct_url))
    if done.lost:
        raise click.ClickException(
            f"{done.sealed} secrets are sealed with the key in force; {done.lost} open with no key that is given: "
            "set WEBHOOK_KEY_FORMER, or have their endpoints' secrets turned over"
        )
    click.echo(f"{done.sealed} secrets are sealed with the key in force: WEBHOOK_KEY_FORMER can go.")


def export_audit(
    settings: Settings, institution_id: str | None, start: datetime | None, end: datetime, file: Path | None
) -> None:
    """Write the audit's lines, oldest first; of one institution, or of all."""

    async def work(address: Address, stream: BinaryIO) -> int:
        count, scope = 0, institution_id or ALL_INSTITUTIONS
        database = Database(
            address,
            pool_size_max=2,
            pool_timeout=settings.pool_timeout_seconds,
            statement_timeout=settings.statement_timeout_seconds,
        )
        try:
            async for page in export.pages(database, scope, export.Span(start, end)):
                stream.write(b"".join(map(export.line, page)))
                count += len(page)
        finally:
            await database.close()
        return count

    with provide(settings, attach=True) as address, _opened(file) as stream:
        count = asyncio.run(work(address, stream))
    click.echo(f"{count} audit events.", err=True)


@contextmanager
def _opened(file: Path | None) -> Iterator[BinaryIO]:
    """The file, else what the terminal shows."""
    if file is None:
        yield sys.stdout.buffer
        return
    with file.open("wb") as stream:
        yield stream


def restore_finished(settings: Settings, reason: str) -> None:
    """Begin a new epoch after a restore, so that cursors beyond it are refused."""
    with provide(settings, attach=True) as address:
        epoch = asyncio.run(epochs.begin(address.direct_url, reason))
        log_id = asyncio.run(_log_id(address))
    signed_here = LastSigned(settings.data_dir).forget(log_id)
    click.echo(f"Epoch {epoch} begins at the restored heads. Run `escrowgrid verify` before serving.")
    if not signed_here:
        click.echo(
            f"No server signed this ledger with DATA_DIR={settings.data_dir}. One that did elsewhere refuses to sign "
            "until this was run there, with its DATA_DIR."
        )


async def _verified(
    address: Address, settings: Settings, kept: Sequence[Checkpoint], *, quiet: bool
) -> Report:
    keys, masters = signing_keys_of(settings), masters_of(settings)
    opening = masters if masters.all() else None
    if opening is None and not quiet:
        click.echo("No master key is here: personal values are not opened.", err=True)
    log_id = await _log_id(address)
    line = LastSigned(settings.data_dir).read(log_id)
    last = {} if line is None else {log_id: Checkpoint.from_json(line)}
    proving = partial(walk, address.direct_url, BUILT_IN, masters=opening, keys=keys, kept=kept, last=last)
    if quiet or not sys.stderr.isatty():
        return await proving()
    with click.progressbar(length=1, label="Events", file=sys.stderr) as bar:

        def tell(done: int, total: int) -> None:
            bar.length = max(total, 1)
            if done % 500 == 0 or done == total:
                bar.update(done - bar.pos)

        return await proving(progress=tell)


async def _log_id(address: Address) -> str:
    async def work(driver: Driver) -> str:
        return (await epochs.read(driver)).log_id

    return await as_role(address, DatabaseRole.FEED, work)


def _print(report: Report) -> None:
    looked = ", ".join(f"{count} {table}" for table, count in sorted(report.looked_at.items()))
    click.echo(f"Looked at {looked or 'an empty ledger'}.")
    for finding in report.findings:
        click.echo(f"  {finding}")
    for note in report.notes:
        click.echo(f"Note: {note}.")
    if report.total > len(report.findings):
        click.echo(f"  … and {report.total - len(report.findings)} more")
    click.echo("The ledger is whole." if report.is_clean else f"{report.total} things do not hold.")


def _as_feed(settings: Settings, work: Work[T]) -> T:
    return beside(settings, DatabaseRole.FEED, work)


def _as_writer(settings: Settings, work: Work[T]) -> T:
    return beside(settings, DatabaseRole.WRITER, work)
