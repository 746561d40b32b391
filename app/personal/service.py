"""Holders of one process: sealing and opening what is known of them, finding them blind, erasing them."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.errors import BadRequest, Unavailable
from app.kit.ids import Ids
from app.kit.memo import Memo
from app.personal import store
from app.personal.masters import Masters, missing
from app.personal.sealing import (
    KEY_BYTES,
    Envelope,
    Holder,
    InstitutionKey,
    key_place,
    reference_place,
    seal,
    secret_place,
    unseal,
    value_place,
)
from app.principal import ALL_INSTITUTIONS
from app.storage.database import Database, DatabaseRole, Driver, Named

log = logging.getLogger("escrowgrid.personal")

INSTITUTIONS_KEPT_MAX = 10_000
# Each takes some 3 KB, most of it the cipher's own.
KEYS_KEPT_MAX = 20_000
REFERENCES_KEPT_MAX = 50_000
KEPT_SECONDS = 60.0
INSTITUTIONS_SEARCHED_MAX = 1_000
HOLD_ATTEMPTS_MAX = 5

Pair = tuple[str, str]


class Holders:
    """One per process.

    What it keeps is keyed by the sealed bytes themselves, which every read fetches from the database: a holder who was
    erased is not found by what is kept, in whichever process. Keeping it only saves opening the same twice.
    """

    def __init__(self, masters: Masters) -> None:
        self._masters = masters
        self._institutions: Memo[str, InstitutionKey] = Memo(INSTITUTIONS_KEPT_MAX)
        # By the holder as well as by the bytes: what is sealed for one opens for no other.
        self._ciphers: Memo[tuple[str, bytes], AESGCM] = Memo(KEYS_KEPT_MAX)
        self._references: Memo[tuple[str, bytes], str] = Memo(REFERENCES_KEPT_MAX)
        self._kept_until = 0.0
        # Others that keep what holders are called.
        self.listeners: list[Callable[[], None]] = []

    async def check(self, database: Database, *, keeps: bool) -> None:
        """Raise `Unavailable` when this server lacks a master key that the database needs; make the first one."""
        async with database.pool(DatabaseRole.FEED).acquire() as driver:
            needed = [row["id"] for row in await driver.fetch(store.MASTERS_NEEDED)]
            needed = needed or [row["id"] for row in await driver.fetch(store.MASTERS_NOTED)]
        if not needed and keeps:
            self._masters.make()
            async with database.pool(DatabaseRole.WRITER).acquire() as driver, driver.transaction():
                await driver.execute(f"SET LOCAL ROLE {DatabaseRole.WRITER.value}")
                # Two servers that start at once on an empty database with keys of their own: one of them is told.
                await driver.execute(store.LOCK_MASTERS)
                needed = [row["id"] for row in await driver.fetch(store.MASTERS_NOTED)]
                if not needed:
                    await driver.execute(store.NOTE_MASTER, self._masters.current().id)
        here = [master.id for master in self._masters.all()]
        absent = sorted(set(needed) - set(here))
        if absent:
            raise Unavailable(missing(absent, here))

    def forget(self) -> None:
        """A holder was erased somewhere: keep nothing of what they were called."""
        self._ciphers.clear()
        self._references.clear()
        for listener in self.listeners:
            listener()

    async def ready(self, driver: Driver, institution_ids: Iterable[str]) -> bool:
        """Load the keys of institutions, so that what is of theirs can be opened; whether each has one."""
        now = time.monotonic()
        if now > self._kept_until:
            # Should the news of an erasure have been lost.
            self._ciphers.clear()
            self._references.clear()
            self._kept_until = now + KEPT_SECONDS
        wanted = set(institution_ids)
        # Twice, should those that come push out those that were there.
        for _attempt in range(2):
            unknown = self._unknown(wanted)
            if not unknown:
                return True
            for row in await store.fetch_institution_keys(driver, unknown):
                self._institutions.keep(row["institution_id"], self._secret(row))
        return not self._unknown(wanted)

    def _unknown(self, wanted: Iterable[str]) -> list[str]:
        return sorted(one for one in wanted if self._institutions.get(one) is None)

    def cipher(self, envelope: Envelope) -> AESGCM | None:
        """The data key of a holder, None once they were erased; the institution's has to be ready."""
        if envelope.data_key is None:
            return None
        found = self._ciphers.get((envelope.id, envelope.data_key))
        if found is None:
            place = key_place(envelope.institution_id, envelope.id)
            key = unseal(self._of(envelope.institution_id).cipher, envelope.data_key, place)
            found = self._ciphers.keep((envelope.id, envelope.data_key), AESGCM(key))
        return found

    def reference(self, envelope: Envelope) -> str | None:
        """What the institution calls a holder, None once they were erased; the institution's key has to be ready."""
        if envelope.reference is None:
            return None
        found = self._references.get((envelope.id, envelope.reference))
        if found is None:
            cipher = self.cipher(envelope)
            assert cipher is not None, "the reference goes with the key"
            place = reference_place(envelope.institution_id, envelope.id)
            called = unseal(cipher, envelope.reference, place).decode()
            found = self._references.keep((envelope.id, envelope.reference), called)
        return found

    def blind(self, institution_id: str, reference: str) -> bytes:
        """What that holder is found by; the institution's key has to be ready."""
        return self._of(institution_id).blind(reference)

    def holder(self, envelope: Envelope) -> Holder | None:
        """Whom values can be sealed for, None once they were erased; the institution's key has to be ready."""
        cipher = self.cipher(envelope)
        return None if cipher is None else Holder(envelope.id, cipher)

    def unseal(self, envelope: Envelope, event_id: str, part: str, sealed: bytes | None) -> bytes | None:
        """A personal value of an event, None once it was erased; the institution's key has to be ready."""
        cipher = None if sealed is None else self.cipher(envelope)
        if sealed is None or cipher is None:
            return None
        return unseal(cipher, sealed, value_place(envelope.institution_id, event_id, part))

    async def references(self, driver: Driver, pairs: Sequence[Pair]) -> Mapping[Pair, str | None]:
        """What institutions call their holders, by (institution, holder)."""
        envelopes = await store.fetch(driver, pairs)
        await self.ready(driver, {envelope.institution_id for envelope in envelopes})
        return {(one.institution_id, one.id): self.reference(one) for one in envelopes}

    async def envelopes(self, driver: Driver, pairs: Sequence[Pair]) -> Mapping[Pair, Envelope]:
        """Holders by (institution, holder), ready to be opened."""
        found = await store.fetch(driver, pairs)
        await self.ready(driver, {envelope.institution_id for envelope in found})
        return {(one.institution_id, one.id): one for one in found}

    async def blinds(
        self, driver: Driver, institution_id: str, references: Sequence[str]
    ) -> list[tuple[str, bytes]]:
        """What to look holders up by, as (institution, blind index); of every institution when it is `*`."""
        ids = [institution_id]
        if institution_id == ALL_INSTITUTIONS:
            rows = await driver.fetch(store.ALL_INSTITUTION_KEYS, INSTITUTIONS_SEARCHED_MAX + 1)
            if len(rows) > INSTITUTIONS_SEARCHED_MAX:
                raise BadRequest(
                    f"holders of more than {INSTITUTIONS_SEARCHED_MAX} institutions are not searched at once: "
                    "where: {institutionId: {eq: …}}"
                )
            ids = [row["institution_id"] for row in rows]
        await self.ready(driver, ids)
        keys = [(owner, self._institutions.get(owner)) for owner in ids]
        return [
            (owner, key.blind(reference))
            for owner, key in keys
            if key is not None
            for reference in references
        ]

    async def hold(self, driver: Driver, pairs: Iterable[Pair], ids: Ids) -> Mapping[Pair, Holder]:
        """Holders by (institution, reference), made where they are not known, in the caller's transaction."""
        wanted = sorted(set(pairs))
        keys = await self._keys(driver, sorted({institution_id for institution_id, _ in wanted}))
        by_blind = {(owner, keys[owner].blind(reference)): (owner, reference) for owner, reference in wanted}
        found: dict[Pair, Holder] = {}
        for _attempt in range(HOLD_ATTEMPTS_MAX):
            rows = await store.find(driver, list(by_blind))
            for adding in (False, True):
                if adding:
                    if not by_blind:
                        break
                    rows = await driver.fetch(store.ADD, *self._made(keys, by_blind, ids))
                for row in rows:
                    pair = by_blind.pop((row["institution_id"], row["blind"]))
                    found[pair] = self._holder(keys[pair[0]], pair[0], row["id"], row["data_key"])
            if not by_blind:
                return found
            # Somebody else made them in this moment: they are found the next time.
        raise Unavailable("the holder is being erased; nothing was done, try again")

    async def erase(self, driver: Driver, institution_id: str, reference: str) -> tuple[str, int] | None:
        """Destroy a holder's data key and all that it sealed; their id and how many values went, None for nobody."""
        blinds = await self.blinds(driver, institution_id, [reference])
        return await store.erase(driver, *blinds[0]) if blinds else None

    async def reseal(self, driver: Driver, institution_ids: Sequence[str]) -> int:
        """Bring the secrets of institutions under the first master key; returns how many were under another."""
        current, done = self._masters.current(), 0
        for row in await store.fetch_institution_keys(driver, institution_ids):
            if row["master_id"] != current.id:
                place = secret_place(row["institution_id"])
                secret = unseal(self._masters.named(row["master_id"]).cipher, row["sealed"], place)
                sealed = seal(current.cipher, secret, place)
                await driver.execute(store.RESEAL, row["institution_id"], current.id, sealed, row["sealed"])
                done += 1
        return done

    async def _keys(self, driver: Driver, ids: Sequence[str]) -> dict[str, InstitutionKey]:
        """The keys of institutions, made where there are none."""
        await self.ready(driver, ids)
        found = {one: key for one in ids if (key := self._institutions.get(one)) is not None}
        lacking = [one for one in ids if one not in found]
        if lacking:
            master = self._masters.current()
            sealed = [seal(master.cipher, os.urandom(KEY_BYTES), secret_place(one)) for one in lacking]
            await driver.execute(store.ADD_INSTITUTION_KEYS, lacking, [master.id] * len(lacking), sealed)
            # Not remembered yet: until it is committed, the key may come to be another one.
            for row in await store.fetch_institution_keys(driver, lacking):
                found[row["institution_id"]] = self._secret(row)
        return found

    def _made(
        self, keys: Mapping[str, InstitutionKey], wanted: Mapping[tuple[str, bytes], Pair], ids: Ids
    ) -> tuple[list[str], list[bytes], list[str], list[bytes], list[bytes]]:
        rows = []
        for (owner, blind), (_owner, reference) in wanted.items():
            holder_id, data_key = ids.new("hld"), os.urandom(KEY_BYTES)
            sealed = seal(AESGCM(data_key), reference.encode(), reference_place(owner, holder_id))
            kept = seal(keys[owner].cipher, data_key, key_place(owner, holder_id))
            rows.append((owner, blind, holder_id, sealed, kept))
        owners, blinds, holder_ids, references, data_keys = (
            list(column) for column in zip(*rows, strict=True)
        )
        return owners, blinds, holder_ids, references, data_keys

    def _holder(self, key: InstitutionKey, owner: str, holder_id: str, data_key: bytes) -> Holder:
        cipher = self._ciphers.get((holder_id, data_key))
        if cipher is None:
            opened = unseal(key.cipher, data_key, key_place(owner, holder_id))
            cipher = self._ciphers.keep((holder_id, data_key), AESGCM(opened))
        return Holder(holder_id, cipher)

    def _secret(self, row: Named) -> InstitutionKey:
        master = self._masters.named(row["master_id"])
        return InstitutionKey.of(unseal(master.cipher, row["sealed"], secret_place(row["institution_id"])))

    def _of(self, institution_id: str) -> InstitutionKey:
        found = self._institutions.get(institution_id)
        assert found is not None, "the keys of an institution are loaded before its values are opened"
        return found
