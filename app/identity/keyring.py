"""The provider's public keys: read when needed, kept while they are good, never asked for too often."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from app.errors import Unavailable
from app.kit.canonical import Json, NotCanonical, canonical_json
from app.kit.chain import digest

log = logging.getLogger("escrowgrid.identity")

KEYS_MAX = 100
# Which key an algorithm takes: its type and, where it has one, its curve.
FAMILIES: Mapping[str, tuple[str, frozenset[str]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", frozenset[str]())),
    "ES256": ("EC", frozenset({"P-256"})),
    "ES384": ("EC", frozenset({"P-384"})),
    "ES512": ("EC", frozenset({"P-521"})),
    "EdDSA": ("OKP", frozenset({"Ed25519", "Ed448"})),
}

# Reads the provider's key set as it is now; raises `Unreadable`.
ReadKeys = Callable[[], Awaitable[Sequence[Json]]]


class Unreadable(Exception):
    """The provider's keys cannot be read now; the message says why."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of the provider; equal to itself when it is read again."""

    id: str | None
    type: str
    curve: str | None
    algorithm: str | None
    fingerprint: bytes
    members: Mapping[str, Json]

    def fits(self, algorithm: str) -> bool:
        """Whether it may check signatures of that algorithm: the key decides, not the token."""
        type_, curves = FAMILIES[algorithm]
        return (
            self.type == type_
            and self.algorithm in (None, algorithm)
            and (not curves or self.curve in curves)
        )

    def material(self, algorithm: str) -> PyJWK:
        """The key as the library takes it, bound to one algorithm; raises `PyJWTError` when it is malformed."""
        return PyJWK(dict(self.members), algorithm)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long keys are fresh, how often they are asked for at most, and how long they serve after that."""

    fresh_seconds: float
    again_seconds: float
    stale_seconds: float


class Keyring:
    """One per process. Its times are the event loop's, so that no change of the clock keeps a key alive."""

    def __init__(self, read: ReadKeys, pace: Pace) -> None:
        self._read = read
        self._pace = pace
        self._keys: tuple[PublicKey, ...] = ()
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._failed = False
        self._reading: asyncio.Task[None] | None = None

    async def key(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        """The key of that id for that algorithm, None when the provider has none.

        Raises `Unavailable` when that cannot be told: the provider is away and what is known is too old, or not it.
        """
        age = self._age()
        if age is None or age > self._pace.fresh_seconds + self._pace.stale_seconds:
            await self._read_again()
            age = self._age()
            if age is None or age > self._pace.fresh_seconds + self._pace.stale_seconds:
                raise Unavailable("the provider's keys cannot be read now; try again shortly")
        elif age > self._pace.fresh_seconds:
            self._begin()
        found = self._find(key_id, algorithm)
        if found is None and self._may_ask():
            await self._read_again()
            found = self._find(key_id, algorithm)
        if found is None and self._failed:
            raise Unavailable("the provider's keys cannot be read now; try again shortly")
        return found

    def begin(self) -> None:
        """Read the keys soon, so that the first token need not wait for it."""
        self._begin()

    async def close(self) -> None:
        """Stop asking."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _age(self) -> float | None:
        return None if self._read_at is None else _now() - self._read_at

    def _may_ask(self) -> bool:
        if self._reading is not None and not self._reading.done():
            return True  # it is asked for already: whoever wants to may wait for it
        return self._tried_at is None or _now() - self._tried_at >= self._pace.again_seconds

    def _begin(self) -> asyncio.Task[None] | None:
        if not self._may_ask():
            return None
        if self._reading is None or self._reading.done():
            self._tried_at = _now()
            self._reading = asyncio.create_task(self._take(), name="provider-keys")
        return self._reading

    async def _read_again(self) -> None:
        """Wait for the one reading that is under way, or begin one when the last was long enough ago."""
        reading = self._begin()
        if reading is not None:
            # One who goes away does not take it from the others.
            await asyncio.shield(reading)

    async def _take(self) -> None:
        began = _now()
        try:
            keys = public_keys(await self._read())
        except Unreadable as error:
            self._failed = True
            log.warning("the provider's keys were not read: %s", error)
            return
        except Exception:
            # The edge of this task: whoever waits for it is told to come back, whatever it was.
            self._failed = True
            log.exception("the provider's keys were not read")
            return
        if {key.fingerprint for key in keys} != {key.fingerprint for key in self._keys}:
            log.info("the provider has %d usable keys", len(keys))
        self._keys, self._read_at, self._failed = keys, began, False

    def _find(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        fitting = [key for key in self._keys if key.fits(algorithm) and key_id in (None, key.id)]
        # Without an id, or with one that two keys share, nobody guesses.
        return fitting[0] if len(fitting) == 1 else None


def public_keys(found: Sequence[Json]) -> tuple[PublicKey, ...]:
    """Those of a key set that can check signatures; the others are left out, whatever is wrong with them."""
    keys: list[PublicKey] = []
    for item in found[:KEYS_MAX]:
        key = _public_key(item)
        if key is not None:
            keys.append(key)
    return tuple(keys)


def _public_key(item: Json) -> PublicKey | None:
    if not isinstance(item, Mapping) or not _is_for_checking(item):
        return None
    texts = {name: item.get(name) for name in ("kid", "kty", "crv", "alg")}
    if not all(value is None or isinstance(value, str) for value in texts.values()):
        return None
    if "d" in item or "k" in item:
        log.error("the provider publishes a key that has to be secret; it is not used")
        return None
    try:
        spelled = canonical_json(item)
    except NotCanonical:
        return None
    key = PublicKey(
        id=_text(texts["kid"]),
        type=_text(texts["kty"]) or "",
        curve=_text(texts["crv"]),
        algorithm=_text(texts["alg"]),
        fingerprint=digest(spelled.encode()),
        members=item,
    )
    fitting = [algorithm for algorithm in FAMILIES if key.fits(algorithm)]
    try:
        return key if fitting and key.material(fitting[0]) else None
    except (PyJWTError, ValueError):
        return None


def _is_for_checking(item: Mapping[str, Json]) -> bool:
    operations = item.get("key_ops")
    return item.get("use") in (None, "sig") and (
        operations is None or (isinstance(operations, list) and "verify" in operations)
    )


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None


def _now() -> float:
    return asyncio.get_running_loop().time()
