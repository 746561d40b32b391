"""The contract's compiled artifact, as it is checked in: what its calls look like."""

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any


@cache
def artifact() -> dict[str, Any]:
    """contracts/anchor.json: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(str(resources.files("app")))
    inside = package / "contracts"
    folder = inside if inside.is_dir() else package.parent / "contracts"
    found: dict[str, Any] = json.loads((folder / "anchor.json").read_text())
    return found
