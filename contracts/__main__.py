"""Compiles the contract: `python -m contracts` writes contracts/anchor.json, which is checked in."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "anchor.vy"
ARTIFACT = FOLDER / "anchor.json"


def build() -> dict[str, Any]:
    """What the installed compiler makes of the source."""
    from vyper import __long_version__, compile_code

    source = SOURCE.read_text()
    made = compile_code(source, output_formats=["abi", "bytecode", "bytecode_runtime"])
    return {
        "contract": SOURCE.name,
        "compiler": f"vyper {__long_version__}",
        "sourceSha256": sha256(source.encode()).hexdigest(),
        "abi": made["abi"],
        "bytecode": made["bytecode"],
        "runtimeSha256": sha256(bytes.fromhex(made["bytecode_runtime"][2:])).hexdigest(),
    }


def spell(artifact: dict[str, Any]) -> str:
    """The text of the file."""
    return json.dumps(artifact, indent=1) + "\n"


if __name__ == "__main__":
    ARTIFACT.write_text(spell(build()))
