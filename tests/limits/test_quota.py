"""Buckets shared by several processes, over a real database."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from app.limits import service
from app.limits.model import Purse, Terms
from app.limits.service import Quota
from app.main import Parts
from app.storage.database import Address, Database

REPOSITORY = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def process(address: Address) -> AsyncIterator[Quota]:
    """What another process has: pools and a quota of its own."""
    database = Database(address, pool_size_max=2, pool_timeout=1, statement_timeout=5)
    await database.open()
    quota = Quota(database)
    await quota.start()
    try:
        yield quota
    finally:
        await quota.close()
        await database.close()


@pytest.fixture
async def quota(parts: Parts) -> Quota:
    return parts.quota


async def spend_until_refused(quota: Quota, purse: Purse, cost: float = 1) -> float:
    spent = 0.0
    while not await quota.spend(purse, cost):
        spent += cost
    return spent


async def test_a_bucket_holds_what_it_holds(quota: Quota) -> None:
    purse = quota.purse("a", Terms(1000, 0.01))
    assert await spend_until_refused(quota, purse, 7) == 994
    wait = await quota.spend(purse, 7)
    assert 50 < wait <= 100
    assert await spend_until_refused(quota, purse, 2) == 6


async def test_most_requests_ask_no_database(quota: Quota) -> None:
    purse = quota.purse("a", Terms(160_000, 1))
    before = quota.leases
    for _ in range(10_000):
        assert await quota.spend(purse, 10) == 0
    assert quota.leases - before <= 16


async def test_the_next_slice_is_there_before_it_is_needed(quota: Quota) -> None:
    purse = quota.purse("a", Terms(1600, 0.01))
    await quota.spend(purse, 1)
    for _ in range(75):
        await quota.spend(purse, 1)
    assert 20 < purse.tokens < 26
    await asyncio.sleep(0.1)
    assert purse.tokens > 100


async def test_many_who_ask_at_once_share_a_lease(quota: Quota) -> None:
    purses = [quota.purse(f"k{number}", Terms(1000, 1)) for number in range(50)]
    before = quota.leases
    waits = await asyncio.gather(*(quota.spend(purse, 1) for purse in purses for _ in range(10)))
    assert not any(waits)
    assert quota.leases - before <= 5


async def test_two_processes_share_a_bucket(quota: Quota, address: Address) -> None:
    terms = Terms(1000, 0.01)
    async with process(address) as other:
        mine, theirs = quota.purse("a", terms), other.purse("a", terms)
        # Each takes a slice, so that what follows is of two: whoever asks first might have it all otherwise.
        assert not await quota.spend(mine, 1)
        assert not await other.spend(theirs, 1)
        spent = await asyncio.gather(spend_until_refused(quota, mine), spend_until_refused(other, theirs))
        # Slices are fractions: in each of the two less than one may be left that pays for nothing.
        assert 996 < sum(spent) <= 998
        assert min(spent) > 0


SPENDER = """
import asyncio, sys, time
from app.limits.model import Terms
from app.limits.service import Quota
from app.storage.database import Address, Database

async def main(url, seconds):
    database = Database(Address.of(url), pool_size_max=2, pool_timeout=1, statement_timeout=5)
    await database.open()
    quota = Quota(database)
    purse = quota.purse("shared", Terms(2000, 1000))
    print("ready", flush=True)
    sys.stdin.readline()
    spent, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        wait = await quota.spend(purse, 5)
        spent += 0 if wait else 5
        await asyncio.sleep(min(wait, 0.05) if wait else 0)
    print(spent, quota.failures, flush=True)
    await quota.close()
    await database.close()

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


async def test_real_processes_together_get_the_capacity_and_what_flows_in(
    template: str, owner_url: str
) -> None:
    seconds = 2.0
    command = (sys.executable, "-c", SPENDER, owner_url, str(seconds))
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)  # noqa: ASYNC220
        for _ in range(2)
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    began = time.monotonic()
    for one in running:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    told = [await asyncio.to_thread(one.communicate) for one in running]
    took = time.monotonic() - began
    spent = [int(out.split()[0]) for out, _ in told]
    assert [out.split()[1] for out, _ in told] == ["0", "0"]
    most = 2000 + 1000 * took
    assert sum(spent) <= most
    assert sum(spent) > 0.6 * (2000 + 1000 * seconds)
    assert min(spent) > 0.1 * sum(spent)


async def test_what_is_spent_flows_in_again_by_the_databases_clock(quota: Quota) -> None:
    purse = quota.purse("a", Terms(100, 200))
    await spend_until_refused(quota, purse, 10)
    await asyncio.sleep(0.3)
    spent = await spend_until_refused(quota, purse, 10)
    assert 40 <= spent <= 120


async def test_one_key_takes_nothing_from_another(quota: Quota) -> None:
    terms = Terms(100, 0.01)
    first, second = quota.purse("a", terms), quota.purse("b", terms)
    await spend_until_refused(quota, first)
    assert await spend_until_refused(quota, second) == 100


