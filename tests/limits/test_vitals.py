"""What an operator sees at three in the morning: every number is there, is right, and costs little."""

import asyncio
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.http.vitals import Kind, Vital, VitalsCollector
from app.institutions.model import NewKey
from app.ledger import steering
from app.main import Parts
from app.vitals import Ledger
from tests import factories
from tests.factories import Place
from tests.limits.conftest import VIEWER, Serve, Served

EXPECTED = {
    "escrowgrid_writer_queue",
    "escrowgrid_writer_stopped",
    "escrowgrid_writer_batch_size",
    "escrowgrid_writer_batch_seconds",
    "escrowgrid_writer_wait_seconds",
    "escrowgrid_ledger_head",
    "escrowgrid_tail_position",
    "escrowgrid_tail_lag_events",
    "escrowgrid_tail_stopped",
    "escrowgrid_ring_bytes",
    "escrowgrid_bell_rebuilds",
    "escrowgrid_follower_lag_events",
    "escrowgrid_follower_parked_events",
    "escrowgrid_follower_failing",
    "escrowgrid_follower_led",
    "escrowgrid_mirror_waiting_changes",
    "escrowgrid_checkpoint_age_seconds",
    "escrowgrid_checkpoint_lag_events",
    "escrowgrid_database_answers",
    "escrowgrid_pool_in_use",
    "escrowgrid_pool_size_max",
    "escrowgrid_pool_waiting",
    "escrowgrid_plans_used",
    "escrowgrid_plans_compiled",
    "escrowgrid_executor_fallbacks",
    "escrowgrid_audit_waiting",
    "escrowgrid_audit_default_rows",
    "escrowgrid_audit_lost",
    "escrowgrid_rate_leases",
    "escrowgrid_rate_lease_failures",
    "escrowgrid_trusted_documents_kept",
    "escrowgrid_live_connections",
    "escrowgrid_live_groups",
    "escrowgrid_rate_limited",
    "escrowgrid_turned_away",
    "escrowgrid_audit_left_out",
    "process_resident_memory_bytes",
}


async def read(server: Served) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by family, then by suffix and labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(await server.metrics()):
        for sample in family.samples:
            place = (sample.name.removeprefix(family.name), *sample.labels.values())
            found.setdefault(family.name, {})[place] = sample.value
    return found


async def test_everything_is_there_and_described(serve: Serve) -> None:
    async with serve() as server:
        families = {family.name: family for family in text_string_to_metric_families(await server.metrics())}
    assert set(families) >= EXPECTED
    assert not [name for name in EXPECTED if len(families[name].documentation) < 10]


async def test_the_writers_batches_are_measured(
    serve: Serve, key: NewKey, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.vitals.KEPT_SECONDS", 0.0)
    async with serve() as server:
        before = await read(server)
        assert before["escrowgrid_writer_batch_size"]["_count",] == 0
        item = {"assetId": place.asset.id, "holderReference": "h", "currency": "USD", "amount": "1"}
        await server.ask(
            "mutation($i: CreatePositionsInput!) { createPositions(input: $i) { userErrors { code } } }",
            {"i": {"items": [item] * 20}},
            key=key.secret,
        )
        after = await read(server)
    sizes = after["escrowgrid_writer_batch_size"]
    assert sizes["_sum",] == 20
    assert sizes["_count",] == sizes["_bucket", "+Inf"] >= 1
    assert sizes["_bucket", "1.0"] <= sizes["_bucket", "2.0"] <= sizes["_bucket", "1024.0"]
    assert after["escrowgrid_writer_batch_seconds"]["_sum",] > 0
    assert after["escrowgrid_writer_wait_seconds"]["_count",] == 20
    assert after["escrowgrid_writer_queue"]["",] == 0
    assert after["escrowgrid_ledger_head"]["",] == 20


async def test_the_tail_and_the_followers_say_how_far_they_are(
    serve: Serve, place: Place, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.vitals.KEPT_SECONDS", 0.0)
    async with serve() as server:
        for _ in range(3):
            await factories.position(parts.services, place.asset)
        await asyncio.sleep(0.5)
        found = await read(server)
        assert found["escrowgrid_tail_position"]["",] == found["escrowgrid_ledger_head"]["",] == 3
        assert found["escrowgrid_tail_lag_events"]["",] == 0
        assert found["escrowgrid_ring_bytes"]["",] > 3 * 1000
        async with parts.services.database.pool("escrowgrid_feed").acquire() as feed:  # type: ignore[arg-type]
            names = {("", standing.name) for standing in await steering.standings(feed)}
        assert set(found["escrowgrid_follower_lag_events"]) == names
        assert set(found["escrowgrid_follower_parked_events"].values()) == {0}
        assert found["escrowgrid_database_answers"]["",] == 1


async def test_pools_and_plans_and_groups_are_counted(serve: Serve, key: NewKey) -> None:
    async with serve(pool_size_max=3) as server:
        for _ in range(3):
            await server.ask(VIEWER, key=key.secret)
        peer = await server.dial()
        await peer.subscribe("a", "subscription { ledgerEvents(heartbeatSeconds: 1) { cursor } }")
        await peer.until("next")
        await peer.until("next")
        found = await read(server)
        assert found["escrowgrid_pool_size_max"]["", "queries"] == 3
        assert set(found["escrowgrid_pool_in_use"]) == {("", "queries"), ("", "writer"), ("", "feed")}
        assert found["escrowgrid_pool_waiting"]["",] == 0
        assert found["escrowgrid_plans_used"]["_total",] == 3
        assert found["escrowgrid_plans_compiled"]["_total",] == 1
        assert found["escrowgrid_executor_fallbacks"]["_total",] == 0
        assert found["escrowgrid_live_connections"]["", "websocket"] == 1
        assert found["escrowgrid_live_groups"]["",] == 1
        assert found["escrowgrid_rate_leases"]["_total",] >= 1


async def test_a_database_that_is_away_does_not_take_the_metrics_down(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(parts.services.database)
    await ledger.refresh()
    assert ledger.answered
    monkeypatch.setattr("app.vitals.KEPT_SECONDS", 0.0)
    monkeypatch.setattr("app.vitals.ASK_SECONDS_MAX", 0.1)
    ledger._until = 0.0

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ledger, "_ask", never)
    began = time.monotonic()
    await ledger.refresh()
    assert time.monotonic() - began < 1
    assert not ledger.answered


async def test_many_who_look_at_once_ask_once(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, asked = Ledger(parts.services.database), 0
    ask = ledger._ask

    async def counting() -> None:
        nonlocal asked
        asked += 1
        await ask()

    monkeypatch.setattr(ledger, "_ask", counting)
    await asyncio.gather(*(ledger.refresh() for _ in range(20)))
    assert asked == 1


def test_one_that_cannot_be_read_takes_no_other_down(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Any:
        raise RuntimeError("gone")

    vitals = [
        Vital(Kind.GAUGE, "broken", "It breaks.", broken),
        Vital(Kind.COUNTER, "works", "It works.", lambda: 7.0),
    ]
    collector = VitalsCollector(vitals)
    assert [family.name for family in collector.collect()] == ["works"]
    assert collector.describe() == []
