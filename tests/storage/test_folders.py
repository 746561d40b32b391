"""A folder that cannot be made is told in one line that says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.faults import Fault, guarded
from tests.serving import free_port

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["/dev/null/folder", "/proc/folder/deeper"])
def test_a_data_dir_that_cannot_be_made_is_one_line_that_says_what_to_do(folder: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "app.cli", "dev", "--no-demo", "--port", str(free_port())],
        cwd=REPOSITORY,
        env=os.environ | {"DATA_DIR": folder},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    last = found.stderr.strip().splitlines()[-1]
    assert folder in last
    assert "DATA_DIR" in last


def test_another_file_that_cannot_be_written_is_not_blamed_on_the_database(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    with pytest.raises(Fault, match=r"a folder cannot be used \(Is a directory\): name a place"):
        guarded(lambda: folder.write_text("x"))
