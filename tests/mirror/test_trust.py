"""What is not whole is not promoted, and nothing that goes wrong on the way leaves two ledgers, or none."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from pydantic import SecretStr

from app import mirroring
from app.errors import Refused
from app.institutions import service as institutions
from app.ledger import leases
from app.ledger.followers import Halt, LeadLost
from app.ledger.leases import Lease
from app.mirror import service
from app.mirror.model import Comparison
from app.mirror.store import Copy
from app.mirror.worker import Mirror
from app.personal.masters import masters_of
from app.personal.service import Holders
from app.positions import service as positions
from app.positions.escrow import BUILT_IN
from app.positions.model import State
from app.settings import Settings, StoreBackend
from app.storage.database import Address, Database
from app.verify.walk import verify
from tests import factories
from tests.conftest import PASSWORD
from tests.factories import Place
from tests.mirror.conftest import MakeDatabase, Start, promote, same

Level = Callable[[], Awaitable[Comparison]]
Lagging = tuple[Place, int, int]

KEEPER = "SELECT written_by FROM ledger_head"


@pytest.fixture
def operators(settings: Settings, address: Address) -> Settings:
    """The settings of the operator's commands."""
    changes = {"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    return settings.model_copy(update=changes)


async def give_up(owner: asyncpg.Connection) -> None:
    """What docs/operations.md says."""
    await owner.execute("DELETE FROM parked_events WHERE follower = 'mirror'")
    await owner.execute("DELETE FROM followers WHERE name = 'mirror'")
    await owner.execute("TRUNCATE mirror_queue")


async def test_a_mirror_given_up_and_taken_again_learns_what_was_revoked_and_erased_meanwhile(
    start: Start, level: Level, settings: Settings, address: Address, there: Address, owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
) -> None:  # fmt: skip
    async with start() as parts:
        place = await factories.place(parts.services)
        made = await factories.key(parts.services, place.institution.id)
        for _ in range(3):
            await factories.position(parts.services, place.asset, state=State.RELEASED)
        await factories.position(parts.services, place.asset, holder_reference="LEAVING")
        await level()
    await give_up(owner)
    async with start(mirror_url=None) as parts:
        async with factories.working(parts.services, place.institution.id) as work:
            await institutions.revoke_api_key(work, place.institution.id, made.key.id)
            await positions.erase_holder(work, place.institution.id, parts.services.holders, "LEAVING")
        await factories.position(parts.services, place.asset)
    with pytest.raises(Refused, match="no mirror is registered"):
        await promote(settings, address, there)
    assert await owner.fetchval(KEEPER) == "SERVERS"
    async with start():
        assert (await level()).is_level
        await same(owner, mirror)
    assert await mirror.fetchval("SELECT revoked_at FROM api_keys WHERE id = $1", made.key.id) is not None
    assert await mirror.fetchval("SELECT count(*) FROM holders WHERE erased_at IS NOT NULL") == 1
    await promote(settings, address, there)


async def test_a_mirror_is_not_level_while_it_is_seeded_for_another_registration(
    start: Start, level: Level, compare: Level, owner: asyncpg.Connection, mirror: asyncpg.Connection
) -> None:
    async with start() as parts:
        await factories.place(parts.services)
        await level()
    await owner.execute("UPDATE followers SET registration = 'another' WHERE name = 'mirror'")
    assert not (await compare()).is_level
    await owner.execute("UPDATE followers SET registration = $1 WHERE name = 'mirror'",
                        await mirror.fetchval("SELECT registration FROM mirror_copy"))  # fmt: skip
    assert (await compare()).is_level
    for beside in ("api_keys", "personal_data"):
        await mirror.execute("UPDATE mirror_copy SET seeded = array_remove(seeded, $1)", beside)
        assert not (await compare()).is_level
        await mirror.execute("UPDATE mirror_copy SET seeded = seeded || $1::text", beside)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("api_keys", "UPDATE api_keys SET revoked_at = NULL"),
        ("institutions", "UPDATE institutions SET name = 'Somebody'"),
        ("audit_events", "DELETE FROM audit_events"),
        ("policies", "UPDATE policies SET max_amount = 1"),
    ],
)
async def test_a_mirror_whose_rows_are_not_the_ledgers_is_not_promoted_and_says_which(
    start: Start, level: Level, settings: Settings, address: Address, there: Address, operators: Settings,
    owner: asyncpg.Connection, mirror: asyncpg.Connection, table: str, change: str, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    async with start() as parts:
        place = await factories.place(parts.services)
        made = await factories.key(parts.services, place.institution.id)
        await factories.policy(parts.services, place.institution.id)
        async with factories.working(parts.services, place.institution.id) as work:
            await institutions.revoke_api_key(work, place.institution.id, made.key.id)
        await level()
    assert await asyncio.to_thread(mirroring.status, operators, proved=True), capsys.readouterr().out
    await mirror.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    await mirror.execute(change)
    with pytest.raises(Refused, match=rf"not equal to the ledger: {table} \("):
        await promote(settings, address, there)
    assert (await owner.fetchval(KEEPER), await mirror.fetchval(KEEPER)) == ("SERVERS", "MIRROR")
    assert not await asyncio.to_thread(mirroring.status, operators, proved=True)
    assert f"DIFFERENT: {table} (" in capsys.readouterr().out


async def test_a_mirror_that_does_not_prove_itself_is_not_promoted(
    start: Start, level: Level, settings: Settings, address: Address, there: Address, operators: Settings,
    owner: asyncpg.Connection, mirror: asyncpg.Connection, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    async with start() as parts:
        place = await factories.place(parts.services)
        await factories.position(parts.services, place.asset, state=State.FUNDED)
        await level()
    # On both sides, so that they are equal.
    for side in (owner, mirror):
        await side.execute("ALTER TABLE ledger_events DISABLE TRIGGER ALL")
        await side.execute("UPDATE ledger_events SET actor_id = 'key_nobody' WHERE global_sequence = 1")
        await side.execute("ALTER TABLE ledger_events ENABLE ALWAYS TRIGGER append_only")
    assert await asyncio.to_thread(mirroring.status, operators), "that is what it is for to ask for more"
    assert not await asyncio.to_thread(mirroring.status, operators, proved=True)
    assert "its hash does not seal its contents" in capsys.readouterr().out
    with pytest.raises(
        Refused, match=r"does not prove itself.*its hash does not seal.*give MIRROR_URL a new"
    ):
        await promote(settings, address, there)
    nowhere = operators.model_copy(
        update={"database_url": SecretStr("postgresql://nobody@127.0.0.1:1/nothing")}
    )
    with pytest.raises(Refused, match="does not prove itself"):
        await asyncio.to_thread(mirroring.promote, nowhere, ledger_is_lost=True)
    assert (await owner.fetchval(KEEPER), await mirror.fetchval(KEEPER)) == ("SERVERS", "MIRROR")
    assert await mirror.fetchval("SELECT max(epoch) FROM epochs") == 1


@pytest.mark.parametrize("what", ["a change waits", "seeding is unfinished"])
async def test_what_has_not_arrived_keeps_a_mirror_from_being_promoted(
    lagging: Lagging, settings: Settings, address: Address, there: Address, owner: asyncpg.Connection,
    mirror: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, what: str,
) -> None:  # fmt: skip
    level = Mirror.level

    async def unfinished(self: Mirror, lease: Lease) -> Copy:
        copy = await level(self, lease)
        if what == "a change waits":
            await owner.execute(
                "INSERT INTO mirror_queue (source, key) VALUES ('api_keys', '{inst_x,key_x}')"
            )
        else:
            copy.seeded = copy.seeded[:-1]
        return copy

    monkeypatch.setattr(Mirror, "level", unfinished)
    with pytest.raises(Refused, match="it is behind"):
        await promote(settings, address, there)
    assert (await owner.fetchval(KEEPER), await mirror.fetchval(KEEPER)) == ("SERVERS", "MIRROR")


@pytest.mark.parametrize(
    "trouble", [Halt("the mirror is gone"), ConnectionResetError(), asyncio.CancelledError()]
)
async def test_whatever_breaks_before_the_mirror_takes_over_leaves_the_ledger_open(
    lagging: Lagging, start: Start, settings: Settings, address: Address, there: Address, owner: asyncpg.Connection,
    mirror: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, trouble: BaseException,
) -> None:  # fmt: skip
    level, seen = Mirror.level, []

    async def broken(self: Mirror, lease: Lease) -> Copy:
        seen.append(await owner.fetchval(KEEPER))
        if len(seen) == 2:
            raise trouble
        return await level(self, lease)

    monkeypatch.setattr(Mirror, "level", broken)
    with pytest.raises((Refused, type(trouble))):
        await promote(settings, address, there)
    assert seen == ["SERVERS", "NOBODY"]
    assert (await owner.fetchval(KEEPER), await mirror.fetchval(KEEPER)) == ("SERVERS", "MIRROR")
    async with start(mirror_url=None) as parts:
        await factories.position(parts.services, lagging[0].asset)


async def test_a_ledger_whose_mirror_took_over_meanwhile_is_not_opened_again(
    lagging: Lagging, settings: Settings, address: Address, there: Address, owner: asyncpg.Connection,
    mirror: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def overtaken(_database: object, copy: Copy) -> None:
        await service.take_over(copy)
        raise ConnectionResetError

    monkeypatch.setattr(service, "_require_equal", overtaken)
    with pytest.raises(ConnectionResetError):
        await promote(settings, address, there)
    assert (await owner.fetchval(KEEPER), await mirror.fetchval(KEEPER)) == ("NOBODY", "SERVERS")


async def test_a_ledger_that_was_closed_is_given_back_unless_the_mirror_took_over(
    lagging: Lagging,
    operators: Settings,
    start: Start,
    another: MakeDatabase,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
) -> None:
    with pytest.raises(Refused, match="nothing to give back"):
        await asyncio.to_thread(mirroring.abandon, operators, mirror_is_gone=False)
    # What `kill -9` leaves in the middle of promoting.
    await owner.execute("UPDATE ledger_head SET written_by = 'NOBODY'")
    gone = operators.model_copy(update={"mirror_url": SecretStr("postgresql://nobody@127.0.0.1:1/nothing")})
    with pytest.raises(Refused, match="--mirror-is-gone"):
        await asyncio.to_thread(mirroring.abandon, gone, mirror_is_gone=False)
    await mirror.execute("UPDATE ledger_head SET written_by = 'SERVERS'")
    with pytest.raises(Refused, match="it is the ledger now"):
        await asyncio.to_thread(mirroring.abandon, operators, mirror_is_gone=True)
    assert await owner.fetchval(KEEPER) == "NOBODY"
    # What MIRROR_URL names by mistake tells nothing of the mirror that took over.
    other = operators.model_copy(update={"mirror_url": SecretStr((await another()).url)})
    with pytest.raises(Refused, match="names no mirror of this ledger"):
        await asyncio.to_thread(mirroring.abandon, other, mirror_is_gone=False)
    assert await owner.fetchval(KEEPER) == "NOBODY"
    await asyncio.to_thread(mirroring.abandon, gone, mirror_is_gone=True)
    assert await owner.fetchval(KEEPER) == "SERVERS"
    await owner.execute("UPDATE ledger_head SET written_by = 'NOBODY'")
    await mirror.execute("UPDATE ledger_head SET written_by = 'MIRROR'")
    await asyncio.to_thread(mirroring.abandon, operators, mirror_is_gone=False)
    async with start(mirror_url=None) as parts:
        await factories.position(parts.services, lagging[0].asset)


async def test_a_ledger_that_answers_with_servers_on_it_is_not_lost(
    start: Start,
    level: Level,
    operators: Settings,
    there: Address,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
) -> None:
    async with start() as parts:
        place = await factories.place(parts.services)
        await level()
        with pytest.raises(Refused, match="is not lost: its database answers"):
            await asyncio.to_thread(mirroring.promote, operators, ledger_is_lost=True)
        assert (await owner.fetchval(KEEPER), await mirror.fetchval(KEEPER)) == ("SERVERS", "MIRROR")
        await factories.position(parts.services, place.asset)
        await level()
    # Nobody lives there any more: it is closed, so that nobody ever will.
    await asyncio.to_thread(mirroring.promote, operators, ledger_is_lost=True)
    assert (await owner.fetchval(KEEPER), await mirror.fetchval(KEEPER)) == ("NOBODY", "SERVERS")
    assert (await verify(there.url, BUILT_IN)).is_clean


async def test_a_ledger_moves_once(
    lagging: Lagging, settings: Settings, address: Address, there: Address, another: MakeDatabase
) -> None:
    """Who repeats it, or has another database in MIRROR_URL by then, does not make a second ledger."""
    await promote(settings, address, there)
    with pytest.raises(Refused, match="has moved already: the mirror took over"):
        await promote(settings, address, there)
    empty = await another()
    changed = settings.model_copy(update={"mirror_url": SecretStr(empty.url)})
    with pytest.raises(Refused, match="MIRROR_URL names another database"):
        await promote(changed, address, empty)
    connection = await asyncpg.connect(empty.owner_url)
    assert await connection.fetchval("SELECT count(*) FROM ledger_events") == 0
    await connection.close()


@pytest.mark.parametrize("why", ["password", "connections"])
async def test_a_ledger_that_answers_without_letting_in_is_not_lost(
    why: str,
    start: Start,
    level: Level,
    operators: Settings,
    address: Address,
    owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
) -> None:
    async with start():
        await level()
        if why == "password":
            url = SecretStr(address.url.replace(PASSWORD, "another"))
            operators = operators.model_copy(update={"database_url": url})
        else:
            await owner.execute(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 0', current_database()); END $$"
            )
        with pytest.raises(Refused, match="lets nobody look whether servers run on it"):
            await asyncio.to_thread(mirroring.promote, operators, ledger_is_lost=True)
        await owner.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT -1', current_database()); END $$"
        )
        assert (await owner.fetchval(KEEPER), await mirror.fetchval(KEEPER)) == ("SERVERS", "MIRROR")


async def test_a_mirror_with_a_later_token_than_the_lease_is_brought_on_under_a_later_one_still(
    start: Start, level: Level, mirror: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The ledger was restored to a point before its leader changed, and lost no event."""
    async with start() as parts:
        place = await factories.place(parts.services)
        await level()
    await mirror.execute("UPDATE mirror_copy SET token = token + 7")
    before = await mirror.fetchval("SELECT token FROM mirror_copy")
    async with start() as parts:
        await factories.position(parts.services, place.asset, state=State.RELEASED)
        await level()
        assert await mirror.fetchval("SELECT token FROM mirror_copy") > before
    assert f"under token {before}" in caplog.text, "it is told"


async def test_the_newest_leaders_token_is_remembered_by_the_copy_and_older_ones_are_refused(
    lagging: Lagging, there: Address, mirror: asyncpg.Connection
) -> None:
    token = await mirror.fetchval("SELECT token FROM mirror_copy")
    copy = await Copy.open(there.url)
    try:
        # A process that led, was held up, and goes on after another one has led and gone.
        async with copy.page(token + 2):
            pass
        assert await mirror.fetchval("SELECT token FROM mirror_copy") == token + 2
        for older in (token, token + 1):
            with pytest.raises(LeadLost):
                async with copy.page(older):
                    pytest.fail("it got in")
        assert await mirror.fetchval("SELECT token FROM mirror_copy") == token + 2
        async with copy.page(token + 2):
            pass
    finally:
        await copy.close()


async def test_a_held_up_leader_takes_no_later_token(
    lagging: Lagging, settings: Settings, address: Address, there: Address, owner: asyncpg.Connection,
    mirror: asyncpg.Connection,
) -> None:  # fmt: skip
    """It believes in a lease that somebody else has had since."""
    database = Database(address, pool_size_max=2, pool_timeout=5, statement_timeout=10)
    await database.open()
    try:
        lease = await leases.take(database, "follower:mirror", "the one that is held up", 60)
        assert lease is not None
        await owner.execute("UPDATE leases SET token = token + 1 WHERE name = 'follower:mirror'")
        await mirror.execute("UPDATE mirror_copy SET token = $1", lease.token + 1)
        with pytest.raises(LeadLost):
            await Mirror(database, there.url, settings, BUILT_IN, Holders(masters_of(settings))).level(lease)
    finally:
        await database.close()
    assert await owner.fetchval("SELECT token FROM leases WHERE name = 'follower:mirror'") == lease.token + 1
    assert await mirror.fetchval("SELECT global_sequence FROM ledger_head") == lagging[1]