async def test_a_flood_of_refusals_asks_the_database_rarely(quota: Quota) -> None:
    purse = quota.purse("a", Terms(100, 50))
    await spend_until_refused(quota, purse, 10)
    before, began, refused = quota.leases, time.monotonic(), 0
    while time.monotonic() - began < 1:
        refused += bool(await quota.spend(purse, 100))
        await asyncio.sleep(0)
    assert refused > 5_000
    assert quota.leases - before <= 12


async def test_a_large_cost_is_paid_when_there_is_enough(quota: Quota) -> None:
    purse = quota.purse("a", Terms(1000, 0.01))
    assert await quota.spend(purse, 1) == 0
    assert await quota.spend(purse, 990) == 0
    assert await quota.spend(purse, 10) > 0
    assert await quota.spend(purse, 9) == 0


async def test_nobody_is_kept_waiting_for_the_refill(quota: Quota) -> None:
    purse = quota.purse("a", Terms(100, 0.01))
    await spend_until_refused(quota, purse)
    began = time.monotonic()
    assert await quota.spend(purse, 1) > 10
    assert time.monotonic() - began < 0.5


async def test_what_lies_idle_is_given_back(
    quota: Quota, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = Terms(160, 0.001)
    async with process(address) as other:
        mine, theirs = quota.purse("a", terms), other.purse("a", terms)
        assert await quota.spend(mine, 1) == 0
        assert await spend_until_refused(other, theirs) < 160 - 1
        await quota._give_back([mine])
        await asyncio.sleep(0.15)
        theirs.shared = 160
        assert await spend_until_refused(other, theirs) >= 8
        assert mine.tokens == 0


async def test_a_process_that_ends_leaves_its_part_to_the_others(quota: Quota, address: Address) -> None:
    terms = Terms(160, 0.001)
    async with process(address) as other:
        assert await other.spend(other.purse("a", terms), 1) == 0
    assert await spend_until_refused(quota, quota.purse("a", terms)) == 159


async def test_idle_purses_are_looked_after(
    address: Address, monkeypatch: pytest.MonkeyPatch, owner: asyncpg.Connection
) -> None:
    for name in ("TEND_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(service, name, 0.05)
    monkeypatch.setattr(service, "FORGET_SECONDS", 0.0)
    async with process(address) as quota:
        purse = quota.purse("a", Terms(160, 1000))
        await quota.spend(purse, 1)
        assert purse.tokens > 0
        await owner.execute("INSERT INTO rate_buckets VALUES ('old', now() - interval '1 hour')")
        await asyncio.sleep(0.5)
        assert purse.tokens == 0
        assert await owner.fetchval("SELECT count(*) FROM rate_buckets WHERE name = 'old'") == 0


async def test_without_the_database_nothing_is_limited(
    address: Address, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(service, "AWAY_SECONDS", 0.2)
    async with process(address) as quota:
        purse = quota.purse("a", Terms(100, 0.01))
        await spend_until_refused(quota, purse)
        asked = quota._asked

        async def lost(asks: object) -> object:
            raise OSError("gone")

        monkeypatch.setattr(quota, "_asked", lost)
        free = quota.purse("b", Terms(100, 0.01))
        for _ in range(500):
            assert await quota.spend(free, 1) == 0
        assert quota.failures == 1
        assert len([record for record in caplog.records if "nothing is limited" in record.message]) == 1
        # What was known to be empty before is no exception: the buckets cannot be asked.
        assert await quota.spend(purse, 1) == 0
        await asyncio.sleep(0.25)
        monkeypatch.setattr(quota, "_asked", asked)
        assert await spend_until_refused(quota, free) == 100


async def test_a_request_that_goes_away_takes_the_lease_from_nobody(quota: Quota) -> None:
    purse = quota.purse("a", Terms(1000, 0.01))
    first = asyncio.create_task(quota.spend(purse, 1))
    second = asyncio.create_task(quota.spend(purse, 1))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 0
    assert purse.waiting == 0


async def test_purses_are_bounded(quota: Quota, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PURSES_MAX", 100)
    terms = Terms(100, 1)
    for number in range(1000):
        quota.purse(f"k{number}", terms)
    assert len(quota) == 100
    assert quota.purse("k999", terms) is quota.purse("k999", terms)
    assert quota.purse("k999", Terms(50, 1)).terms.capacity == 50


async def test_leases_of_several_buckets_cannot_wait_for_each_other(quota: Quota, address: Address) -> None:
    terms = Terms(10_000, 0.01)
    async with process(address) as other:
        names = [f"k{number}" for number in range(40)]

        async def work(who: Quota, order: list[str]) -> None:
            for _ in range(10):
                await asyncio.gather(*(who.spend(who.purse(name, terms), 50) for name in order))

        await asyncio.gather(work(quota, names), work(other, names[::-1]))
        assert quota.failures == other.failures == 0


async def test_the_table_is_unlogged_and_only_the_writers(owner: asyncpg.Connection) -> None:
    assert await owner.fetchval("SELECT relpersistence FROM pg_class WHERE relname = 'rate_buckets'") == b"u"
    for role in ("escrowgrid_api", "escrowgrid_feed"):
        assert not await owner.fetchval(
            "SELECT has_function_privilege($1, 'escrowgrid_lease_tokens(text[],float8[],float8[],float8[])', 'EXECUTE')",
            role,
        )
