"""The command line of anchoring."""

from pathlib import Path

import click

from app.faults import guarded, settings_of


@click.group()
def anchor() -> None:
    """Heads of the ledger, anchored on the chain that CHAIN_URL names."""


@anchor.command("status")
def anchor_status() -> None:
    """What is anchored, what waits and why, what the account has. Exits with 1 when something is amiss."""
    from app import onchain

    raise SystemExit(0 if guarded(lambda: onchain.show(settings_of())) else 1)


@anchor.command("deploy")
@click.option(
    "--submitter", default=None, help="Address of the account that may submit; your own by default."
)
@click.option("--once", is_flag=True, help="Only if there is none yet where CHAIN_CONTRACT says.")
def anchor_deploy(*, submitter: str | None, once: bool) -> None:
    """Put the contract on the chain, once; the account of CHAIN_KEY pays and owns it."""
    from app import onchain

    guarded(lambda: onchain.deploy(settings_of(), submitter, once=once))


@anchor.command("retry")
def anchor_retry() -> None:
    """Try again what the contract reverted several times."""
    from app import onchain

    guarded(lambda: onchain.retry(settings_of()))


@anchor.command("consistency")
@click.argument("since")
@click.argument("until")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
def anchor_consistency(*, since: str, until: str, file: Path | None) -> None:
    """Write to FILE (or the terminal) what proves that the head of anchor UNTIL goes on from that of anchor SINCE."""
    from app import onchain

    guarded(lambda: onchain.write_consistency(settings_of(), since, until, file))


@click.command()
@click.argument("event")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
def prove(*, event: str, file: Path | None) -> None:
    """Write to FILE (or the terminal) what proves EVENT to anybody; verify_proof.py checks it."""
    from app import onchain

    guarded(lambda: onchain.write_proof(settings_of(), event, file))


COMMANDS = (anchor, prove)
