"""The runbook and the dashboard speak of metrics that a server really shows, and of all of them."""

import json
import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from app import vitals
from app.chain_vitals import Anchoring
from app.engine.compiled import Plans
from app.http.metrics import Metrics
from app.http.metrics import route as metrics_route
from app.kit.clock import system_clock
from app.main import Parts
from tests.docs import test_metrics_docs
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
    """The families of a running server's page of metrics, with those that it has only while it anchors."""
    registry = CollectorRegistry()
    Metrics(registry).count_groups(lambda: 0)
    shown = vitals.of(parts.services, parts.bell, parts.quota, parts.documents, Plans())
    answer = await metrics_route(registry, shown).endpoint(None)  # type: ignore[arg-type]
    text = bytes(answer.body).decode()
    anchoring = {base(vital.name) for vital in Anchoring(system_clock).vitals()}
    shown_now = {base(one.name) for one in text_string_to_metric_families(text) if NAME.match(one.name)}
    return shown_now | anchoring


def on_panels() -> set[str]:
    """What the panels of the dashboard ask for, as written there."""
    targets = [target for panel in BOARD["panels"] for target in panel["targets"]]
    return {name for target in targets for name in NAME.findall(target["expr"])}


async def test_every_metric_is_on_a_panel_and_every_panel_asks_for_one_that_is_there(
    families: set[str],
) -> None:
    assert {base(name) for name in on_panels()} == families


def test_panels_spell_counters_as_counters_and_each_target_has_a_letter_of_its_own() -> None:
    kinds = {base(name): kind for name, kind, _ in test_metrics_docs.found()}
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    for name in on_panels():
        assert name.endswith(endings[kinds[base(name)]]), name
    for panel in BOARD["panels"]:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters), panel["title"]


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
