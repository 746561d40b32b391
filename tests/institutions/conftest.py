"""Institutions and keys, made the way the server makes them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from app.audit.service import Work
from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.institutions import service
from app.institutions.authenticator import Authenticator
from app.institutions.model import Institution, KeyDraft, NewKey, Region
from app.principal import Principal, Role, root

Working = Callable[..., Any]
Opened = Callable[..., Awaitable[Institution]]
Keyed = Callable[..., Awaitable[NewKey]]
Counted = Callable[[str], Awaitable[int]]
Ask = Callable[..., Awaitable[Any]]


@pytest.fixture
def working(services: Services) -> Working:
    """A transaction on one institution, as the context opens it."""

    @asynccontextmanager
    async def begin(institution_id: str, actor: Principal | None = None) -> AsyncIterator[Work]:
        async with services.database.writing(institution_id) as connection:
            yield Work(
                connection, actor or root(), "req_1", "192.0.2.1", "test", services.clock(), services.ids
            )

    return begin


@pytest.fixture
def opened(services: Services, working: Working) -> Opened:
    """Opens an institution."""

    async def make(name: str = "Baumeister AG") -> Institution:
        institution_id = services.ids.new("inst")
        async with working(institution_id) as work:
            return await service.create_institution(work, institution_id, name=name, regions=[Region.EU_UK])

    return make


@pytest.fixture
def keyed(working: Working) -> Keyed:
    """Makes a key of an institution."""

    async def make(institution_id: str, role: Role = Role.ADMIN, **draft: Any) -> NewKey:
        async with working(institution_id) as work:
            return await service.create_api_key(work, institution_id, KeyDraft("a key", role, **draft))

    return make


@pytest.fixture
def ask(services: Services, built_schema: Schema) -> Ask:
    """Executes a document as a principal, with the secret of a key, or as nobody."""

    async def execute(
        document: str,
        variables: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        principal: Principal | None = None,
    ) -> Any:
        if key is not None:
            authenticator = Authenticator(services.database, services.clock, None)
            principal = await authenticator.authenticate(key)
            await authenticator.close()
        context = Context(services, principal, Request(services.ids.new("req"), "192.0.2.1"))
        try:
            return await built_schema.execute(document, variable_values=variables, context_value=context)
        finally:
            await context.close()

    return execute


@pytest.fixture
def rows(database_url: str) -> Counted:
    """How many rows a query finds, seen by the superuser: no policy hides anything."""

    async def count(query: str) -> int:
        connection = await asyncpg.connect(database_url)
        try:
            found: int = await connection.fetchval(f"SELECT count(*) FROM {query}")
            return found
        finally:
            await connection.close()

    return count
