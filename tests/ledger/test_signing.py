"""The head of the ledger is signed whoever leads, and however the one before went."""

import asyncpg

from app.kit.tasks import end
from app.ledger import steering
from app.ledger.checkpoints import Checkpointer
from app.ledger.signer import Signer
from app.main import Parts
from app.positions.model import State
from app.storage.database import DatabaseRole
from tests import factories
from tests.conftest import eventually
from tests.factories import Place
from tests.ledger.test_followers import level, runner

SIGNED = "SELECT coalesce(max(size), 0) FROM checkpoints WHERE public_key = $1"
NAME = "checkpoints of this test"


def checkpointer(parts: Parts, every_seconds: float) -> Checkpointer:
    services = parts.services
    made = Checkpointer(services.database, Signer(bytes(32)), services.clock, every_seconds=every_seconds)
    made.name = NAME
    return made


async def test_what_a_leader_that_was_killed_left_unsigned_is_signed_without_another_event(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    killed = runner(parts, checkpointer(parts, 3600), "killed")
    await killed.start()
    await factories.position(parts.services, place.asset, state=State.RELEASED)
    await eventually(lambda: level(parts, NAME))
    await factories.position(parts.services, place.asset)
    await eventually(lambda: level(parts, NAME))
    # No `close`: nothing is signed at the end.
    await end(killed._task)
    key = Signer(bytes(32)).public_key
    assert await owner.fetchval(SIGNED, key) < 4
    await owner.execute(
        "UPDATE leases SET expires_at = clock_timestamp() WHERE name = $1", f"follower:{NAME}"
    )
    heir = runner(parts, checkpointer(parts, 0.2), "heir")
    await heir.start()

    async def signed() -> bool:
        return bool(await owner.fetchval(SIGNED, key) == 4)

    await eventually(signed, seconds=10)
    await heir.close()


async def test_who_leads_again_signs_what_its_heir_left_unsigned(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    await factories.position(parts.services, place.asset)
    mine, key = checkpointer(parts, 0.0), Signer(bytes(32)).public_key
    running = runner(parts, mine, "first")
    await running.start()
    await eventually(lambda: level(parts, NAME))
    await end(running._task)
    # What an heir took in and acknowledged, and never signed.
    await factories.position(parts.services, place.asset)
    await owner.execute("UPDATE followers SET cursor = 2 WHERE name = $1", NAME)
    again = runner(parts, mine, "first")
    await again.start()

    async def signed() -> bool:
        return bool(await owner.fetchval(SIGNED, key) == 2)

    await eventually(signed, seconds=10)
    await again.close()


async def test_how_old_the_newest_signature_is_can_be_asked(
    parts: Parts, place: Place, owner: asyncpg.Connection
) -> None:
    async def told() -> steering.Unsigned:
        async with parts.services.database.pool(DatabaseRole.FEED).acquire() as driver:
            return await steering.unsigned(driver)

    assert await told() == steering.Unsigned(0, 0.0)
    await factories.position(parts.services, place.asset)

    async def signed() -> bool:
        return (await told()).events == 0

    await eventually(signed)
    assert 0 <= (await told()).age_seconds < 30
    await owner.execute("ALTER TABLE checkpoints DISABLE TRIGGER ALL")
    await owner.execute("UPDATE checkpoints SET signed_at = signed_at - interval '1 hour'")
    assert (await told()).age_seconds >= 3600
    await owner.execute("DELETE FROM checkpoints")
    found = await told()
    assert found.events == 1
    assert 0 <= found.age_seconds < 60, "since the first event"
