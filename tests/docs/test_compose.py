"""The containers: what docker-compose.yml says is valid, and its commands bring up a server."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from app.anchoring.keys import from_key
from app.settings import Settings
from app.storage import embedded
from app.storage.provide import with_database, with_login
from tests.anchoring import nodes
from tests.e2e.redis import redis
from tests.serving import ROOT, Server, free_port, plain_environment, process

yaml = pytest.importorskip(
    "yaml", reason="PyYAML is not installed, and nothing else here reads docker-compose.yml"
)

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# The innermost ones: what stands for a variable may have variables in it.
VARIABLE = re.compile(r"\$\{(\w+):([-+])([^${}]*)\}")
PROFILES = ("bell", "chain", "watch")


def read(**variables: str) -> dict[str, Any]:
    """The file as it is with these variables set."""

    def value(found: "re.Match[str]") -> str:
        name, sign, other = found.groups()
        given = variables.get(name, "")
        return (given or other) if sign == "-" else (given and other)

    text, count = COMPOSE.read_text(), 1
    while count:
        text, count = VARIABLE.subn(value, text)
    whole: dict[str, Any] = yaml.safe_load(text)
    return whole


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The file as it is without any variable set."""
    return read()


def has_compose() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    return subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="there is no `docker compose` on this machine to ask")
def test_docker_finds_the_file_valid() -> None:
    docker = shutil.which("docker")
    assert docker
    profiles = [word for name in PROFILES for word in ("--profile", name)]
    asked = subprocess.run(
        [docker, "compose", "--file", str(COMPOSE), *profiles, "config", "--quiet"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 0, asked.stderr
    assert not asked.stderr


def test_the_specification_finds_it_valid() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed, which has the schema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    asked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stdout


def test_everything_that_it_names_is_there(composed: dict[str, Any]) -> None:
    services = composed["services"]
    for name, service in services.items():
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            assert source in composed["volumes"] or (ROOT / source).exists(), f"{name}: {mount}"
        for config in service.get("configs", ()):
            assert config["source"] in composed["configs"], name
        assert set(service.get("depends_on", ())) <= set(services), name
        assert set(service["networks"]) <= set(composed["networks"]), name
        assert set(service.get("profiles", ())) <= set(PROFILES), name
    for name, config in composed["configs"].items():
        assert "content" in config or (ROOT / config["file"]).is_file(), name
    used = {mount.partition(":")[0] for one in services.values() for mount in one.get("volumes", ())}
    assert used == set(composed["volumes"])
    for text in ("scrape", "grafana-source", "grafana-dashboards"):
        assert yaml.safe_load(composed["configs"][text]["content"])


def test_nothing_without_a_profile_waits_for_what_has_one(composed: dict[str, Any]) -> None:
    services = composed["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            missing = set(services[other].get("profiles", ())) - set(service.get("profiles", ()))
            assert not missing or how["required"] is False, f"{name} waits for {other}"


def test_whatever_is_waited_for_says_when_it_is_well(composed: dict[str, Any]) -> None:
    services = composed["services"]
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], other
    assert "HEALTHCHECK" in DOCKERFILE


def test_migrations_run_between_the_database_and_the_server(composed: dict[str, Any]) -> None:
    services = composed["services"]
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["app"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["database"]["image"] == "postgres:18"


def test_only_what_has_a_page_can_be_reached_and_only_from_this_machine(composed: dict[str, Any]) -> None:
    services = composed["services"]
    reached = {name for name, service in services.items() if "ports" in service}
    assert reached == {"app", "grafana"}
    assert all(port.startswith("127.0.0.1:") for name in reached for port in services[name]["ports"])
    for name in ("database", "bell", "chain", "prometheus"):
        assert services[name]["networks"] == ["inside"], name
    assert composed["networks"]["inside"] == {"internal": True}


def test_every_setting_of_the_containers_is_one_of_ours(composed: dict[str, Any]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    for name in ("migrate", "app", "contract"):
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


def test_anchoring_is_set_whole_or_not_at_all(composed: dict[str, Any]) -> None:
    names = ("CHAIN_URL", "CHAIN_ID", "CHAIN_CONTRACT", "CHAIN_KEY")
    for given, wanted in ((composed, 0), (read(CHAIN_URL="http://chain:8545"), len(names))):
        told = given["services"]["app"]["environment"]
        assert sum(bool(told[name]) for name in names) == wanted
    own = read(CHAIN_URL="https://node.example", CHAIN_ID="1", CHAIN_CONTRACT="0x1", CHAIN_KEY="2")
    told = own["services"]["app"]["environment"]
    assert [told[name] for name in names] == ["https://node.example", "1", "0x1", "2"]


def test_the_commands_bring_up_a_server_with_a_bell_and_a_chain(tmp_path: Path) -> None:
    with embedded.memory() as running, redis() as bell, nodes.devchain() as node:
        chain = {"CHAIN_URL": node.url, "CHAIN_ID": str(node.chain_id)}
        composed = read(BELL_URL=bell, **chain)
        services = composed["services"]
        node.fund(from_key(SecretStr(services["app"]["environment"]["CHAIN_KEY"])).address)
        url = make_database(composed, running.admin_url, running.bin_dir)
        place = url.rpartition("@")[2].partition("/")[0]

        def settings_of(name: str) -> dict[str, str]:
            given = services[name]["environment"].items()
            found = {key: str(value or "").replace("database:5432", place) for key, value in given}
            return found | {"DATA_DIR": str(tmp_path)}

        def run(name: str) -> str:
            command = (sys.executable, "-m", "app.cli", *services[name]["command"])
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=plain_environment() | settings_of(name),
                check=False,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        run("migrate")
        contract = services["app"]["environment"]["CHAIN_CONTRACT"].lower()
        assert f"={contract}" in run("contract").lower()
        # The next start of the containers finds it there.
        assert f"The contract is at {contract} already." in run("contract")
        server = Server(f"http://127.0.0.1:{free_port()}", "root-key-of-this-test")
        serve = (sys.executable, "-m", "app.cli", "serve", "--port", str(server.port))
        with process(serve, server, settings=settings_of("app") | {"ROOT_API_KEY": server.root_key}):
            assert server.ask("{ viewer { role } }") == {"viewer": {"role": "ROOT"}}
            assert anchored_on(server) == contract


def anchored_on(server: Server) -> str | None:
    """The contract, once the server has looked at the chain."""
    for _ in range(100):
        chains = server.ask("{ anchorChains { contract failure } }")["anchorChains"]
        if chains:
            assert chains[0]["failure"] is None
            contract: str = chains[0]["contract"]
            return contract
        time.sleep(0.1)
    return None


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
