"""The table of metrics in docs/operations.md is what a server shows.

`python -m tests.docs.test_metrics_docs` writes it anew.
"""

import re
from collections.abc import Iterator

from prometheus_client import CollectorRegistry

from app import vitals
from app.chain_vitals import Anchoring
from app.engine.compiled import Plans
from app.http.metrics import Metrics
from app.main import assemble
from app.settings import Settings
from app.storage.database import Address
from tests.serving import ROOT

OPERATIONS = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- metrics -->\n", "\n<!-- /metrics -->"
SUFFIXES = {"counter": "_total"}
# Roles of the database and beginnings of names.
APART = {
    "escrowgrid_owner",
    "escrowgrid_api",
    "escrowgrid_writer",
    "escrowgrid_feed",
    "escrowgrid_anchor",
    "escrowgrid_chain",
}


def found() -> Iterator[tuple[str, str, str]]:
    """Name, kind and meaning of everything of ours, anchoring too; nothing is read, so nothing has to run."""
    parts = assemble(Settings(), Address.of("postgresql://nobody@127.0.0.1:1/nowhere"))
    registry = CollectorRegistry()
    Metrics(registry).count_groups(lambda: 0)
    for family in registry.collect():
        if family.name.startswith("escrowgrid_"):
            yield family.name, family.type, family.documentation
    shown = vitals.of(parts.services, parts.bell, parts.quota, parts.documents, Plans()).all
    for vital in (*shown, *Anchoring(parts.services.clock).vitals()):
        yield vital.name, vital.kind.value, vital.help


def table() -> str:
    """The table as it ought to be."""
    rows = [
        f"| `{name.removesuffix('_total')}{SUFFIXES.get(kind, '')}` | {kind} | {meaning} |"
        for name, kind, meaning in sorted(found())
    ]
    return "\n".join(["| metric | kind | what it tells |", "|---|---|---|", *rows])


def written() -> tuple[str, str, str]:
    """The page before, in and after its table."""
    before, begin, rest = OPERATIONS.read_text().partition(BEGIN)
    inside, end, after = rest.partition(END)
    return before + begin, inside.strip(), end + after


def test_the_page_lists_every_metric() -> None:
    assert written()[1] == table(), "it has drifted: run `python -m tests.docs.test_metrics_docs`"


if __name__ == "__main__":
    before, _, after = written()
    OPERATIONS.write_text(f"{before}\n{table()}\n{after}")


def test_every_metric_that_a_page_or_the_dashboard_names_is_one() -> None:
    shown = {row.split("`")[1] for row in table().splitlines()[2:]}
    parts = {"", "_bucket", "_count", "_sum"}
    known = {name + part for name in shown for part in parts}
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "docs" / "grafana.json"]
    named = {name for page in pages for name in re.findall(r"\bescrowgrid_[a-z_]+[a-z]", page.read_text())}
    assert named - known - APART == set()
