"""What the site adds to the pages of docs/: files of the repository that they link to become pages of their own."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"\[([^\[\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
# Where they stand on the site.
BESIDE = "repository"
LANGUAGES = {
    ".py": "python",
    ".js": "js",
    ".mjs": "js",
    ".ts": "ts",
    ".html": "html",
    ".sh": "bash",
    ".yml": "yaml",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside of docs/ that a page leads to, and for what those lead to in turn."""
    root = Path(config.docs_dir).parent
    open_ = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(open_)
    while open_:
        source = open_.pop()
        for target in _targets(source, (root / source).read_text()) if source.endswith(".md") else ():
            if target in seen or target.startswith("docs/") or not (root / target).is_file():
                continue
            seen.add(target)
            open_.append(target)
            files.append(File.generated(config, _page_of(target), content=_content(root, target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to those pages; what has none, such as a folder, stays as words."""
    root, place = Path(config.docs_dir).parent, page.file.src_uri
    source = _source_of(root, place)
    if not source.endswith(".md"):
        return markdown

    def led(found: re.Match[str]) -> str:
        words, link, anchor = found.group(1), found.group(2), found.group(3) or ""
        target = _resolved(source, link)
        if not (root / target).exists():
            return found.group()
        page_ = target.removeprefix("docs/") if target.startswith("docs/") else _page_of(target)
        if files.get_file_from_path(page_) is None:
            return words
        return f"[{words}]({posixpath.relpath(page_, posixpath.dirname(place) or '.')}{anchor})"

    return LINK.sub(led, markdown)


def _targets(source: str, markdown: str) -> Iterator[str]:
    for found in LINK.finditer(markdown):
        yield _resolved(source, found.group(2))


def _resolved(source: str, link: str) -> str:
    """A link's file, from the top of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _page_of(target: str) -> str:
    return f"{BESIDE}/{target}" if target.endswith(".md") else f"{BESIDE}/{target}.md"


def _source_of(root: Path, place: str) -> str:
    if not place.startswith(f"{BESIDE}/"):
        return f"docs/{place}"
    inner = place.removeprefix(f"{BESIDE}/")
    return inner if (root / inner).exists() else inner.removesuffix(".md")


def _content(root: Path, target: str) -> str:
    text = (root / target).read_text()
    if target.endswith(".md"):
        return text
    return f"# {target}\n\n````{LANGUAGES.get(Path(target).suffix, 'text')}\n{text}\n````\n"
