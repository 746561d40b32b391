"""The table of settings in the README is what `escrowgrid settings` says.

`python -m tests.docs.test_settings_docs` writes it anew.
"""

import subprocess
import sys

from tests.serving import ROOT, plain_environment

README = ROOT / "README.md"
BEGIN, END = "<!-- settings -->\n", "\n<!-- /settings -->"


def table() -> str:
    """The table as it ought to be."""
    command = (sys.executable, "-m", "app.cli", "settings")
    listed = subprocess.run(
        command, cwd=ROOT, env=plain_environment(), check=True, capture_output=True, text=True
    )
    lines = listed.stdout.splitlines()
    assert len(lines) % 2 == 0, "each setting has a line for its value and one for its meaning"
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for named, meaning in zip(lines[::2], lines[1::2], strict=True):
        name, _, value = named.partition("=")
        shown = f"| `{value}` " if value else "| "
        rows.append(f"| `{name}` {shown}| {meaning.strip()} |")
    return "\n".join(rows)


def written() -> tuple[str, str, str]:
    """The README before, in and after its table."""
    before, begin, rest = README.read_text().partition(BEGIN)
    inside, end, after = rest.partition(END)
    return before + begin, inside.strip(), end + after


def test_the_readme_lists_every_setting_with_its_default() -> None:
    assert written()[1] == table(), "it has drifted: run `python -m tests.docs.test_settings_docs`"


if __name__ == "__main__":
    before, _, after = written()
    README.write_text(f"{before}\n{table()}\n{after}")
