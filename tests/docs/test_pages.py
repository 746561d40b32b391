"""What is written down hangs together: links lead somewhere, decisions have one form, a word has one meaning."""

import re
from pathlib import Path

import pytest

from tests.serving import ROOT

DECISIONS = ROOT / "docs" / "decisions"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "frontend-examples").glob("*.md"), *(ROOT / "docs").rglob("*.md")]
)
RECORDS = sorted(DECISIONS.glob("0*.md"))
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("record", RECORDS, ids=name)
def test_a_decision_says_what_was_decided_and_what_was_not(record: Path) -> None:
    text = record.read_text()
    number = int(record.name[:4])
    assert text.startswith(f"# {number}. ")
    parts = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert parts[:3] == ["Context", "Decision", "Consequences"]
    assert parts[-1] == "Not chosen"


def test_decisions_are_numbered_and_listed() -> None:
    assert [int(record.name[:4]) for record in RECORDS] == list(range(1, len(RECORDS) + 1))
    listed = re.findall(r"^\d+\. \[.+\]\((.+)\)$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert listed == [record.name for record in RECORDS]


def test_a_word_is_explained_once() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs" / "words.md").read_text(), re.MULTILINE)
    assert len(words) > 50
    assert len(words) == len(set(words))
