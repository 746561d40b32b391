"""Everybody who may ask: the root key, API keys, and bearer tokens where a provider is set."""

from collections.abc import Callable
from datetime import timedelta

from app.identity.keyring import Keyring, Pace
from app.identity.model import Rules
from app.identity.provider import Provider
from app.identity.service import Tokens
from app.institutions.authenticator import Authenticator
from app.kit.clock import Clock
from app.principal import Principal
from app.settings import Settings
from app.storage.database import Database


class KeysAndTokens:
    """One per process: what every transport asks."""

    def __init__(self, keys: Authenticator, tokens: Tokens | None) -> None:
        self.keys = keys
        self._tokens = tokens
        # Who wants to know when keys have changed.
        self.listeners: list[Callable[[], None]] = []

    @classmethod
    def of(cls, database: Database, settings: Settings, clock: Clock) -> "KeysAndTokens":
        """As the settings say."""
        return cls(Authenticator(database, clock, settings.root_api_key), _tokens(database, settings, clock))

    async def start(self) -> None:
        """Begin."""
        if self._tokens is not None:
            await self._tokens.start()

    async def close(self) -> None:
        """Stop."""
        if self._tokens is not None:
            await self._tokens.close()
        await self.keys.close()

    async def authenticate(self, secret: str) -> Principal | None:
        """Who asks, or None when it is nobody's (any more). Raises `Unavailable` when that cannot be told."""
        found = await self.keys.authenticate(secret)
        # A key has no dots, and every token has two.
        if found is None and self._tokens is not None and "." in secret:
            found = await self._tokens.authenticate(secret)
        return found

    def forget(self) -> None:
        """Keys have changed somewhere: ask the database again."""
        self.keys.forget()
        for listener in self.listeners:
            listener()


def _tokens(database: Database, settings: Settings, clock: Clock) -> Tokens | None:
    if settings.oidc_issuer is None:
        return None
    assert settings.oidc_audience is not None, "the settings demand one beside an issuer"
    rules = Rules(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        algorithms=frozenset(settings.oidc_algorithms),
        institution_claim=settings.oidc_institution_claim,
        role_claim=settings.oidc_role_claim,
        root_role=settings.oidc_root_role,
        skew=timedelta(seconds=settings.oidc_clock_skew_seconds),
        keys_last=timedelta(days=settings.oidc_key_days_max),
    )
    pace = Pace(
        settings.oidc_jwks_seconds, settings.oidc_jwks_again_seconds, settings.oidc_jwks_stale_seconds
    )
    provider = Provider(settings.oidc_issuer, settings.oidc_jwks_url)
    return Tokens(database, clock, rules, Keyring(provider.keys, pace))
