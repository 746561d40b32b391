"""The containers: what docker-compose.yml says is valid, and its commands bring up a server."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.settings import Settings
from app.storage import embedded
from app.storage.provide import with_database, with_login
from tests.serving import ROOT, Server, free_port, plain_environment, process

yaml = pytest.importorskip(
    "yaml", reason="PyYAML is not installed, and nothing else here reads docker-compose.yml"
)

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
VARIABLE = re.compile(r"\$\{(\w+):-(.*?)\}")


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The file as it is without any variable set."""
    found: dict[str, Any] = yaml.safe_load(VARIABLE.sub(r"\2", COMPOSE.read_text()))
    return found


def has_compose() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    return subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="there is no `docker compose` on this machine to ask")
def test_docker_finds_the_file_valid() -> None:
    docker = shutil.which("docker")
    assert docker
    asked = subprocess.run(
        [docker, "compose", "--file", str(COMPOSE), "config", "--quiet"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 0, asked.stderr
    assert not asked.stderr


def test_migrations_run_between_the_database_and_the_server(composed: dict[str, Any]) -> None:
    services = composed["services"]
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["app"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["database"]["image"] == "postgres:18"


def test_only_the_server_can_be_reached_and_only_from_this_machine(composed: dict[str, Any]) -> None:
    services = composed["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["app"]
    assert all(port.startswith("127.0.0.1:") for port in services["app"]["ports"])
    assert services["database"]["networks"] == ["inside"]
    assert composed["networks"]["inside"] == {"internal": True}


def test_every_setting_of_the_containers_is_one_of_ours(composed: dict[str, Any]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    for name in ("migrate", "app"):
        assert set(composed["services"][name]["environment"]) <= known
    told = dict(re.findall(r"^\s+([A-Z_]+)=(\S+)", DOCKERFILE, re.MULTILINE))
    assert {name for name in told if not name.startswith(("PIP_", "PYTHON"))} <= known


def test_the_image_runs_as_nobody_special_and_says_when_it_is_ready() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["escrowgrid"]
    assert "HEALTHCHECK" in DOCKERFILE
    assert "/ready" in DOCKERFILE


def test_the_image_is_given_what_it_copies_and_no_more() -> None:
    given = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {line.split()[1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")}
    copied |= {"README.md"}  # beside pyproject.toml, which names it
    assert given[1] == "*"
    assert {line.removeprefix("!") for line in given if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_commands_bring_up_a_server(composed: dict[str, Any], tmp_path: Path) -> None:
    services = composed["services"]
    with embedded.memory() as running:
        url = make_database(composed, running.admin_url, running.bin_dir)
        place = url.rpartition("@")[2].partition("/")[0]

        def settings_of(name: str) -> dict[str, str]:
            given = services[name]["environment"].items()
            found = {key: str(value or "").replace("database:5432", place) for key, value in given}
            return found | {"DATA_DIR": str(tmp_path)}

        migrate = (sys.executable, "-m", "app.cli", *services["migrate"]["command"])
        subprocess.run(migrate, cwd=ROOT, env=plain_environment() | settings_of("migrate"), check=True)
        server = Server(f"http://127.0.0.1:{free_port()}", "root-key-of-this-test")
        serve = (sys.executable, "-m", "app.cli", "serve", "--port", str(server.port))
        with process(serve, server, settings=settings_of("app") | {"ROOT_API_KEY": server.root_key}):
            assert server.ask("{ viewer { role } }") == {"viewer": {"role": "ROOT"}}


def make_database(composed: dict[str, Any], admin_url: str, programs: Path) -> str:
    """What the database's container does when it first starts; returns the superuser's address of it."""
    told = composed["services"]["database"]["environment"]
    name, password, database = told["POSTGRES_USER"], told["POSTGRES_PASSWORD"], told["POSTGRES_DB"]
    for statement in (
        f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{password}'",
        f"CREATE DATABASE {database} OWNER {name}",
    ):
        subprocess.run([programs / "psql", admin_url, "--command", statement], check=True)
    url = with_database(with_login(admin_url, name, password), database)
    parts = urlsplit(url)
    # The container's psql finds its server by itself; here it has to be told.
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PGHOST": str(parts.hostname),
        "PGPORT": str(parts.port),
        "PGPASSWORD": password,
        **told,
    }
    script = composed["configs"]["login"]["content"].replace("$$", "$")
    subprocess.run(["bash", "-euc", script], env=environment, check=True)
    return url
