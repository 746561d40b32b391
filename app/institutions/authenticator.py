"""Tells who asks: the root key compared in constant time, API keys kept so briefly that revoking tells."""

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import SecretStr

from app.errors import AppError
from app.institutions import service
from app.institutions.model import Held, Use, secret_hash
from app.kit.chain import same
from app.kit.clock import Clock
from app.kit.gathering import Gathering
from app.principal import Principal, root
from app.storage.database import Database

log = logging.getLogger("escrowgrid.keys")

CACHE_SECONDS = 0.5
CACHE_MAX = 10_000
LOOK_UP_MAX = 500
SECRET_LENGTH_MAX = 1_000
SECRET_PATTERN = re.compile(r"eg_[A-Za-z0-9_-]{43}")
TOUCH_EVERY = timedelta(minutes=1)
TOUCH_PAUSE_SECONDS = 0.2
TOUCHES_MAX = 500

Answer = asyncio.Future[Held | None]


@dataclass(frozen=True, slots=True)
class _Cached:
    """An answer, there or awaited; `until` is the event loop's time."""

    answer: Answer
    until: float


class Authenticator:
    """One per process. It keeps hashes, never secrets."""

    def __init__(self, database: Database, clock: Clock, root_key: SecretStr | None) -> None:
        self._database = database
        self._clock = clock
        self._root = None if root_key is None else secret_hash(root_key.get_secret_value())
        self._cache: OrderedDict[bytes, _Cached] = OrderedDict()
        # Answers all that ask at once with one statement.
        self._keys = Gathering(self._find, LOOK_UP_MAX)
        self._used: dict[Use, datetime] = {}
        self._touching: asyncio.Task[None] | None = None

    async def authenticate(self, secret: str) -> Principal | None:
        """Whose key `secret` is, or None. Raises `Unavailable` when that cannot be found out."""
        if len(secret) > SECRET_LENGTH_MAX:
            return None
        hashed = secret_hash(secret)
        if self._root is not None and same(hashed, self._root):
            return root()
        if SECRET_PATTERN.fullmatch(secret) is None:
            return None
        held = await self._held(hashed)
        now = self._clock()
        if held is None or not held.usable(now):
            return None
        self._note_use(held, now)
        return held.principal

    def forget(self) -> None:
        """Keys have changed somewhere: ask the database again."""
        self._cache.clear()

    async def close(self) -> None:
        """Write what is known of the keys' last use, and stop."""
        await self._keys.close()
        if self._touching is not None:
            await asyncio.wait([self._touching])

    async def _held(self, hashed: bytes) -> Held | None:
        now = asyncio.get_running_loop().time()
        cached = self._cache.get(hashed)
        if cached is None or cached.until <= now or _failed(cached.answer):
            # Counted from before the look-up: what is answered is never older than the cache allows.
            cached = self._cache[hashed] = _Cached(self._keys.ask_soon(hashed), now + CACHE_SECONDS)
        self._cache.move_to_end(hashed)
        while len(self._cache) > CACHE_MAX:
            self._cache.popitem(last=False)
        # Those who ask at once share the answer; one who goes away does not take it from the others.
        return await asyncio.shield(cached.answer)

    async def _find(self, hashes: Sequence[bytes]) -> Mapping[bytes, Held]:
        return await service.find_keys(self._database, hashes)

    def _note_use(self, held: Held, now: datetime) -> None:
        if held.used_at is not None and now - held.used_at < TOUCH_EVERY:
            return
        if len(self._used) < TOUCHES_MAX:
            self._used[Use(held.key.institution_id, held.key.id, held.previous)] = now
        if self._touching is None or self._touching.done():
            self._touching = asyncio.create_task(self._touch())

    async def _touch(self) -> None:
        """Write the uses noted meanwhile, off the path of the requests."""
        await asyncio.sleep(TOUCH_PAUSE_SECONDS)
        used, self._used = self._used, {}
        try:
            institutions = sorted({use.institution_id for use in used})
            async with self._database.writing(",".join(institutions)) as connection:
                await service.note_uses(connection, used, every=TOUCH_EVERY)
        except AppError as error:
            log.warning("the last use of %d keys was not written: %s", len(used), error.message)
        except Exception:
            # The edge of this task: when a key was last used is worth knowing, not worth failing for.
            log.exception("the last use of %d keys was not written", len(used))


def _failed(answer: Answer) -> bool:
    """Whether it is done without an answer."""
    return answer.done() and (answer.cancelled() or answer.exception() is not None)
