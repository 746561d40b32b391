"""Keys get another secret without anybody being locked out; every process knows within a second."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from app.context import Services
from app.institutions.model import NewKey
from app.kit.clock import system_clock
from app.main import Parts, assemble
from app.principal import Principal, Role, Scope, root
from app.settings import Settings
from app.storage.database import Address
from tests.conftest import eventually

from .conftest import Ask, Counted, Keyed, Opened
from .test_graphql import FAILED, SUCCEEDED, code_of, fine, refused

ROTATE = """
mutation ($input: RotateApiKeyInput!) {
  rotateApiKey(input: $input) {
    apiKey { id prefix rotatedAt previousPrefix previousEndsAt previousLastUsedAt lastUsedAt updatedAt }
    secret
    userErrors { code message field }
  }
}
"""
REVOKE = "mutation ($id: ID!) { revokeApiKey(input: {id: $id}) { apiKey { id } userErrors { code } } }"
SECRETS = "SELECT secret_hash, previous_hash, prefix, previous_prefix FROM api_keys WHERE id = $1"


async def rotate(ask: Ask, id: str, seconds: int | None = None, **by: Any) -> dict[str, Any]:
    given = {"id": id} | ({} if seconds is None else {"overlapSeconds": seconds})
    payload: dict[str, Any] = fine(await ask(ROTATE, {"input": given}, **by))["rotateApiKey"]
    return payload


@pytest.fixture
async def key(opened: Opened, keyed: Keyed) -> NewKey:
    return await keyed((await opened()).id, Role.OPERATOR)


@pytest.fixture
async def other(settings: Settings, address: Address) -> AsyncIterator[Parts]:
    """Another process on the same database."""
    made = assemble(settings, address)
    async with made.running():
        yield made


async def test_both_secrets_open_the_same_until_the_overlap_ends(
    ask: Ask, key: NewKey, parts: Parts, rows: Counted
) -> None:
    payload = await rotate(ask, key.key.id, 2, principal=root())
    shown, secret = payload["apiKey"], payload["secret"]
    assert payload["userErrors"] == []
    assert secret.startswith("eg_")
    assert secret != key.secret
    assert (shown["prefix"], shown["previousPrefix"]) == (secret[:10], key.secret[:10])
    assert shown["previousEndsAt"] > shown["rotatedAt"] == shown["updatedAt"]
    old, new = [await parts.authenticator.authenticate(one) for one in (key.secret, secret)]
    assert old is not None
    assert new is not None
    assert new.expires_at is None
    assert old.expires_at is not None, "so that its live streams end in time"
    assert replace(old, expires_at=None, keys_end_by=None) == new
    await asyncio.sleep(2.1)
    assert await parts.authenticator.authenticate(key.secret) is None
    assert await parts.authenticator.authenticate(secret) == new
    done = f"{SUCCEEDED} AND action = 'API_KEY_ROTATED' AND resource_id = '{key.key.id}'"
    assert await rows(f"{done} AND operation = 'rotateApiKey' AND payload->>'overlapSeconds' = '2'") == 1
    assert await rows(f"audit_events WHERE payload::text LIKE '%{secret[10:]}%'") == 0


async def test_without_an_overlap_the_old_secret_ends_at_once(
    ask: Ask, key: NewKey, parts: Parts, owner: asyncpg.Connection
) -> None:
    assert await parts.authenticator.authenticate(key.secret)
    payload = await rotate(ask, key.key.id, 0, principal=root())
    assert payload["apiKey"]["previousEndsAt"] is None
    assert await parts.authenticator.authenticate(key.secret) is None, "not even from the cache"
    assert await parts.authenticator.authenticate(payload["secret"])
    kept = await owner.fetchrow(SECRETS, key.key.id)
    assert kept["previous_hash"] is None
    assert payload["secret"] not in repr(dict(kept))


async def test_an_hour_is_the_usual_overlap(ask: Ask, key: NewKey) -> None:
    shown = (await rotate(ask, key.key.id, principal=root()))["apiKey"]
    ends = shown["previousEndsAt"].removesuffix("Z")
    assert ends[:13] != shown["rotatedAt"][:13]
    assert ends[14:] == shown["rotatedAt"].removesuffix("Z")[14:]


async def test_a_key_has_at_most_two_secrets(ask: Ask, key: NewKey, parts: Parts) -> None:
    second = (await rotate(ask, key.key.id, 600, principal=root()))["secret"]
    third = (await rotate(ask, key.key.id, 600, principal=root()))["secret"]
    opened = [await parts.authenticator.authenticate(secret) for secret in (key.secret, second, third)]
    assert [found is not None for found in opened] == [False, True, True]


async def test_revoking_ends_both(ask: Ask, key: NewKey, parts: Parts) -> None:
    second = (await rotate(ask, key.key.id, 600, principal=root()))["secret"]
    fine(await ask(REVOKE, {"id": key.key.id}, principal=root()))
    assert [await parts.authenticator.authenticate(secret) for secret in (key.secret, second)] == [None, None]


async def test_the_uses_of_both_secrets_are_shown(
    ask: Ask, key: NewKey, parts: Parts, services: Services
) -> None:
    async def shown() -> dict[str, Any]:
        data = fine(
            await ask(
                "query ($id: ID!) { node(id: $id) { ... on ApiKey { lastUsedAt previousLastUsedAt } } }",
                {"id": key.key.id},
                principal=root(),
            )
        )
        found: dict[str, Any] = data["node"]
        return found

    secret = (await rotate(ask, key.key.id, 600, principal=root()))["secret"]
    assert await shown() == {"lastUsedAt": None, "previousLastUsedAt": None}
    await parts.authenticator.authenticate(secret)

    async def used() -> bool:
        return (await shown())["lastUsedAt"] is not None

    await eventually(used)
    assert (await shown())["previousLastUsedAt"] is None, "nobody has used the old one since"
    await parts.authenticator.authenticate(key.secret)

    async def used_before() -> bool:
        return (await shown())["previousLastUsedAt"] is not None

    await eventually(used_before)


@pytest.mark.parametrize("seconds", [-1, 604_801])
async def test_an_overlap_has_bounds(
    ask: Ask, key: NewKey, seconds: int, owner: asyncpg.Connection, services: Services, rows: Counted
) -> None:
    before = await owner.fetchrow(SECRETS, key.key.id)
    assert refused(await rotate(ask, key.key.id, seconds, principal=root())) == (
        "VALIDATION_FAILED",
        "overlapSeconds",
    )
    assert await owner.fetchrow(SECRETS, key.key.id) == before
    await services.recorder.flush()
    assert await rows(f"{FAILED} AND action = 'API_KEY_ROTATED' AND code = 'VALIDATION_FAILED'") == 1


async def test_revoked_and_expired_keys_are_not_rotated(
    ask: Ask, opened: Opened, keyed: Keyed, owner: asyncpg.Connection
) -> None:
    institution = await opened()
    revoked = await keyed(institution.id)
    fine(await ask(REVOKE, {"id": revoked.key.id}, principal=root()))
    expired = await keyed(institution.id, expires_at=system_clock() + timedelta(seconds=0.2))
    await asyncio.sleep(0.3)
    for key in (revoked, expired):
        before = await owner.fetchrow(SECRETS, key.key.id)
        assert refused(await rotate(ask, key.key.id, 0, principal=root())) == ("VALIDATION_FAILED", "id")
        assert await owner.fetchrow(SECRETS, key.key.id) == before


async def test_a_narrow_key_cannot_make_itself_a_wider_one(
    ask: Ask, opened: Opened, keyed: Keyed, owner: asyncpg.Connection, services: Services, rows: Counted
) -> None:
    """Whoever rotates a key holds its secret: that needs all that the key may do."""
    institution = await opened()
    wide = await keyed(institution.id, Role.ADMIN)
    narrow = await keyed(institution.id, Role.ADMIN, scopes=[Scope.KEYS_WRITE, Scope.READ])
    before = await owner.fetchrow(SECRETS, wide.key.id)
    assert refused(await rotate(ask, wide.key.id, 0, key=narrow.secret)) == ("ROLE_REFUSED", "id")
    assert await owner.fetchrow(SECRETS, wide.key.id) == before
    await services.recorder.flush()
    assert await rows(f"{FAILED} AND code = 'ROLE_REFUSED' AND actor_id = '{narrow.key.id}'") == 1
    assert (await rotate(ask, narrow.key.id, 0, key=narrow.secret))["secret"], "its own it can"


async def test_a_key_that_ends_rotates_none_that_lasts_longer(
    ask: Ask, opened: Opened, keyed: Keyed, owner: asyncpg.Connection
) -> None:
    institution, ends = await opened(), system_clock() + timedelta(hours=1)
    brief = await keyed(institution.id, Role.ADMIN, expires_at=ends)
    as_brief = await keyed(institution.id, Role.ADMIN, expires_at=ends)
    for later in (None, ends + timedelta(minutes=1)):
        lasting = await keyed(institution.id, Role.READ_ONLY, expires_at=later)
        before = await owner.fetchrow(SECRETS, lasting.key.id)
        assert refused(await rotate(ask, lasting.key.id, 0, key=brief.secret)) == ("ROLE_REFUSED", "id")
        assert await owner.fetchrow(SECRETS, lasting.key.id) == before
    for one in (as_brief, brief):
        assert (await rotate(ask, one.key.id, 0, key=brief.secret))["secret"], "its own it can"


async def test_a_secret_that_was_replaced_makes_and_rotates_nothing_that_outlasts_its_overlap(
    ask: Ask, opened: Opened, keyed: Keyed, owner: asyncpg.Connection, rows: Counted
) -> None:
    """Who rotates a secret because it was seen wants those who saw it to be gone when the overlap ends."""
    institution = await opened()
    old = await keyed(institution.id, Role.ADMIN)
    new = (await rotate(ask, old.key.id, 600, key=old.secret))["secret"]
    before = await owner.fetchrow(SECRETS, old.key.id)
    assert refused(await rotate(ask, old.key.id, 0, key=old.secret)) == ("ROLE_REFUSED", "id")
    assert await owner.fetchrow(SECRETS, old.key.id) == before
    make = 'mutation { createApiKey(input: {label: "x", role: ADMIN}) { secret userErrors { code message field } } }'
    answer = await ask(make, key=old.secret)
    assert refused(answer.data["createApiKey"]) == ("ROLE_REFUSED", "expiresAt")
    assert await rows("api_keys") == 1
    assert (await ask(make, key=new)).data["createApiKey"]["secret"]


async def test_another_tenants_key_reads_as_if_it_were_not_there(
    ask: Ask, opened: Opened, keyed: Keyed, key: NewKey, services: Services, owner: asyncpg.Connection
) -> None:
    mine = await keyed((await opened("Mine")).id)
    before = await owner.fetchrow(SECRETS, key.key.id)
    answers = [
        await rotate(ask, name, 0, key=mine.secret)
        for name in (key.key.id, services.ids.new("key"), "no id at all")
    ]
    assert answers[0] == answers[1] == answers[2]
    assert refused(answers[0]) == ("NOT_FOUND", "id")
    assert await owner.fetchrow(SECRETS, key.key.id) == before


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.READ_ONLY, Role.AUDITOR])
async def test_who_does_not_manage_keys_does_not_rotate_them(
    ask: Ask, key: NewKey, role: Role, keyed: Keyed, owner: asyncpg.Connection
) -> None:
    by = await keyed(key.key.institution_id, role)
    before = await owner.fetchrow(SECRETS, key.key.id)
    assert code_of(await ask(ROTATE, {"input": {"id": key.key.id}}, key=by.secret)) == "FORBIDDEN"
    assert await owner.fetchrow(SECRETS, key.key.id) == before


async def test_two_rotations_at_once_leave_one_order(ask: Ask, key: NewKey, parts: Parts) -> None:
    made = await asyncio.gather(*(rotate(ask, key.key.id, 600, principal=root()) for _ in range(8)))
    secrets = [payload["secret"] for payload in made]
    opened = [await parts.authenticator.authenticate(secret) for secret in secrets]
    assert sum(found is not None for found in opened) == 2
    assert await parts.authenticator.authenticate(key.secret) is None


async def test_every_process_knows_of_a_rotation_and_a_revocation_within_a_second(
    ask: Ask, key: NewKey, parts: Parts, other: Parts
) -> None:
    async def gone_after(secret: str) -> float:
        began = time.monotonic()

        async def gone() -> bool:
            return await other.authenticator.authenticate(secret) is None

        await eventually(gone)
        return time.monotonic() - began

    assert await other.authenticator.authenticate(key.secret)
    secret = (await rotate(ask, key.key.id, 0, principal=root()))["secret"]
    assert await other.authenticator.authenticate(secret), "a new secret is known at once"
    rotated = await gone_after(key.secret)
    fine(await ask(REVOKE, {"id": key.key.id}, principal=root()))
    revoked = await gone_after(secret)
    print(f"known elsewhere: a rotation after {rotated:.3f} s, a revocation after {revoked:.3f} s")
    assert max(rotated, revoked) < 1.0


async def test_a_revocation_rings_the_bell(
    ask: Ask, key: NewKey, parts: Parts, other: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing would be asked again for an hour, the bell alone tells of it."""
    from app.institutions import authenticator as module

    monkeypatch.setattr(module, "CACHE_SECONDS", 3600.0)
    assert await other.authenticator.authenticate(key.secret)
    assert await parts.authenticator.authenticate(key.secret)
    fine(await ask(REVOKE, {"id": key.key.id}, principal=root()))
    assert await parts.authenticator.authenticate(key.secret) is None, "the process itself at once"

    async def gone() -> bool:
        return await other.authenticator.authenticate(key.secret) is None

    await eventually(gone, seconds=2)


async def test_the_secret_is_not_in_the_repr() -> None:
    from app.institutions.graphql import RotateApiKeyPayload

    assert "eg_" not in repr(RotateApiKeyPayload(secret="eg_very_secret"))


def test_a_principal_with_an_end_is_another_one() -> None:
    now = system_clock()
    one = Principal("key_1", "", Role.ADMIN, "inst_1", frozenset())
    assert one != replace(one, expires_at=now)
