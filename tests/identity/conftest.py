"""A provider, a server's parts that believe it, and an institution that its tokens name."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from app.context import Services
from app.identity.authenticator import KeysAndTokens
from app.institutions.model import Institution
from app.main import Parts
from app.principal import Principal
from app.settings import Settings
from tests import factories

from .provider import AUDIENCE, Provider, SigningKey, provided

Ask = Callable[[str], Awaitable[Principal | None]]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """With one key."""
    async with provided(SigningKey.new("k1")) as made:
        yield made


@pytest.fixture
def changes() -> dict[str, Any]:
    """What a test changes in the settings."""
    return {}


@pytest.fixture
def settings(settings: Settings, provider: Provider, changes: dict[str, Any]) -> Settings:
    """Those of a server that believes the provider."""
    wanted = {
        "oidc_issuer": provider.issuer,
        "oidc_audience": AUDIENCE,
        "oidc_clock_skew_seconds": 5.0,
        "oidc_jwks_again_seconds": 0.01,
    }
    return settings.model_copy(update=wanted | changes)


@pytest.fixture
def authenticator(parts: Parts) -> KeysAndTokens:
    """As a running server has it."""
    return parts.authenticator


@pytest.fixture
def ask(authenticator: KeysAndTokens) -> Ask:
    """Whose token this is."""
    return authenticator.authenticate


@pytest.fixture
async def institution(services: Services) -> Institution:
    """One that is there."""
    return await factories.institution(services)
