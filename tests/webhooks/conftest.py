"""A server with webhooks, a clock that can be moved, and a receiver."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from app.main import Parts, assemble
from app.principal import Principal
from app.settings import Settings
from app.storage.database import Address
from tests.conftest import ROOT_KEY, Answered, Run, eventually
from tests.factories import Place
from tests.webhooks.receiver import Receiver, receiving

KEY = "5e" * 32


@dataclass
class MovableClock:
    """Goes as time does, and ahead when it is told to."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def move(self, **by: float) -> None:
        self.ahead += timedelta(**by)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Quick to notice things; receivers are on this machine."""
    return Settings(
        root_api_key=SecretStr(ROOT_KEY),
        tick_seconds=0.1,
        expiry_tick_seconds=0.1,
        lease_seconds=2.0,
        pool_size_max=5,
        data_dir=tmp_path,
        webhook_key=SecretStr(KEY),
        webhook_allow_private=True,
    )


@pytest.fixture
async def parts(settings: Settings, address: Address, clock: MovableClock) -> AsyncIterator[Parts]:
    """A whole server process without its HTTP side, running."""
    made = assemble(settings, address, clock=clock)
    async with made.running():
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Where webhooks go."""
    async with receiving() as made:
        yield made


@dataclass(frozen=True)
class Made:
    """An endpoint with its secret."""

    id: str
    secret: str = field(repr=False)


CREATE = """
mutation ($input: CreateWebhookEndpointInput!) {
  createWebhookEndpoint(input: $input) { endpoint { id } secret userErrors { code message field } }
}
"""
Endpoint = Callable[..., Awaitable[Made]]


def fine(answered: Answered) -> Any:
    """The data of an answer without errors of any kind."""
    assert not answered.errors, answered.errors
    for payload in answered.data.values():
        if isinstance(payload, dict):
            assert not payload.get("userErrors"), payload
    return answered.data


@pytest.fixture
def endpoint(run: Run) -> Endpoint:
    """Makes an endpoint of an institution."""

    async def make(by: Principal | Place, url: str, **given: Any) -> Made:
        principal = by.admin if isinstance(by, Place) else by
        data = fine(await run(CREATE, {"input": {"url": url} | given}, principal=principal))
        payload = data["createWebhookEndpoint"]
        return Made(payload["endpoint"]["id"], payload["secret"])

    return make


Rows = Callable[..., Awaitable[list[Mapping[str, Any]]]]


@pytest.fixture
def deliveries(owner: asyncpg.Connection) -> Rows:
    """The rows of deliveries in the order of the ledger, as a superuser sees them."""

    async def read(endpoint_id: str | None = None) -> list[Mapping[str, Any]]:
        return await owner.fetch(
            "SELECT * FROM webhook_deliveries WHERE $1::text IS NULL OR endpoint_id = $1 "
            "ORDER BY institution_id, sequence, id",
            endpoint_id,
        )

    return read


@pytest.fixture
def settled(deliveries: Rows) -> Callable[..., Awaitable[None]]:
    """Waits until so many deliveries are in one state."""

    async def wait(count: int, state: str = "DELIVERED", *, seconds: float = 15) -> None:
        async def there() -> bool:
            return sum(row["state"] == state for row in await deliveries()) >= count

        try:
            await eventually(there, seconds=seconds)
        except AssertionError:
            rows = [dict(row) for row in await deliveries()]
            raise AssertionError(f"fewer than {count} are {state}: {rows[:5]}") from None

    return wait


async def moments() -> None:
    """Long enough for what would happen to have happened."""
    await asyncio.sleep(0.4)
