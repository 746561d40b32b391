"""How many connections stay open for each key and from each address, within what the settings allow."""

from collections import Counter

from app.engine.masking import RATE_LIMITED
from app.http.gate import neighbourhood
from app.http.metrics import Metrics
from app.http.wire import RefusedError
from app.principal import Principal
from app.settings import Settings

RETRY_SECONDS = 10


class Crowd:
    """The connections of one process, counted."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._per_key_max = settings.connections_per_key_max
        self._per_address_max = settings.connections_per_address_max
        self._metrics = metrics
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def enter_address(self, address: str | None) -> None:
        """One more from this address; refuses with 429 when it has as many as it may."""
        name = f"address {neighbourhood(address)}"
        self._enter(name, self._per_address_max, "this address", "connections_per_address_max")

    def enter_key(self, principal: Principal) -> None:
        """One more of this key; refuses with 429 when it has as many as it may."""
        self._enter(_name(principal), self._per_key_max, "this key", "connections_per_key_max")

    def leave_address(self, address: str | None) -> None:
        """One less."""
        self._leave(f"address {neighbourhood(address)}")

    def leave_key(self, principal: Principal) -> None:
        """One less."""
        self._leave(_name(principal))

    def _enter(self, name: str, most: int, whose: str, limit: str) -> None:
        if self._counts[name] >= most:
            self._metrics.limited("connections")
            raise RefusedError(
                429,
                RATE_LIMITED,
                f"{whose} has {most} connections open; close one first",
                {"Retry-After": str(RETRY_SECONDS)},
                limit=limit,
                max=most,
                retryAfter=RETRY_SECONDS,
            )
        self._counts[name] += 1

    def _leave(self, name: str) -> None:
        self._counts[name] -= 1
        if not self._counts[name]:
            del self._counts[name]


def _name(principal: Principal) -> str:
    return f"key {principal.tenant} {principal.id}"
