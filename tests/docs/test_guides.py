"""The tutorial and the how-to pages: what they tell to type works, in order, and answers what they show.

`sh` blocks of a page share one shell, a `json` block is what the `sh` block before it answers, a `graphql` block is
sent as it is. Blocks with `<!-- validated -->` need machines that a test has not: they are read, not run.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from app.commands import main
from app.positions.lifecycle import registry
from app.positions.model import State
from tests.docs import reference
from tests.docs.blocks import Block, blocks
from tests.serving import ROOT, Bookkeeper, Server, plain_environment

from .test_readme import ADDRESS, moving

DOCS = ROOT / "docs"
PAGES = [
    DOCS / "tutorial.md",
    *sorted((DOCS / "how-to").glob("*.md")),
    *sorted((DOCS / "explanation").glob("*.md")),
]
VALIDATED = "validated"
# Pages whose server has a chain.
ANCHORED = {"anchor-and-prove"}
README = blocks(ROOT / "README.md")


def name(page: Path) -> str:
    return page.stem


def typed(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "sh" and block.mark != VALIDATED]


@dataclass(frozen=True)
class Typed:
    """What the blocks of a page said."""

    folder: Path

    def said(self, block: Block) -> str:
        return (self.folder / f"{block.line}.out").read_text()


@pytest.fixture(scope="module", params=[page for page in PAGES if typed(page)], ids=name)
def walked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Typed]:
    """A page, typed from its first block to its last while other things happen."""
    page: Path = request.param
    server, books = running_for(page, request)
    folder = tmp_path_factory.mktemp(page.stem)
    (folder / "verify_proof.py").symlink_to(ROOT / "verify_proof.py")
    (folder / ".escrowgrid").mkdir()
    (folder / ".escrowgrid" / "root.key").write_text(server.root_key + "\n")
    # `KEY` and `ask` are those of the README; the position is funded.
    begun = [block.text for block in README if block.text.startswith(("export KEY=", "ask() {"))]
    assert len(begun) == 2
    position = books.open("1000.00")
    books.fund(position)
    script = [
        "set -euo pipefail",
        begun[0].split("\n\n")[0],
        begun[1],
        f"position={position} institution={books.institution_id}",
    ]
    script += [f"exec >{block.line}.out\n{block.text}" for block in typed(page)]
    with moving(books):
        done = subprocess.run(
            ["bash", "-c", "\n".join(script).replace(ADDRESS, server.url.removeprefix("http://"))],
            cwd=folder,
            env=plain_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    return page, Typed(folder)


def running_for(page: Path, request: pytest.FixtureRequest) -> tuple[Server, Bookkeeper]:
    """A server as the page wants it, and somebody who makes things happen there."""
    if page.stem in ANCHORED:
        anchoring: Server = request.getfixturevalue("anchoring_server")
        return anchoring, Bookkeeper(anchoring)
    return request.getfixturevalue("server"), request.getfixturevalue("books")


def test_what_a_page_shows_is_what_is_answered(walked: tuple[Path, Typed]) -> None:
    page, told = walked
    commands = typed(page)
    for block in blocks(page):
        if block.language != "json":
            continue
        before = max((command for command in commands if command.line < block.line), key=lambda b: b.line)
        last = told.said(before).strip().splitlines()[-1]
        answered = json.loads(last)
        answered.pop("extensions")
        assert answered == json.loads(block.text), f"{page.name}, line {block.line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_of_a_kind_that_is_tried(page: Path) -> None:
    for block in blocks(page):
        assert block.language in {"sh", "json", "graphql", "python", "text"}, block.line
        assert block.mark in {"", VALIDATED}, block.line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_document_is_answered(server: Server, page: Path) -> None:
    for block in blocks(page):
        if block.language == "graphql":
            assert server.ask(block.text)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_are_only_read_are_commands_of_ours(page: Path) -> None:
    for block in blocks(page):
        if block.mark != VALIDATED:
            continue
        subprocess.run(["bash", "-n", "-c", block.text], check=True)
        for line in block.text.splitlines():
            assert line.startswith(("escrowgrid ", "export ")), line
            if line.startswith("escrowgrid "):
                assert_known(line.split()[1:])


def assert_known(words: list[str]) -> None:
    """Each word is a command or an option of it."""
    command: click.Command = main
    while isinstance(command, click.Group):
        found = command.commands.get(words[0])
        assert found, f"there is no command {words[0]}"
        command, words = found, words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("path", reference.pages(), ids=lambda path: path.name)
def test_the_reference_has_not_drifted(path: Path) -> None:
    assert path.read_text() == reference.pages()[path], "run: python -m tests.docs.reference"


def test_the_lifecycle_of_the_guide_keeps_its_own_rules() -> None:
    lifecycle = reference.example()
    assert registry([lifecycle])
    reached = {lifecycle.initial} | {arrow.target for arrow in lifecycle.transitions}
    assert reached == set(lifecycle.stages)
    for stage, state in lifecycle.stages.items():
        if state in {State.FUNDED, State.PARTIALLY_RELEASED}:
            assert any("due" in arrow.guards for arrow in lifecycle.leaving(stage)), stage


def test_the_dashboards_lines_are_those_of_the_reference() -> None:
    drawn = (DOCS / "reference" / "escrow-1.svg").read_text()
    assert re.findall(r'<path class="(\w+)"', drawn).count("REFUND") == 4
    assert drawn.count("<rect") == len(State)


def test_the_site_is_built_without_a_complaint(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs mkdocs: make test installs it")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=plain_environment() | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "index.html").read_text()
    assert "Escrowgrid" in home
    assert not re.findall(
        r'(?:src|href)="https?://(?!127\.0\.0\.1|github\.com)[^"]*\.(?:js|css|woff2?)"', home
    )
    for page in ("tutorial", "how-to/pay-in-parts", "reference/api", "security", "upgrading"):
        assert (tmp_path / page / "index.html").exists()
    dead = {
        f"{page.relative_to(tmp_path)} -> {link}"
        for page in _pages(tmp_path)
        for link in _dead(page, tmp_path)
    }
    assert not dead, "\n".join(sorted(dead))


def _pages(site: Path) -> list[Path]:
    return [page for page in site.rglob("*.html") if page.is_file() and page.name != "404.html"]


def _dead(page: Path, site: Path) -> list[str]:
    """What its links ask for and a server of files would not have."""
    links = re.findall(r'(?:href|src)="?([^"\s>#]+)', page.read_text())
    local = [link for link in links if not re.match(r"[a-z]+:|//", link)]
    places = {link: Path(os.path.normpath(page.parent / unquote(link.partition("?")[0]))) for link in local}
    return [
        link
        for link, place in places.items()
        if not place.is_relative_to(site) or not (place.is_file() or (place / "index.html").is_file())
    ]
