"""The runbook and the dashboard speak of metrics that a server really shows, and of all of them."""

import json
import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from app import vitals
from app.engine.compiled import Plans
from app.http.metrics import Metrics
from app.http.metrics import route as metrics_route
from app.main import Parts
from tests.serving import ROOT

RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
BOARD = json.loads((ROOT / "docs" / "grafana.json").read_text())
NAME = re.compile(r"\bescrowgrid_[a-z_]+")
PARTS = re.compile(r"_(total|bucket|sum|count)$")
# Told by the dashboard and the table of metrics; nothing to be woken for.
SHOWN_ALONE = {
    "escrowgrid_ledger_head",
    "escrowgrid_live_groups",
    "escrowgrid_plans_compiled",
    "escrowgrid_plans_used",
    "escrowgrid_pool_in_use",
    "escrowgrid_pool_size_max",
    "escrowgrid_rate_leases",
    "escrowgrid_tail_position",
    "escrowgrid_trusted_documents_kept",
}


def base(name: str) -> str:
    """As the families are called, whatever of them is asked for."""
    return PARTS.sub("", name)


@pytest.fixture
async def families(parts: Parts) -> set[str]:
    """The families of a running server's page of metrics."""
    registry = CollectorRegistry()
    Metrics(registry).count_groups(lambda: 0)
    shown = vitals.of(parts.services, parts.bell, parts.quota, parts.documents, Plans())
    answer = await metrics_route(registry, shown).endpoint(None)  # type: ignore[arg-type]
    text = bytes(answer.body).decode()
    return {base(one.name) for one in text_string_to_metric_families(text) if NAME.match(one.name)}


async def test_the_dashboard_asks_for_metrics_that_are_there(families: set[str]) -> None:
    asked = {
        base(name)
        for panel in BOARD["panels"]
        for target in panel["targets"]
        for name in NAME.findall(target["expr"])
    }
    assert asked <= families
    assert len(asked) > 25


async def test_the_runbook_knows_every_metric_and_no_other(families: set[str]) -> None:
    told = {base(name) for name in NAME.findall(RUNBOOK)}
    known = told - {"escrowgrid_owner", "escrowgrid_api", "escrowgrid_writer", "escrowgrid_feed"}
    assert known <= families
    missing = families - told - SHOWN_ALONE
    assert {one for one in missing if not one.startswith("escrowgrid_writer_batch")} == set()


def test_panels_do_not_lie_on_each_other() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in BOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
