"""The fenced blocks of a Markdown page, with what an HTML comment above them says."""

import re
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One block; `mark` is the comment above it, or empty."""

    language: str
    text: str
    mark: str
    line: int

    @property
    def file(self) -> str | None:
        """The name that the block is to be saved under."""
        return self.mark.removeprefix("file: ") if self.mark.startswith("file: ") else None


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in its order."""
    text = page.read_text()
    found = [
        Block(match["language"], match["text"], match["mark"] or "", text[: match.start()].count("\n") + 1)
        for match in BLOCK.finditer(text)
    ]
    assert text.count("```") == 2 * len(found), f"{page.name}: every block is closed and begins its line"
    return found
