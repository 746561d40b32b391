"""The operator's half of the command line."""

from datetime import UTC, datetime
from pathlib import Path

import click

from app.faults import guarded, settings_of
from app.kit.clock import system_clock

MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"])


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--checkpoints",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="Also judge by checkpoints kept in this file (see `escrowgrid checkpoints export`).",
)
def verify(*, as_json: bool, checkpoints: Path | None) -> None:
    """Prove the ledger: every sequence, hash, balance, position, checkpoint. Exits with 1 when one is wrong."""
    from app import operate

    clean = guarded(lambda: operate.verify(settings_of(), as_json=as_json, checkpoint_file=checkpoints))
    raise SystemExit(0 if clean else 1)


@click.group()
def followers() -> None:
    """Durable consumers of the ledger."""


@followers.command("list")
def list_followers() -> None:
    """Where each stands, who leads it, what it parked."""
    from app import operate

    guarded(lambda: operate.list_followers(settings_of()))


@followers.command("reset")
@click.argument("name")
@click.argument("cursor", type=click.IntRange(min=0))
def reset(*, name: str, cursor: int) -> None:
    """Have NAME go on after the global sequence CURSOR."""
    from app import operate

    guarded(lambda: operate.reset_follower(settings_of(), name, cursor))


@followers.command("pause")
@click.argument("name")
def pause(*, name: str) -> None:
    """Stop NAME at its next page."""
    from app import operate

    guarded(lambda: operate.pause_follower(settings_of(), name, paused=True))


@followers.command("resume")
@click.argument("name")
def resume(*, name: str) -> None:
    """Let NAME go on."""
    from app import operate

    guarded(lambda: operate.pause_follower(settings_of(), name, paused=False))


@followers.command("unpark")
@click.argument("name")
@click.argument("global_sequence", type=click.IntRange(min=1), required=False)
def unpark(*, name: str, global_sequence: int | None) -> None:
    """Try parked events of NAME again: one, or all."""
    from app import operate

    guarded(lambda: operate.unpark(settings_of(), name, global_sequence))


@click.group()
def checkpoints() -> None:
    """Signed heads of the ledger."""


@checkpoints.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
def export(*, file: Path | None) -> None:
    """Write every checkpoint to FILE (or the terminal), one a line."""
    from app import operate

    guarded(lambda: operate.export_checkpoints(settings_of(), file))


@checkpoints.command("keys")
def checkpoint_keys() -> None:
    """Show which keys signed checkpoints and seals, each spelled as CHECKPOINT_KEYS_FORMER takes it."""
    from app import operate

    guarded(lambda: operate.list_keys(settings_of()))


@click.group()
def mirror() -> None:
    """The second copy of the ledger, in the database that MIRROR_URL names."""


@mirror.command("status")
@click.option(
    "--verify",
    "proved",
    is_flag=True,
    help="Verify the mirror as well, and where it is level compare every copied row.",
)
def mirror_status(*, proved: bool) -> None:
    """How far the mirror is behind, and both heads. Exits with 1 when what it has is not what the ledger has."""
    from app import mirroring

    equal = guarded(lambda: mirroring.status(settings_of(), proved=proved))
    raise SystemExit(0 if equal else 1)


@mirror.command("promote")
@click.option(
    "--ledger-is-lost",
    is_flag=True,
    help="The database of the ledger is gone for good: go on from what the mirror has.",
)
def mirror_promote(*, ledger_is_lost: bool) -> None:
    """Move the ledger to the mirror, once every server is stopped: nothing is lost, and cursors stay valid."""
    from app import mirroring

    guarded(lambda: mirroring.promote(settings_of(), ledger_is_lost=ledger_is_lost))


@mirror.command("abandon")
@click.option(
    "--mirror-is-gone",
    is_flag=True,
    help="The mirror's database cannot be reached, and no server will ever run on it.",
)
def mirror_abandon(*, mirror_is_gone: bool) -> None:
    """Open the ledger again where it was, when `promote` was cut off and the mirror will not take over."""
    from app import mirroring

    guarded(lambda: mirroring.abandon(settings_of(), mirror_is_gone=mirror_is_gone))


@click.group()
def audit() -> None:
    """Who asked for what, and what was answered."""


@audit.command("export")
@click.option("--institution", default=None, help="Only this institution's; all when absent.")
@click.option("--from", "start", type=MOMENT, default=None, help="From this time on (UTC unless it says so).")
@click.option("--to", "end", type=MOMENT, default=None, help="Before this time; now when absent.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
def export_audit(
    *, institution: str | None, start: datetime | None, end: datetime | None, file: Path | None
) -> None:
    """Write the audit to FILE (or the terminal), oldest first, one JSON object a line."""
    from app import operate

    until = _utc(end) or system_clock()
    guarded(lambda: operate.export_audit(settings_of(), institution, _utc(start), until, file))


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


@click.group()
def documents() -> None:
    """Trusted documents: asked for by their sha-256, and with TRUSTED_DOCUMENTS=only no others are run."""


@documents.command("add")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
def add_documents(*, files: tuple[Path, ...]) -> None:
    """Add FILES: each one GraphQL document, byte by byte, or (.json) a manifest of documents by their sha-256."""
    from app import trusted

    guarded(lambda: trusted.add(settings_of(), files))


@documents.command("list")
def list_documents() -> None:
    """List them, oldest first."""
    from app import trusted

    guarded(lambda: trusted.listing(settings_of()))


@documents.command("remove")
@click.argument("id")
def remove_document(*, id: str) -> None:
    """Remove the document with this ID; every process refuses it within seconds."""
    from app import trusted

    guarded(lambda: trusted.remove(settings_of(), id))


@click.group()
def personal() -> None:
    """What is known of persons, and the master keys that it is sealed under."""


@personal.command("rotate")
@click.option("--make-key", is_flag=True, help="Make a new key first, in the key file.")
def rotate_master(*, make_key: bool) -> None:
    """Seal what is personal under the first master key, whatever it was under; servers may run meanwhile."""
    from app import rekeying

    guarded(lambda: rekeying.rotate(settings_of(), make_key=make_key))


@click.command()
@click.option("--months", type=click.IntRange(1, 120), default=3, help="How many months ahead.")
def maintain(*, months: int) -> None:
    """Make the audit's monthly partitions ahead; servers do this too, once a day."""
    from app import operate

    guarded(lambda: operate.maintain(settings_of(), months))


@click.command("restore-finished")
@click.option("--reason", default="restored from a backup", help="Kept with the new epoch.")
def restore_finished(*, reason: str) -> None:
    """After a restore: begin a new epoch, so that cursors beyond the restored point are refused."""
    from app import operate

    guarded(lambda: operate.restore_finished(settings_of(), reason))


@click.group()
def webhooks() -> None:
    """Events sent to endpoints."""


@webhooks.command("reseal")
def reseal() -> None:
    """Seal every signing secret with WEBHOOK_KEY; those sealed before open with WEBHOOK_KEY_FORMER."""
    from app import operate

    guarded(lambda: operate.reseal_webhooks(settings_of()))


COMMANDS = (
    verify,
    followers,
    webhooks,
    checkpoints,
    mirror,
    audit,
    documents,
    personal,
    maintain,
    restore_finished,
)
