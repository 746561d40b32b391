"""A whole server as a newcomer starts it: `escrowgrid dev --memory`, in a process of its own."""

import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS_MAX = 60
END_SECONDS_MAX = 40
DEMO_POSITIONS_MIN = 30


@dataclass(frozen=True)
class Server:
    """Where a running server is, and the key that opens everything in it."""

    url: str
    root_key: str = field(repr=False)

    @property
    def graphql(self) -> str:
        return f"{self.url}/graphql"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(
        self, document: str, variables: Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> dict[str, Any]:
        """The whole answer to a document, as root."""
        answer = httpx.post(
            self.graphql,
            json={"query": document, "variables": variables or {}, "operationName": name},
            headers={"Authorization": f"Bearer {self.root_key}"},
            timeout=30,
        )
        answered: dict[str, Any] = answer.json()
        return answered

    def ask(self, document: str, variables: Mapping[str, Any] | None = None) -> Any:
        """The data of an answer without errors; a mutation without user errors, too."""
        answered = self.post(document, variables)
        assert "errors" not in answered, answered["errors"]
        refusals = [
            told
            for payload in answered["data"].values()
            if isinstance(payload, dict)
            for told in payload.get("userErrors", ())
        ]
        assert not refusals, refusals
        return answered["data"]


@contextmanager
def served(*options: str, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server for the length of the block; afterwards it has ended as Ctrl-C ends it."""
    server = Server(f"http://127.0.0.1:{free_port()}", f"egroot_{secrets.token_urlsafe(16)}")
    command = (sys.executable, "-m", "app.cli", "dev", "--memory", "--port", str(server.port), *options)
    with process(command, server, settings=settings):
        yield server


@contextmanager
def process(
    command: Sequence[str], server: Server, *, settings: Mapping[str, str] | None = None, folder: Path = ROOT
) -> Iterator[None]:
    """A command that starts that server, until the block ends; it fails with what the command said."""
    environment = plain_environment() | {"ROOT_API_KEY": server.root_key} | dict(settings or {})
    with tempfile.TemporaryFile() as said:
        running = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            _wait_until_ready(server, running)
            yield
        except BaseException as error:
            error.add_note(_read(said))
            raise
        finally:
            _end(running)
        assert running.returncode in {0, 2, 130, -signal.SIGINT}, _read(said)


def plain_environment() -> dict[str, str]:
    """The environment without any setting of ours, nor what `make test` was given, so that a test's are the only ones."""
    names = {name.upper() for name in Settings.model_fields} | {
        "ARGS",
        "MAKEFLAGS",
        "MAKEOVERRIDES",
        "MFLAGS",
    }
    return {name: value for name, value in os.environ.items() if name.upper() not in names}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_demo(server: Server) -> None:
    """Wait until the demo's positions are there, in several states."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        groups = server.ask("{ positionSummary(groupBy: [STATE]) { state count } }")["positionSummary"]
        states = {group["state"] for group in groups}
        if sum(group["count"] for group in groups) >= DEMO_POSITIONS_MIN and len(states) >= 4:
            return
        time.sleep(0.1)
    raise AssertionError(f"the demo was not seeded in time: {groups}")


class Bookkeeper:
    """Makes things happen on a server, all in an institution of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        institution = self._make(
            "institution", "createInstitution", "CreateInstitutionInput", name="Test Trust", regions=["US"]
        )
        template = self._make(
            "assetTemplate",
            "createAssetTemplate",
            "CreateAssetTemplateInput",
            institutionId=institution,
            name="Test escrow",
            code="CONSTR_ESCROW",
            region="US",
            config={"currency": "USD", "region": "US"},
        )
        self.institution_id = institution
        self.asset_id = self._make(
            "asset",
            "createAsset",
            "CreateAssetInput",
            institutionId=institution,
            templateId=template,
            label="Test site",
        )

    def open(self, amount: str = "1000.00") -> str:
        """Open a position: one event."""
        return self._make(
            "position",
            "createPosition",
            "CreatePositionInput",
            assetId=self.asset_id,
            holderReference=f"TEST-{next(self._numbers)}",
            currency="USD",
            amount=amount,
        )

    def crowd(self, rounds: int = 2, amount: str = "1000.00") -> None:
        """Open so many positions that the demo hardly ever moves the one that a test looks at."""
        item = {"assetId": self.asset_id, "holderReference": "CROWD", "currency": "USD", "amount": amount}
        for _ in range(rounds):
            self._server.ask(
                "mutation ($input: CreatePositionsInput!) { createPositions(input: $input) "
                "{ results { userErrors { code } } userErrors { code message } } }",
                {"input": {"items": [item] * 100}},
            )

    def fund(self, position_id: str) -> str:
        """Fund a position: one event."""
        return self._make("position", "fundPosition", "MovePositionInput", id=position_id)

    def _make(self, thing: str, mutation: str, input_type: str, **values: object) -> str:
        document = (
            f"mutation ($input: {input_type}!) {{ made: {mutation}(input: $input) "
            f"{{ {thing} {{ id }} userErrors {{ code message field }} }} }}"
        )
        made: str = self._server.ask(document, {"input": values})["made"][thing]["id"]
        return made


def _wait_until_ready(server: Server, running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        assert running.poll() is None, f"the server ended with {running.returncode}"
        try:
            if httpx.get(f"{server.url}/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server was not ready in time")


def _end(running: "subprocess.Popen[bytes]") -> None:
    """As Ctrl-C in a terminal does: the whole group hears it."""
    if running.poll() is not None:
        return
    os.killpg(running.pid, signal.SIGINT)
    try:
        running.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        raise AssertionError("the server did not heed Ctrl-C") from None


def _read(said: Any) -> str:
    said.seek(0)
    text: str = said.read().decode(errors="replace")
    return text[-10_000:]
