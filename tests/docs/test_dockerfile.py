"""The Dockerfile's steps, one by one in an empty folder with an environment of its own: no Docker is needed for that.

What differs from an image: the Python is the one of the tests, and so is who runs it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.storage import embedded
from tests.docs.test_compose import make_database, read
from tests.serving import ROOT, Server, free_port, plain_environment, process

# The lock file's packages are installed anew.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LEFT_OUT = {"__pycache__", "source"}
UNREACHABLE = ("NewConnectionError", "name resolution", "ProxyError", "ConnectTimeoutError")


def instructions() -> list[tuple[str, str]]:
    """Each with what it says."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, rest) for name, rest in lines]


@dataclass
class Image:
    """What the steps have made so far."""

    root: Path
    environment: dict[str, str]
    folder: Path = field(init=False)
    user: str = "root"
    told: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.root

    def inside(self, path: str) -> Path:
        return self.root / path.lstrip("/") if path.startswith("/") else self.folder / path

    def step(self, name: str, rest: str) -> None:
        match name:
            case "ENV":
                self.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "WORKDIR":
                self.folder = self.inside(rest)
                self.folder.mkdir(parents=True)
            case "COPY":
                *sources, target = shlex.split(rest)
                for source in sources:
                    self.copy(ROOT / source, self.inside(target))
            case "RUN":
                self.run(shlex.split(rest))
            case "USER":
                self.user = rest
            case "VOLUME":
                assert self.inside(rest).is_dir() or not has_useradd()
            case _:
                self.told[name] = rest

    def copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=lambda _, names: LEFT_OUT & set(names))
        else:
            shutil.copy(source, target)

    def run(self, words: list[str]) -> None:
        if words[0] == "useradd":
            if not has_useradd():
                return
            # Into the image's own list of users.
            words[1:1] = ["--prefix", str(self.root)]
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if any(sign in done.stderr for sign in UNREACHABLE):
            pytest.skip("no package index can be reached from here")
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"

    def words(self, name: str) -> list[str]:
        """What an instruction says as JSON."""
        found: list[str] = json.loads(self.told[name].partition("[")[1] + self.told[name].partition("[")[2])
        return found


def has_useradd() -> bool:
    return os.geteuid() == 0 and shutil.which("useradd") is not None


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="escrowgrid-image-") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "etc").mkdir()
        for file in ("passwd", "group", "shadow", "gshadow"):
            (root / "etc" / file).touch()
        subprocess.run([sys.executable, "-m", "venv", root / "python"], check=True)
        environment = plain_environment()
        environment = {
            key: environment[key] for key in environment if not key.startswith(("PYTHON", "VIRTUAL"))
        }
        made = Image(root, environment | {"PATH": f"{root / 'python' / 'bin'}:{os.environ['PATH']}"})
        steps = instructions()
        assert steps[0][0] == "FROM"
        for name_, rest in steps[1:]:
            made.step(name_, rest)
            # It saves room in an image; here it would have everything fetched again with each run.
            made.environment.pop("PIP_NO_CACHE_DIR", None)
        yield made


@pytest.fixture(scope="module")
def settings(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Those of docker-compose.yml, with a database that is there."""
    composed: dict[str, Any] = read()
    with embedded.memory() as running:
        url = make_database(composed, running.admin_url, running.bin_dir)
        place = url.rpartition("@")[2].partition("/")[0]
        found = {
            key: str(value).replace("database:5432", place)
            for key, value in composed["services"]["migrate"]["environment"].items()
        }
        data = tmp_path_factory.mktemp("data")
        yield found | {"DATA_DIR": str(data), "HOST": "127.0.0.1"}


def test_the_user_of_the_image_is_nobody_special(image: Image) -> None:
    assert image.user == "escrowgrid"
    if not has_useradd():
        pytest.skip("users are made by root alone")
    name, _, uid, _, _, home, _ = (image.root / "etc" / "passwd").read_text().strip().split(":")
    assert (name, uid) == ("escrowgrid", "10001")
    assert image.inside(home).is_dir()


def test_what_was_copied_is_all_that_it_takes_to_serve(image: Image, settings: dict[str, str]) -> None:
    entry = image.words("ENTRYPOINT")
    environment = image.environment | settings
    migrated = subprocess.run(
        [*entry, "migrate"], cwd="/", env=environment, check=False, capture_output=True, text=True
    )
    assert migrated.returncode == 0, migrated.stderr
    server = Server(f"http://127.0.0.1:{free_port()}", "root-key-of-this-test")
    environment |= {"PORT": str(server.port), "ROOT_API_KEY": server.root_key}
    health = image.words("HEALTHCHECK")
    assert subprocess.run(health, env=environment, check=False, capture_output=True).returncode != 0
    program = shutil.which(entry[0], path=environment["PATH"])
    assert program
    assert Path(program).is_relative_to(image.root)
    with process((program, *image.words("CMD")), server, settings=environment, folder=Path("/")):
        assert subprocess.run(health, env=environment, check=False).returncode == 0
        assert server.ask("{ viewer { role } }") == {"viewer": {"role": "ROOT"}}
        # The dashboard is inside, and what the page fetches.
        assert "/dashboard/assets/" in httpx.get(server.url, timeout=10).text
