"""What tests stand on: one real PostgreSQL, a database of its own for each test, the parts of a server."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
from pydantic import SecretStr

from app import schema
from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.main import Parts, assemble
from app.principal import Principal, root
from app.settings import Settings
from app.storage import embedded
from app.storage.database import Address, Database
from app.storage.migrate import grant, migrate
from app.storage.provide import with_database, with_login
from tests.office import Office

# A busy machine is slow; that is no error of what is tested.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

TEMPLATE = "escrowgrid_template"
LOGIN = "escrowgrid_test"
PASSWORD = "only-for-tests"
ROOT_KEY = "root-key-of-the-tests"
RECURSION = sys.getrecursionlimit()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests begin first: side by side, one that begins last is waited for by all the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Recursion ends where a server's does: the libraries of chains, which some tests load, move the end away."""
    sys.setrecursionlimit(RECURSION)


@pytest.fixture(scope="session")
def admin_url() -> Iterator[str]:
    """A server for the whole run: TEST_ADMIN_URL when set (a superuser's), else one in memory."""
    given = os.environ.get("TEST_ADMIN_URL")
    if given:
        yield given
        return
    with embedded.memory({"max_connections": "400"}) as running:
        yield running.admin_url


@pytest.fixture(scope="session")
async def template(admin_url: str) -> str:
    """A database built by the migrations, which each test's is cloned from."""
    connection = await asyncpg.connect(admin_url)
    await connection.execute(f'DROP DATABASE IF EXISTS "{TEMPLATE}"')
    await connection.execute(f'CREATE DATABASE "{TEMPLATE}"')
    await connection.close()
    url = with_database(admin_url, TEMPLATE)
    await migrate(url)
    await grant(url, LOGIN, PASSWORD)
    return TEMPLATE


@pytest.fixture
async def owner_url(admin_url: str, template: str) -> AsyncIterator[str]:
    """A fresh database of this test's own, by its superuser."""
    name = f"test_{uuid4().hex[:16]}"
    connection = await asyncpg.connect(admin_url)
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    await _be_another_ledger(with_database(admin_url, name))
    yield with_database(admin_url, name)
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


async def _be_another_ledger(url: str) -> None:
    """What a clone has of its template's: the id that keys remember their signatures by."""
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE ledger_head SET log_id = $1", uuid4().hex)
    await connection.close()


@pytest.fixture
def address(owner_url: str) -> Address:
    """The same database, as a server logs in."""
    return Address.of(with_login(owner_url, LOGIN, PASSWORD), owner_url=owner_url)


@pytest.fixture
def database_url(owner_url: str) -> str:
    """A fresh database by its superuser."""
    return owner_url


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a test, quick to notice things; what it signs is remembered in a folder of its own."""
    return Settings(
        data_dir=tmp_path,
        root_api_key=SecretStr(ROOT_KEY),
        tick_seconds=0.2,
        expiry_tick_seconds=0.1,
        pool_size_max=5,
    )


@pytest.fixture
async def parts(settings: Settings, address: Address) -> AsyncIterator[Parts]:
    """A whole server process without its HTTP side, running."""
    made = assemble(settings, address)
    async with made.running():
        yield made


@pytest.fixture
def services(parts: Parts) -> Services:
    """What resolvers reach."""
    return parts.services


@pytest.fixture
def database(services: Services) -> Database:
    """The pools of a running server."""
    return services.database


@pytest.fixture
async def owner(owner_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection, which sees everything."""
    connection = await asyncpg.connect(owner_url)
    yield connection
    await connection.close()


@dataclass(frozen=True)
class Answered:
    """What a document was answered with."""

    data: Any
    errors: list[Any]

    @property
    def codes(self) -> list[str]:
        """The codes of top-level errors."""
        return [error.extensions["code"] for error in self.errors]


Run = Callable[..., Awaitable[Answered]]


@pytest.fixture(scope="session")
def built_schema() -> Schema:
    """The real schema."""
    return schema.build(Settings())


@pytest.fixture
def run(services: Services, built_schema: Schema) -> Run:
    """Executes a document against the real schema; as root unless a principal is given."""

    async def execute(
        document: str,
        variables: Mapping[str, Any] | None = None,
        *,
        principal: Principal | None = None,
        request: Request | None = None,
    ) -> Answered:
        context = Context(services, principal or root(), request or Request(services.ids.new("req")))
        try:
            result = await built_schema.execute(document, variable_values=variables, context_value=context)
        finally:
            await context.close()
        return Answered(result.data, result.errors or [])

    return execute


Live = Callable[..., Any]


@pytest.fixture
def live(services: Services, built_schema: Schema) -> Live:
    """Subscribes: `async with live(document, variables, principal=…) as results: await anext(results)`."""

    @asynccontextmanager
    async def subscribe(
        document: str,
        variables: Mapping[str, Any] | None = None,
        *,
        principal: Principal | None = None,
        request: Request | None = None,
    ) -> AsyncIterator[Any]:
        context = Context(services, principal or root(), request or Request(services.ids.new("req")))
        stream = await built_schema.stream(document, variable_values=variables, context_value=context)
        try:
            yield stream
        finally:
            await stream.aclose()
            await context.close()

    return subscribe


async def eventually(check: Callable[[], Awaitable[bool]], *, seconds: float = 30) -> None:
    """Waits until `check` holds; fails when it does not."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await check():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Says something in the output of the run, also where it passes."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")

    def say(text: str) -> None:
        capture = request.config.pluginmanager.get_plugin("capturemanager")
        if reporter is not None and capture is not None:
            with capture.global_and_fixture_disabled():
                reporter.ensure_newline()
                reporter.write_line(text)

    return say


@pytest.fixture
def office(services: Services, owner: asyncpg.Connection) -> Office:
    """An institution to work for, and its transactions."""
    return Office(services, owner)
