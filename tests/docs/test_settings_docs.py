"""The table of settings in the README is what `escrowgrid settings` says."""

import subprocess
import sys

from tests.serving import ROOT, plain_environment

BEGIN, END = "<!-- settings -->", "<!-- /settings -->"


def table() -> str:
    """The table as it ought to be."""
    command = (sys.executable, "-m", "app.cli", "settings")
    listed = subprocess.run(
        command, cwd=ROOT, env=plain_environment(), check=True, capture_output=True, text=True
    )
    lines = listed.stdout.splitlines()
    rows = [
        (*named.split("=", 1), meaning.strip()) for named, meaning in zip(lines[::2], lines[1::2], strict=True)
    ]
    written = [
        f"| `{name}` | {f'`{value}`' if value else ''} | {meaning} |".replace("|  |", "| |")
        for name, value, meaning in rows
    ]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *written])


def test_the_readme_lists_every_setting_with_its_default() -> None:
    shown = (ROOT / "README.md").read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == table(), "the README's table of settings has drifted; it should be:\n" + table()
