"""Finds trusted documents by their hash: those in use are kept in memory, and looked after once a second."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from app.documents import store
from app.errors import Unavailable
from app.kit.gathering import Gathering
from app.kit.tasks import begin, end
from app.storage.database import Database, DatabaseRole

log = logging.getLogger("escrowgrid.documents")

CHARACTERS_MAX = 4_000_000
LOOK_AFTER_SECONDS = 1.0
LOOK_AFTER_AT_ONCE = 1_000
READ_SECONDS_MAX = 3.0
# A hash that nobody has added is asked for again after this, so that adding it soon tells.
UNKNOWN_SECONDS = 1.0
UNKNOWN_MAX = 10_000


class TrustedDocuments:
    """One per process."""

    def __init__(self, database: Database, characters_max: int = CHARACTERS_MAX) -> None:
        self._database = database
        self._characters_max = characters_max
        self._characters = 0
        self._known: OrderedDict[str, str] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._reads: Gathering[str, str] = Gathering(self._read)
        self._looking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._known)

    async def start(self) -> None:
        """Begin to look after what is kept."""
        self._looking = begin(self._look_after(), "trusted-documents")

    async def close(self) -> None:
        """Stop."""
        await end(self._looking)
        await self._reads.close()

    async def find(self, hash: str) -> str | None:
        """The document with this hash, None when nobody has added it. Raises `Unavailable` when that cannot be told.

        It is one and the same object for as long as it is kept, so that what is known of it is found at once.
        """
        found = self._known.get(hash)
        if found is not None:
            self._known.move_to_end(hash)
            return found
        now = asyncio.get_running_loop().time()
        if self._unknown.get(hash, 0.0) > now:
            return None
        text = await self._reads.ask(hash)
        if text is None:
            self._note_unknown(hash, now)
            return None
        # Whoever asked at the same time may have been quicker.
        return self._known.get(hash) or self._keep(hash, text)

    def _keep(self, hash: str, text: str) -> str:
        self._known[hash] = text
        self._unknown.pop(hash, None)
        self._characters += len(text)
        while self._characters > self._characters_max and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            self._characters -= len(oldest)
        return text

    def _note_unknown(self, hash: str, now: float) -> None:
        self._unknown[hash] = now + UNKNOWN_SECONDS
        self._unknown.move_to_end(hash)
        if len(self._unknown) > UNKNOWN_MAX:
            self._unknown.popitem(last=False)

    async def _read(self, hashes: Sequence[str]) -> Mapping[str, str]:
        try:
            async with asyncio.timeout(READ_SECONDS_MAX):
                async with self._database.pool(DatabaseRole.FEED).acquire() as connection:
                    return await store.read(connection, hashes)
        except Exception as error:  # noqa: BLE001 - whatever it was: they cannot be read
            log.warning("trusted documents cannot be read: %r", error)
            raise Unavailable("the trusted documents cannot be read now; try again shortly") from None

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AFTER_SECONDS)
            hashes = list(self._known)
            try:
                for start in range(0, len(hashes), LOOK_AFTER_AT_ONCE):
                    await self._drop_removed(hashes[start : start + LOOK_AFTER_AT_ONCE])
            except Exception as error:  # noqa: BLE001 - the edge of this task: it goes on for as long as the process
                log.warning("trusted documents cannot be looked after: %r", error)

    async def _drop_removed(self, hashes: Sequence[str]) -> None:
        async with asyncio.timeout(READ_SECONDS_MAX):
            async with self._database.pool(DatabaseRole.FEED).acquire() as connection:
                present = await store.present(connection, hashes)
        for removed in set(hashes) - present:
            gone = self._known.pop(removed, None)
            if gone is not None:
                self._characters -= len(gone)
