"""`escrowgrid anchor` and `escrowgrid prove`: how anchoring stands, the contract, and proofs for others."""

import asyncio
import json
from pathlib import Path

import click

from app.anchoring import consistency, service, status
from app.anchoring.model import Anchor, Mode, State
from app.anchoring.proof import NotProven, prove
from app.anchoring.status import Status
from app.errors import Invalid, NotFound, Unavailable
from app.kit.clock import system_clock
from app.ledger.model import Event
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.beside import as_role
from app.storage.database import Address, Database, DatabaseRole, Driver
from app.storage.provide import provide


def show(settings: Settings) -> bool:
    """Print how anchoring stands; returns whether nothing is amiss."""
    with provide(settings, attach=True) as address:
        found = asyncio.run(as_role(address, DatabaseRole.FEED, status.read))
    for line in _lines(found):
        click.echo(line)
    return not _alarms(found)


def retry(settings: Settings) -> None:
    """Have failed anchors tried again."""
    with provide(settings, attach=True) as address:
        count = asyncio.run(as_role(address, DatabaseRole.WRITER, status.retry))
    click.echo(f"{count} failed anchors are tried again.")


def deploy(settings: Settings, submitter: str | None, *, once: bool = False) -> None:
    """Put the contract on the chain and print what to set; `once`: only if it is not where CHAIN_CONTRACT says."""
    # Web3 is large and slow to load.
    from app.anchoring.deploying import deploy as put
    from app.anchoring.deploying import has_contract
    from app.anchoring.keys import signer_from

    if settings.chain_url is None or settings.chain_id is None:
        raise Invalid("set CHAIN_URL and CHAIN_ID")
    if settings.chain_key is None and settings.chain_keystore is None:
        raise Invalid("set CHAIN_KEY, or CHAIN_KEYSTORE and CHAIN_KEYSTORE_PASSWORD")
    url, wanted = settings.chain_url.get_secret_value(), settings.chain_contract
    if once and wanted is None:
        raise Invalid("--once looks where CHAIN_CONTRACT says: set it")
    if once and wanted is not None and asyncio.run(has_contract(url, wanted)):
        click.echo(f"The contract is at {wanted} already.")
        return
    expected = wanted if once else None
    contract, gas = asyncio.run(
        put(url, signer_from(settings), chain_id=settings.chain_id, submitter=submitter, expected=expected)
    )
    click.echo(f"Deployed with {gas} gas. Set\nCHAIN_CONTRACT={contract}")


def write_proof(settings: Settings, event_id: str, file: Path | None) -> None:
    """Write what proves an event, as JSON."""
    with provide(settings, attach=True) as address:
        document = asyncio.run(_proven(settings, address, event_id))
    _write(document, file)


def write_consistency(settings: Settings, since: str, until: str, file: Path | None) -> None:
    """Write what proves that anchor `until` goes on from anchor `since`, as JSON."""
    with provide(settings, attach=True) as address:
        document = asyncio.run(_consistent(settings, address, since, until))
    _write(document, file)


def _write(document: object, file: Path | None) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if file is None:
        click.echo(text, nl=False)
    else:
        file.write_text(text)
        click.echo(f"Wrote {file}. Check it with: python verify_proof.py {file}")


async def _proven(settings: Settings, address: Address, event_id: str) -> object:
    event, anchor = await _covered(settings, address, event_id)

    async def work(driver: Driver) -> object:
        return (await prove(driver, event, anchor)).document()

    try:
        return await as_role(address, DatabaseRole.FEED, work)
    except NotProven as error:
        raise Unavailable(str(error)) from None


async def _consistent(settings: Settings, address: Address, since: str, until: str) -> object:
    database = _database(settings, address)
    try:
        async with database.reading(ALL_INSTITUTIONS) as connection:
            found = await service.by_id(connection, ALL_INSTITUTIONS, [since, until])
    finally:
        await database.engine.dispose()
    for id_ in (since, until):
        if id_ not in found or found[id_].mode is not Mode.ANCHOR:
            raise NotFound(f"anchor {id_} of a head")
        if not consistency.is_provable(found[id_]):
            raise Unavailable(f"anchor {id_} is {found[id_].state}, not on the chain")

    async def work(driver: Driver) -> object:
        return (await consistency.prove(driver, found[since], found[until])).document()

    try:
        return await as_role(address, DatabaseRole.FEED, work)
    except NotProven as error:
        raise Unavailable(str(error)) from None


def _database(settings: Settings, address: Address) -> Database:
    return Database(
        address,
        pool_size_max=2,
        pool_timeout=settings.pool_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
    )


async def _covered(settings: Settings, address: Address, event_id: str) -> tuple[Event, Anchor]:
    database = _database(settings, address)
    try:
        async with database.reading(ALL_INSTITUTIONS) as connection:
            found = await service.covering(connection, ALL_INSTITUTIONS, [event_id], on_chain=True)
            if event_id in found:
                return found[event_id]
            on_its_way = await service.covering(connection, ALL_INSTITUTIONS, [event_id])
    finally:
        await database.engine.dispose()
    if event_id in on_its_way:
        raise Unavailable(
            f"the event is on its way to the chain: its anchor is {on_its_way[event_id][1].state}"
        )
    raise NotFound("event in any anchored head (see `escrowgrid anchor status`)")


def _alarms(found: Status) -> list[str]:
    alarms = [chain.failure for chain in found.chains if chain.failure is not None]
    alarms += [f"account {chain.account} is nearly empty" for chain in found.chains if chain.balance_low]
    alarms += [
        f"anchor {one.id} failed: {one.failure}" for one in found.unsettled if one.state is State.FAILED
    ]
    return alarms


def _lines(found: Status) -> list[str]:
    if not found.chains:
        return ["No server has anchored this ledger on any chain."]
    lines: list[str] = []
    for chain in found.chains:
        has = "?" if chain.balance is None else f"{chain.balance:f}"
        lines.append(f"chain {chain.chain_id}, contract {chain.contract}: block {chain.block_number}")
        lines.append(f"  account {chain.account} has {has}; looked at {chain.checked_at:%Y-%m-%d %H:%M:%S}Z")
    waits = (
        ""
        if found.waiting_since is None
        else (f", the oldest other waits {(system_clock() - found.waiting_since).total_seconds():.0f} s")
    )
    lines.append(f"ledger: {found.ledger} events, {found.mined} anchored, {found.final} of them final{waits}")
    counted = ", ".join(f"{count} {state}" for state, count in sorted(found.states.items()))
    lines.append(f"anchors: {counted or 'none'}; {found.reorgs} reorganised, {found.reverts} reverted")
    if found.recorded or found.to_record or found.skipped:
        lines.append(f"records: {found.recorded} taken, {found.to_record} waiting, {found.skipped} skipped")
    lines += [f"  skipped {count}: {reason}" for reason, count in found.reasons.items()]
    for one in found.unsettled:
        lines.append(f"  {one.id} {one.mode} {one.state}" + (f": {one.failure}" if one.failure else ""))
    lines += [f"ALARM: {alarm}" for alarm in _alarms(found)]
    return lines
