"""Every promise of DESIGN §14, put to it for as long as there is time: `make soak MINUTES=20`.

The time is shared among the rows. A line shows how far the present one is; at the end a table tells how far each came,
and the exit code says whether any promise was broken. Nothing stays behind.
"""

import asyncio
import logging
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import click

from tests.reliability import rearranging, tampering
from tests.reliability.apart import subscriptions_apart
from tests.reliability.conservation import money_is_conserved
from tests.reliability.crash import crash_database, kill_servers
from tests.reliability.equality import answered_alike
from tests.reliability.expiry import deadlines
from tests.reliability.fairness import flooding
from tests.reliability.hot import hot_positions
from tests.reliability.joining import thousand_joining
from tests.reliability.ledger_to_tamper import take_over, write
from tests.reliability.resuming import resume
from tests.reliability.retries import equal_commands
from tests.reliability.returning import thousand_on_sockets
from tests.reliability.site import Nursery, Site, opened
from tests.reliability.stalling import stalled_subscribers
from tests.reliability.stream import tail_under_fire
from tests.reliability.tally import Limit, Tally, rounds, table

ALWAYS = 1_000_000
TICK_SECONDS = 0.5
TAMPERED_ROWS = 3

Experiment = Callable[[Tally, Limit, Site], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Row:
    """One promise: its share of the time, and whether it goes on with the database of the row before."""

    name: str
    unit: str
    share: float
    run: Experiment
    goes_on: bool = False


async def _tampered(tally: Tally, limit: Limit, site: Site) -> None:
    """A small ledger, everything that can be done to it, again and again."""
    evidence = await write(site.address(), site.folder / "evidence")
    inspector = tampering.Inspector(site.address(), evidence, tally)
    async with site.connected() as owner:
        await take_over(owner)
        for _ in rounds(limit, tally):
            await rearranging.everything(owner, inspector, tally)
            await tampering.every_column(tally, limit, owner, inspector, rows=TAMPERED_ROWS)
            await inspector.clean("everything was undone")


async def _verified(tally: Tally, limit: Limit, site: Site) -> None:
    """How fast a ledger of that size is proved."""
    for _ in rounds(limit, tally):
        began = time.monotonic()
        report = await site.verify()
        taken = time.monotonic() - began
        tally.reached += report.looked_at["ledger_events"]
        tally.notes["speed"] = f"{report.looked_at['ledger_events'] / taken:,.0f} events/s"
        tally.require(report.is_clean, f"verify: {report.findings[:3]}")


def rows(seconds: float) -> list[Row]:
    """All of them; what comes in rounds has rounds that fit the time."""
    positions = _scaled(seconds * 5, 500, 10_000)
    backlog = _scaled(seconds * 20, 2_000, 20_000)
    return [
        # First what comes in rounds, so that the others have the time that is really left.
        Row("subscriptions apart", "attempts", 0.4, subscriptions_apart),
        Row("fifty equal commands", "times", 0.6, equal_commands),
        Row("beside a flood", "comparisons", 0.5, flooding),
        Row("a thousand on sockets", "subscriptions", 0.6, thousand_on_sockets),
        Row("a thousand joining", "subscribers", 0.8, partial(thousand_joining, backlog=backlog)),
        Row("stalled subscribers", "stalled", 1, partial(stalled_subscribers, events=150)),
        Row("deadlines", "positions", 1.5, partial(deadlines, positions=positions)),
        Row("tampering", "changes", 1.5, _tampered),
        Row("the tail under fire", "events", 3, partial(tail_under_fire, crashes=ALWAYS)),
        Row("verify", "events", 0.3, _verified, goes_on=True),
        Row("kill -9 of the server", "kills", 3, kill_servers),
        Row("crash of the database", "crashes", 1.5, crash_database),
        Row("hot positions", "operations", 2, hot_positions),
        Row("money is conserved", "runs", 2, money_is_conserved),
        Row("plans and graphql-core", "documents", 1.5, answered_alike),
        Row("resuming when killed", "kills", 0.4, resume),
    ]


def _scaled(wanted: float, least: int, most: int) -> int:
    return round(max(least, min(most, wanted)) / 100) * 100


async def soak(seconds: float) -> Sequence[Tally]:
    """One row after the other, each with its share of the time that is left."""
    due, told = rows(seconds), []
    end = time.monotonic() + seconds
    with Nursery() as nursery:
        async with AsyncExitStack() as stack:
            for number, row in enumerate(due, start=1):
                if not row.goes_on:
                    await stack.aclose()
                    site = await stack.enter_async_context(opened(nursery))
                left = sum(other.share for other in due[number - 1 :])
                mine = max(0, end - time.monotonic()) * row.share / left
                tally = Tally(row.name, row.unit)
                told.append(tally)
                showing = asyncio.create_task(_show(f"[{number}/{len(due)}]", tally, mine, end))
                try:
                    await row.run(tally, Limit.seconds(mine), site)
                except Exception as error:  # noqa: BLE001 - the other rows still have something to say
                    traceback.print_exc()
                    tally.violate(f"it fell over: {type(error).__name__}: {error}")
                finally:
                    showing.cancel()
                    await asyncio.wait([showing])
    return told


async def _show(place: str, tally: Tally, seconds: float, end: float) -> None:
    """A line that is written over again on a terminal; elsewhere one line at the end of each row."""
    began = time.monotonic()
    try:
        while True:
            if sys.stderr.isatty():
                left = max(0, end - time.monotonic())
                took = f"{time.monotonic() - began:.0f} of {seconds:.0f} s, {left / 60:.1f} minutes left"
                click.echo(f"\r\x1b[K{place} {_line(tally)} ({took})", nl=False, err=True)
            await asyncio.sleep(TICK_SECONDS)
    finally:
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        click.echo(f"{start}{place} {_line(tally)} ({time.monotonic() - began:.0f} s)", err=True)


def _line(tally: Tally) -> str:
    bad = tally.lost + tally.doubled + tally.violations
    return f"{tally.row}: {tally.reached:,} {tally.unit}, {'all kept' if not bad else f'{bad} BROKEN'}"


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.5), default=20, show_default=True, help="How long.")
def main(*, minutes: float) -> None:
    """Put every promise of the ledger to it for that long."""
    logging.disable(logging.CRITICAL)
    told = asyncio.run(soak(minutes * 60))
    click.echo(table(told))
    raise SystemExit(0 if all(tally.is_clean for tally in told) else 1)


if __name__ == "__main__":
    main()
