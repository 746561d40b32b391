"""The mirror has everything the ledger has, and proves it by itself."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from app.audit.model import Action
from app.context import Context, Request, Services
from app.institutions import service as institutions
from app.ledger import steering
from app.main import Parts
from app.mirror import beside, service
from app.mirror.model import OTHERWISE, TABLES, Comparison
from app.personal.masters import masters_of
from app.positions import service as positions
from app.positions.escrow import BUILT_IN
from app.positions.model import State
from app.principal import root
from app.settings import Settings
from app.storage.database import Address, DatabaseRole, take_role
from app.verify.walk import verify
from app.webhooks import service as webhooks
from app.webhooks.model import EndpointDraft
from tests import factories
from tests.conftest import eventually
from tests.factories import FUND, Place, release
from tests.ledger.proxy import Cut, Wire, wired
from tests.mirror.conftest import MASTER, Start, differing, same

Level = Callable[[], Awaitable[Comparison]]
IN_USE = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""
ERASE = "SELECT escrowgrid_erase_personal($1, $2, $3::text[])"


async def proved(*urls: str) -> None:
    """`escrowgrid verify` finds nothing."""
    for url in urls:
        report = await verify(url, BUILT_IN, masters=masters_of(Settings(personal_keys=SecretStr(MASTER))))
        assert report.is_clean, report.findings
        assert report.looked_at["ledger_events"] > 0


async def story(services: Services, place: Place) -> None:
    """Something of everything that an institution does."""
    owner = place.institution.id
    await factories.key(services, owner)
    await factories.policy(services, owner, min_amount=Decimal(1), allowed_currencies=["USD"])
    for state in State:
        await factories.position(
            services, place.asset, "1000.10", state=state, external_reference=f"R-{uuid4().hex}"
        )
    funded = await factories.position(
        services, place.asset, state=State.FUNDED, holder_reference="Ωλβ 持有人"
    )
    await services.writer.submit(
        factories.move(
            services,
            funded,
            release("0.01"),
            reason="a reason",
            metadata={"b": Decimal("1.50"), "a": [1, None, "é"]},
        )
    )


async def test_everything_is_copied_and_both_sides_prove_the_same(
    services: Services,
    place: Place,
    level: Level,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
    owner_url: str,
    there: Address,
) -> None:
    await story(services, place)
    found = await level()
    assert found.lag == 0
    assert found.ledger.digest == found.mirror.digest
    assert found.mirror.log_id == found.ledger.log_id
    await same(owner, mirror)
    await proved(owner_url, there.owner_url)


async def test_every_table_is_copied_or_it_is_said_why_not(owner: asyncpg.Connection) -> None:
    """A table that comes later has to find its place in app/mirror/model.py."""
    tables = {row["relname"] for row in await owner.fetch(IN_USE)}
    assert tables == {table.name for table in TABLES} | set(OTHERWISE)


async def test_what_was_there_before_the_mirror_is_copied_as_well(
    start: Start,
    level: Level,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
    there: Address,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beside, "PAGE_ROWS", 3)
    async with start(mirror_url=None) as parts:
        place = await factories.place(parts.services)
        await story(parts.services, place)
        # Things that no event names.
        for _ in range(5):
            await factories.place(parts.services, name="Quiet Trust")
        await owner.execute(
            "INSERT INTO audit_events (id, occurred_at, actor_id, actor_role, operation, action, resource_type, outcome, "
            "request_id, payload) SELECT 'aud_' || n, now() - n * interval '40 days', 'root', 'ROOT', 'o', 'A', 'r', "
            "'SUCCESS', 'req', '{}' FROM generate_series(1, 20) n"
        )
        assert await owner.fetchval("SELECT count(*) FROM mirror_queue") == 0, "nobody would take them away"
    async with start():
        await level()
        await same(owner, mirror)
    assert await mirror.fetchval("SELECT count(*) FROM audit_events_default") == 0, (
        "old months have partitions, too"
    )
    await proved(there.owner_url)


async def test_the_audit_and_its_seals_are_proved_there_as_well(
    start: Start, there: Address, level: Level, owner: asyncpg.Connection, mirror: asyncpg.Connection
) -> None:
    async with start(audit_seal_seconds=0.1, audit_seal_delay_seconds=0.2) as parts:
        await story(parts.services, await factories.place(parts.services))
        await level()

        async def sealed() -> bool:
            return bool(await mirror.fetchval("SELECT count(*) FROM audit_seals") > 0)

        # Who reads there leaves no row that no seal has.
        async with start(there, mirror_url=None) as reading:
            context = Context(reading.services, root(), Request("req_1"))
            context.note_refusal(Action.ASSET_CREATED, "asset", "NOT_FOUND")
            await context.close()
            await eventually(sealed)
        await same(owner, mirror)
    report = await verify(there.url, BUILT_IN)
    assert report.is_clean, report.findings
    assert report.looked_at["audit_seals"] > 0
    assert await mirror.fetchval("SELECT count(*) FROM audit_events WHERE outcome = 'FAILURE'") == 0


async def test_keys_are_revoked_and_rotated_there_as_well(
    services: Services, place: Place, level: Level, owner: asyncpg.Connection, mirror: asyncpg.Connection
) -> None:
    made = await factories.key(services, place.institution.id)
    await level()
    await same(owner, mirror)
    async with factories.working(services, place.institution.id) as work:
        await institutions.revoke_api_key(work, place.institution.id, made.key.id)

    async def revoked() -> bool:
        return await mirror.fetchval("SELECT revoked_at FROM api_keys WHERE id = $1", made.key.id) is not None

    await eventually(revoked, seconds=5)
    await same(owner, mirror)
    await eventually(lambda: _nothing_waits(owner))


async def test_erasures_follow_and_leave_every_hash_valid(
    services: Services,
    place: Place,
    level: Level,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
    owner_url: str,
    there: Address,
) -> None:
    await story(services, place)
    await level()
    events = [
        row["event_id"] for row in await owner.fetch("SELECT event_id FROM personal_data ORDER BY event_id")
    ]
    assert len(events) > 5
    # By the function, in parts; and by hand, whole rows.
    async with owner.transaction():
        await take_role(owner, DatabaseRole.WRITER, [place.institution.id])
        await owner.execute(ERASE, place.institution.id, events[0], ["holder"])
        await owner.execute(ERASE, place.institution.id, events[-1], ["reason", "metadata"])
    await owner.execute("DELETE FROM personal_data WHERE event_id = $1", events[1])

    async def erased() -> bool:
        left = "SELECT count({}) FROM personal_data"
        counts = [
            (await owner.fetchval(left.format(part)), await mirror.fetchval(left.format(part)))
            for part in ("holder", "reason", "metadata")
        ]
        return all(here == away for here, away in counts)

    await eventually(erased)
    assert await differing(owner, mirror) <= {"personal_data"}, (
        "a row that is gone here is an empty one there"
    )


async def test_who_is_erased_here_is_erased_there(
    services: Services,
    place: Place,
    level: Level,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
    owner_url: str,
    there: Address,
) -> None:
    await story(services, place)
    await factories.position(services, place.asset, holder_reference="Jane Q. Holder", reason="Jane said so")
    await level()
    keys = "SELECT count(data_key) FROM holders"
    before = await mirror.fetchval(keys)
    async with factories.working(services, place.institution.id) as work:
        await positions.erase_holder(work, place.institution.id, services.holders, "Jane Q. Holder")

    async def erased() -> bool:
        return bool(await mirror.fetchval(keys) == before - 1)

    await eventually(erased)
    await same(owner, mirror)
    await proved(owner_url, there.owner_url)


async def test_only_personal_values_can_be_erased_and_only_within_the_scope(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    await factories.position(services, place.asset)
    event = await owner.fetchval("SELECT event_id FROM personal_data")
    async with owner.transaction():
        await take_role(owner, DatabaseRole.WRITER, ["inst_of_somebody_else"])
        await owner.execute(ERASE, place.institution.id, event, ["holder"])
    assert await owner.fetchval("SELECT holder FROM personal_data") is not None
    transaction = owner.transaction()
    await transaction.start()
    await take_role(owner, DatabaseRole.API, ["*"])
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute(ERASE, place.institution.id, event, ["holder"])
    await transaction.rollback()


async def test_endpoints_secrets_and_deliveries_are_copied(
    services: Services, place: Place, level: Level, owner: asyncpg.Connection, mirror: asyncpg.Connection
) -> None:
    """The receiver is not there: what is to be sent waits, behind the first of its position."""
    owner_id, epochs = place.institution.id, services.tail.epochs
    async with factories.working(services, owner_id) as work:
        draft = EndpointDraft("https://127.0.0.1:9/hook")
        made = await webhooks.create_endpoint(
            work, owner_id, draft, vault=services.vault, epochs=epochs, private=True
        )
    async with factories.working(services, owner_id) as work:
        await webhooks.rotate_secret(
            work, owner_id, made.endpoint.id, vault=services.vault, overlap=timedelta(days=1)
        )
    position = await factories.position(services, place.asset, state=State.FUNDED)
    await services.writer.submit(factories.move(services, position, release()))

    async def waits() -> bool:
        rows = await owner.fetch("SELECT attempts FROM webhook_deliveries ORDER BY sequence")
        return [row["attempts"] > 0 for row in rows] == [True, False, False]

    await eventually(waits)
    await level()

    async def copied() -> bool:
        webhook_tables = {"webhook_endpoints", "webhook_secrets", "webhook_deliveries"}
        return not await differing(owner, mirror) & webhook_tables

    await eventually(copied)
    assert await mirror.fetchval("SELECT count(*) FROM webhook_secrets") == 2
    cursor = "SELECT cursor FROM followers WHERE name = 'webhooks'"
    assert await mirror.fetchval(cursor) == await owner.fetchval(cursor) == 3
    assert await mirror.fetchval("SELECT count(*) FROM followers WHERE name = 'mirror'") == 0

    # Old ones are removed, and follow.
    await owner.execute("DELETE FROM webhook_deliveries WHERE sequence = 3")
    await level()
    await eventually(copied)
    assert await mirror.fetchval("SELECT count(*) FROM webhook_deliveries") == 2


async def test_its_lag_is_that_of_a_follower(
    parts: Parts, place: Place, level: Level, owner: asyncpg.Connection
) -> None:
    services = parts.services
    await level()
    pool = services.database.pool(DatabaseRole.WRITER)
    async with pool.acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        await steering.pause(driver, "mirror", paused=True)
    await asyncio.sleep(0.6)
    await factories.position(services, place.asset, state=State.RELEASED)

    async def standing() -> steering.Standing:
        async with services.database.pool(DatabaseRole.FEED).acquire() as driver:
            return next(one for one in await steering.standings(driver) if one.name == "mirror")

    async def waiting() -> int:
        async with services.database.pool(DatabaseRole.FEED).acquire() as driver:
            return await service.waiting(driver)

    before = await waiting()
    await factories.institution(services, "Another")
    assert await waiting() > before, "its institution, its audit"
    assert (await standing()).lag == 3
    async with pool.acquire() as driver, driver.transaction():
        await take_role(driver, DatabaseRole.WRITER, ())
        await steering.pause(driver, "mirror", paused=False)
    await level()

    async def is_level() -> bool:
        return (await standing()).lag == 0

    await eventually(is_level)
    assert await waiting() == 0


async def _reached(wire: Wire, cuts: int) -> bool:
    return wire.cuts >= cuts


async def test_a_connection_that_breaks_at_any_moment_costs_time_and_repeats_nothing(
    start: Start,
    there: Address,
    level: Level,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
) -> None:
    """Cut before and after commits on the way to the mirror, while writers run and two servers compete."""
    async with wired(there.url) as (wire, near), start(mirror_url=SecretStr(near)) as first:
        async with start(mirror_url=SecretStr(near)):
            place = await factories.place(first.services)
            writing = asyncio.create_task(_write(first.services, place, 25))
            for number, cut in enumerate((Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT) * 6):
                wire.cut = cut
                if number < 3:
                    await eventually(lambda number=number: _reached(wire, number + 1), seconds=10)
                await asyncio.sleep(random.uniform(0.02, 0.3))
                if random.random() < 0.3:
                    wire.break_all()
            wire.cut = Cut.NEVER
            await writing
            found = await level()
            assert wire.cuts >= 3
            assert found.mirror.global_sequence == 25 * 3
            await same(owner, mirror)
    await proved(there.owner_url)


async def _write(services: Services, place: Place, positions: int) -> None:
    for number in range(positions):
        made = await services.writer.submit(
            await factories.opening(services, place.asset, holder_reference=f"H-{number}")
        )
        await services.writer.submit(factories.move(services, made.row.position, FUND))
        await services.writer.submit(factories.move(services, made.row.position, release("1.00")))
        await factories.key(services, place.institution.id)
        await asyncio.sleep(0.03)


async def _nothing_waits(owner: asyncpg.Connection) -> bool:
    return bool(await owner.fetchval("SELECT count(*) FROM mirror_queue") == 0)


async def test_what_is_parked_beyond_what_the_copy_has_is_not_copied_yet(
    start: Start, owner: asyncpg.Connection, mirror: asyncpg.Connection
) -> None:
    async with start() as parts:
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset)

        async def parked() -> list[int]:
            rows = await mirror.fetch("SELECT global_sequence FROM parked_events ORDER BY 1")
            return [row["global_sequence"] for row in rows]

        async def taken() -> bool:
            return await owner.fetchval("SELECT cursor FROM followers WHERE name = 'checkpoints'") == 1

        await eventually(taken)
        await owner.execute(
            "INSERT INTO parked_events SELECT 'checkpoints', n, 'Poison', 1, now() FROM unnest(ARRAY[1, 9]) n"
        )

        # Of one that nobody leads here: an operator asked for another try, which is due wherever it goes on.
        await owner.execute("INSERT INTO followers VALUES ('elsewhere', 1, 0, false, NULL, now())")
        await owner.execute("INSERT INTO parked_events VALUES ('elsewhere', 1, 'Poison', 1, now(), true)")

        async def copied() -> bool:
            return await parked() == [1, 1]

        await eventually(copied, seconds=10)
        rows = await mirror.fetch("SELECT follower FROM parked_events WHERE retry")
        assert [row["follower"] for row in rows] == ["elsewhere"]
