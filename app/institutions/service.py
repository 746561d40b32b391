"""Opens institutions, makes and revokes their keys, and tells whose key a secret is."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from app.audit import service as audit
from app.audit.model import Action
from app.audit.service import Work
from app.errors import NotFound
from app.institutions import store
from app.institutions.model import (
    KEY_START,
    SECRET_BYTES,
    ApiKey,
    Held,
    Institution,
    KeyDraft,
    NewKey,
    Region,
    Use,
    Vertical,
    new_institution,
    new_key,
    overlap_end,
    prefix_of,
    secret_hash,
)
from app.kit.canonical import Json
from app.kit.clock import Clock
from app.kit.ids import is_id
from app.ledger import service as ledger
from app.principal import ALL_INSTITUTIONS, Principal
from app.storage.conditions import Condition
from app.storage.database import Database
from app.storage.paging import Page, PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


async def create_institution(
    work: Work,
    institution_id: str,
    *,
    name: str,
    regions: Sequence[Region],
    verticals: Sequence[Vertical] | None = None,
) -> Institution:
    """Open an institution and its chain; the work must be on `institution_id`, made beforehand."""
    institution = new_institution(institution_id, name, regions, verticals, work.now)
    await store.insert_institution(work.connection, institution)
    await ledger.open_chain(work.connection, institution.id)
    await audit.record(
        work,
        action=Action.INSTITUTION_CREATED,
        resource_type="institution",
        resource_id=institution.id,
        institution_id=institution.id,
        payload={"name": name, "regions": [*institution.regions], "verticals": [*institution.verticals]},
    )
    return institution


async def create_api_key(work: Work, institution_id: str, draft: KeyDraft) -> NewKey:
    """Make a key of the institution that the work is on. The secret is told this once."""
    if await fetch(work.connection, institution_id, institution_id) is None:
        raise NotFound("institution", "institutionId")
    secret = _new_secret()
    key = new_key(work.ids.new("key"), institution_id, draft, secret=secret, actor=work.actor, now=work.now)
    await store.insert_key(work.connection, key, secret_hash(secret))
    await _record_key(work, Action.API_KEY_CREATED, key)
    return NewKey(key, secret)


async def rotate_api_key(work: Work, institution_id: str, key_id: str, overlap_seconds: int) -> NewKey:
    """Give a key another secret, told this once; the one in force goes on for so long, an older one ends now."""
    key = await fetch_key(work.connection, institution_id, key_id)
    if key is None:
        raise NotFound("key", "id")
    ends = overlap_end(key, overlap_seconds, actor=work.actor, now=work.now)
    secret = _new_secret()
    rotated = await store.rotate_key(
        work.connection,
        institution_id,
        key_id,
        (secret_hash(secret), prefix_of(secret)),
        now=work.now,
        previous_ends_at=ends,
    )
    if rotated is None:
        raise NotFound("key", "id")  # it was revoked this very moment
    await _record_key(
        work,
        Action.API_KEY_ROTATED,
        rotated,
        previousPrefix=key.prefix,
        previousEndsAt=(ends or work.now).isoformat(),
        overlapSeconds=overlap_seconds,
    )
    return NewKey(rotated, secret)


async def revoke_api_key(work: Work, institution_id: str, key_id: str) -> ApiKey:
    """Revoke a key, everywhere within a second; one that was revoked before stays as it is."""
    revoked = await store.revoke_key(work.connection, institution_id, key_id, work.now)
    if revoked is None:
        found = await fetch_key(work.connection, institution_id, key_id)
        if found is None:
            raise NotFound("key", "id")
        return found
    await _record_key(work, Action.API_KEY_REVOKED, revoked)
    return revoked


def _new_secret() -> str:
    return KEY_START + secrets.token_urlsafe(SECRET_BYTES)


async def _record_key(work: Work, action: Action, key: ApiKey, **more: Json) -> None:
    await audit.record(
        work,
        action=action,
        resource_type="apiKey",
        resource_id=key.id,
        institution_id=key.institution_id,
        payload={"role": key.role, "scopes": [*key.scopes], "prefix": key.prefix, **more},
    )


async def authenticate(database: Database, clock: Clock, secret: str) -> Principal | None:
    """Whose key `secret` is; None for no key, a revoked and an expired one alike."""
    hashed = secret_hash(secret)
    held = (await find_keys(database, [hashed])).get(hashed)
    return held.principal if held is not None and held.usable(clock()) else None


async def find_keys(database: Database, hashes: Sequence[bytes]) -> Mapping[bytes, Held]:
    """The keys whose secrets have those hashes, of whichever institution, whether usable or not."""
    async with database.reading(ALL_INSTITUTIONS) as connection:
        return await store.keys_by_hash(connection, ALL_INSTITUTIONS, hashes)


async def note_uses(connection: "AsyncConnection", uses: Mapping[Use, datetime], *, every: timedelta) -> None:
    """Note when the secrets of keys were used, unless a use was noted less than `every` before."""
    await store.touch_keys(connection, uses, every=every)


async def fetch(connection: "AsyncConnection", scope: str, institution_id: str) -> Institution | None:
    """The institution, if `scope` sees it."""
    return (await store.institutions_by_id(connection, scope, [institution_id])).get(institution_id)


async def fetch_all(
    connection: "AsyncConnection", scope: str, ids: Sequence[str]
) -> Mapping[str, Institution]:
    """Those of `ids` that `scope` sees, in one statement."""
    # What is no id may hold what the database does not even take as text.
    return await store.institutions_by_id(connection, scope, [one for one in ids if is_id(one, "inst")])


async def fetch_key(connection: "AsyncConnection", scope: str, key_id: str) -> ApiKey | None:
    """The key, if `scope` sees it."""
    return (await fetch_keys(connection, scope, [key_id])).get(key_id)


async def fetch_keys(connection: "AsyncConnection", scope: str, ids: Sequence[str]) -> Mapping[str, ApiKey]:
    """Those of `ids` that `scope` sees, in one statement."""
    return await store.keys_by_id(connection, scope, [one for one in ids if is_id(one, "key")])


async def page(
    connection: "AsyncConnection",
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition] = (),
    *,
    order: str = "CREATED_AT",
    descending: bool = True,
) -> Page[Institution]:
    """One page of the institutions that `scope` sees."""
    return await store.page_institutions(
        connection, scope, request, conditions, order=order, descending=descending
    )


async def count(connection: "AsyncConnection", scope: str, conditions: Sequence[Condition] = ()) -> int:
    """How many institutions `scope` sees."""
    return await store.count_institutions(connection, scope, conditions)


async def page_keys(
    connection: "AsyncConnection",
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition] = (),
    *,
    descending: bool = True,
) -> Page[ApiKey]:
    """One page of the keys that `scope` sees, in the order they were made."""
    return await store.page_keys(connection, scope, request, conditions, descending=descending)


async def count_keys(connection: "AsyncConnection", scope: str, conditions: Sequence[Condition] = ()) -> int:
    """How many keys `scope` sees."""
    return await store.count_keys(connection, scope, conditions)


async def page_keys_each(
    connection: "AsyncConnection", scope: str, institution_ids: Sequence[str], request: PageRequest
) -> Mapping[str, Page[ApiKey]]:
    """One page of keys for each institution, in one statement."""
    return await store.page_keys_each(connection, scope, institution_ids, request)


async def count_keys_each(
    connection: "AsyncConnection", scope: str, institution_ids: Sequence[str]
) -> Mapping[str, int]:
    """How many keys each institution has, in one statement."""
    return await store.count_keys_each(connection, scope, institution_ids)
