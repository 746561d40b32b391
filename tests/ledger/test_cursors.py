"""Ledger cursors: valid where going on misses and repeats nothing, refused loudly everywhere else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from app.context import Services
from app.errors import CursorInvalid
from app.kit.cursor import seal, unseal
from app.ledger import epochs
from app.ledger.cursors import Epochs
from app.main import Parts, assemble
from app.positions.model import State
from app.principal import ALL_INSTITUTIONS
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.conftest import Live, Run, eventually
from tests.factories import Place

LIST = "query ($after: String) { ledgerEvents(after: $after) { edges { cursor node { sequence } } } }"
STREAMS = {
    "ledgerEvents": "subscription ($after: String) { ledgerEvents(after: $after) { cursor } }",
    "positionsChanged": "subscription ($after: String) { positionsChanged(after: $after) { cursor } }",
}
LOG = "0123456789abcdef" * 2
OTHER_LOG = "f" * 32
NONCES = {1: "", 2: "0000aaaa", 3: "0000bbbb"}
KNOWN = Epochs(LOG, 3, {("*", 1): 0, ("*", 2): 10, ("*", 3): 20, ("a", 2): 4, ("a", 3): 8}, NONCES)

# What tells this ledger and its global order from all others.
MARK = str(unseal("ledger", KNOWN.cursor("*", 0))[0])


def made(epoch: int, sequence: int, scope: str = "*", log_id: str = LOG) -> str:
    return Epochs(log_id, epoch, {}, NONCES).cursor(scope, sequence)


@pytest.mark.parametrize(
    ("scope", "epoch", "sequence"),
    [("*", 1, 0), ("*", 1, 10), ("*", 2, 0), ("*", 2, 20), ("*", 3, 30), ("a", 1, 4), ("a", 2, 8), ("a", 3, 30),
     ("b", 3, 30), ("b", 1, 0)],
)  # fmt: skip
def test_a_cursor_is_valid_up_to_where_the_next_epoch_starts(scope: str, epoch: int, sequence: int) -> None:
    assert KNOWN.place(scope, made(epoch, sequence, scope), 30) == sequence


@pytest.mark.parametrize(
    ("scope", "epoch", "sequence", "why"),
    [
        ("*", 1, 11, "restored to an earlier point"),
        ("*", 2, 21, "restored to an earlier point"),
        ("*", 3, 31, "beyond the end"),
        ("*", 4, 1, "after the point this ledger was restored to"),
        ("a", 1, 5, "restored to an earlier point"),
        ("a", 2, 9, "restored to an earlier point"),
        ("b", 2, 1, "restored to an earlier point"),  # there was no institution b before epoch 3
    ],
)
def test_beyond_it_is_refused_with_what_to_do(scope: str, epoch: int, sequence: int, why: str) -> None:
    with pytest.raises(CursorInvalid, match=f"{why}.*read the state again"):
        KNOWN.place(scope, made(epoch, sequence, scope), 30)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense",
        "\x00",
        "\ud800",
        "é",
        "A" * 10_000,
        made(3, 5)[:-1],
        seal("positions.CREATED:desc", 1, "pos_1"),
        seal("ledger"),
        seal("ledger", MARK, 3),
        seal("ledger", MARK, 3, 5, 6),
        seal("ledger", MARK, "3", 5),
        seal("ledger", MARK, 3, "5"),
        seal("ledger", MARK, 3, -1),
        seal("ledger", 7, 3, 5),
        seal("ledger", LOG, 3, 5),
        made(3, 5, log_id=OTHER_LOG),
        made(3, 5, scope="a"),
    ],
    ids=lambda cursor: cursor[:40],
)
def test_what_is_not_a_cursor_of_this_scope_and_ledger_is_refused(cursor: str) -> None:
    with pytest.raises(CursorInvalid):
        KNOWN.place("*", cursor, 30)


@pytest.mark.parametrize("scope", ["*", "a"])
def test_a_cursor_of_an_epoch_that_another_restore_began_is_refused_whatever_its_number(scope: str) -> None:
    """The ledger was restored twice from one backup: both histories call their epoch the third."""
    lost = Epochs(LOG, 3, KNOWN.starts_after, NONCES | {3: "0000cccc"})
    before = Epochs(LOG, 3, KNOWN.starts_after, {})  # as cursors were before they told epochs apart
    for other in (lost, before):
        with pytest.raises(CursorInvalid, match=r"does not go on with.*read the state again"):
            KNOWN.place(scope, other.cursor(scope, 1), 30)
    assert KNOWN.place(scope, KNOWN.cursor(scope, 25), 30) == 25


def test_a_cursor_leaves_room_in_the_reason_a_socket_is_closed_with() -> None:
    assert len(KNOWN.cursor("*", 10**12)) < 90


async def test_an_institutions_cursor_is_not_roots_nor_anothers(
    services: Services, place: Place, elsewhere: Place
) -> None:
    for where in (place, elsewhere):
        await factories.position(services, where.asset)
    scopes = [ALL_INSTITUTIONS, place.institution.id, elsewhere.institution.id]
    for scope in scopes:
        cursor = services.tail.epochs.cursor(scope, 1)
        assert await services.tail.place(scope, cursor) == 1
        for other in scopes:
            if other != scope:
                with pytest.raises(CursorInvalid, match="another institution's key"):
                    await services.tail.place(other, cursor)


@pytest.fixture
def bad(services: Services, place: Place, elsewhere: Place) -> dict[str, str]:
    """Cursors that are refused to an admin of `place`, whose ledger has two events."""
    mine, known = place.institution.id, services.tail.epochs
    return {
        "malformed": "nonsense",
        "damaged": known.cursor(mine, 1)[:-2] + "xx",
        "of another institution": known.cursor(elsewhere.institution.id, 0),
        "of root": known.cursor(ALL_INSTITUTIONS, 0),
        "of another ledger": Epochs(OTHER_LOG, known.current, {}, known.nonces).cursor(mine, 0),
        "ahead of the head": known.cursor(mine, 3),
        "of a later epoch": Epochs(known.log_id, known.current + 1, {}, {}).cursor(mine, 0),
        "of a list": seal("positions.CREATED:desc", 1, "pos_1"),
        "empty": "",
        "NUL": "\x00",
        "half of a pair": "\ud800",
    }


KINDS = ["malformed", "damaged", "of another institution", "of root", "of another ledger", "ahead of the head",
         "of a later epoch", "of a list", "empty", "NUL", "half of a pair"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_cursor_is_cursor_invalid_in_lists_and_streams(
    services: Services, place: Place, run: Run, live: Live, bad: dict[str, str], kind: str
) -> None:
    assert set(bad) == set(KINDS)
    await factories.position(services, place.asset, state=State.FUNDED)
    after = {"after": bad[kind]}
    listed = await run(LIST, after, principal=place.admin)
    assert listed.codes == ["CURSOR_INVALID"]
    assert listed.data is None
    for name, document in STREAMS.items():
        async with live(document, after, principal=place.admin) as results:
            told = await asyncio.wait_for(anext(results), timeout=3)
            assert [error.extensions["code"] for error in told.errors] == ["CURSOR_INVALID"], name
            with pytest.raises(StopAsyncIteration):
                await anext(results)


async def test_the_head_is_judged_on_the_primary_and_not_by_what_one_process_has_heard(
    services: Services, second: Services, place: Place
) -> None:
    """A cursor that another process gave a moment ago is good here at once."""
    for number in range(1, 20):
        answer = await second.writer.submit(await factories.opening(second, place.asset))
        cursor = second.tail.epochs.cursor(place.institution.id, answer.event.sequence)
        assert await services.tail.place(place.institution.id, cursor) == number


Raise = Callable[[], Awaitable[None]]


@pytest.fixture
def raise_epoch(address: Address) -> Raise:
    """What a finished restore does."""

    async def raised() -> None:
        connection = await asyncpg.connect(address.url)
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL ROLE escrowgrid_writer")
                await connection.execute(epochs.LOCK_HEAD)
                await epochs.raise_epoch(connection, "a test")
        finally:
            await connection.close()

    return raised


@pytest.fixture
async def later(settings: Settings, address: Address) -> AsyncIterator[Callable[[], Awaitable[Parts]]]:
    """Starts further servers on the same database."""
    started = []

    async def start() -> Parts:
        made = assemble(settings, address)
        running = made.running()
        await running.__aenter__()
        started.append(running)
        return made

    yield start
    for running in reversed(started):
        await running.__aexit__(None, None, None)


async def test_older_cursors_stay_valid_up_to_the_new_epoch_and_are_refused_beyond(
    services: Services,
    place: Place,
    elsewhere: Place,
    raise_epoch: Raise,
    later: Callable[[], Awaitable[Parts]],
) -> None:
    for where in (place, place, elsewhere, place):
        await factories.position(services, where.asset)
    old = services.tail.epochs
    await raise_epoch()
    fresh = (await later()).services
    assert fresh.tail.epochs.current == old.current + 1
    for _ in range(3):
        await factories.position(fresh, place.asset)
    for scope, start, head in [(ALL_INSTITUTIONS, 4, 7), (place.institution.id, 3, 6)]:
        for sequence in range(start + 1):
            assert await fresh.tail.place(scope, old.cursor(scope, sequence)) == sequence
        for sequence in range(start + 1, head + 2):
            with pytest.raises(CursorInvalid, match="restored to an earlier point"):
                await fresh.tail.place(scope, old.cursor(scope, sequence))
        for sequence in range(head + 1):
            assert await fresh.tail.place(scope, fresh.tail.epochs.cursor(scope, sequence)) == sequence
        # An institution that wrote nothing since is judged by its own line.
    assert await fresh.tail.place(elsewhere.institution.id, old.cursor(elsewhere.institution.id, 1)) == 1


async def test_an_institution_younger_than_the_epoch_has_no_older_cursors(
    services: Services, raise_epoch: Raise, later: Callable[[], Awaitable[Parts]]
) -> None:
    old = services.tail.epochs
    await raise_epoch()
    fresh = (await later()).services
    young = await factories.place(fresh)
    await factories.position(fresh, young.asset)
    assert await fresh.tail.place(young.institution.id, old.cursor(young.institution.id, 0)) == 0
    with pytest.raises(CursorInvalid):
        await fresh.tail.place(young.institution.id, old.cursor(young.institution.id, 1))


async def test_another_database_raises_an_epoch_once_however_many_servers_start(
    services: Services, place: Place, owner: asyncpg.Connection, later: Callable[[], Awaitable[Parts]]
) -> None:
    """After a restore elsewhere the system identifier or the timeline is another one."""
    await factories.position(services, place.asset)
    old = services.tail.epochs
    for column in ("system_identifier", "timeline"):
        before = await owner.fetchval("SELECT max(epoch) FROM epochs")
        await owner.execute(f"UPDATE ledger_head SET {column} = {column} + 1")
        parts = await asyncio.gather(later(), later())
        assert await owner.fetchval("SELECT max(epoch) FROM epochs") == before + 1
        assert {made.services.tail.epochs.current for made in parts} == {before + 1}
        assert await parts[0].services.tail.place(ALL_INSTITUTIONS, old.cursor(ALL_INSTITUTIONS, 1)) == 1
    assert (await later()).services.tail.epochs.current == 3


async def test_a_server_hears_of_an_epoch_of_the_same_number_that_another_restore_began(
    services: Services, place: Place, raise_epoch: Raise, owner: asyncpg.Connection
) -> None:
    await factories.position(services, place.asset)
    await raise_epoch()

    known = services.tail.epochs

    async def heard() -> bool:
        return services.tail.epochs.newest != known.newest

    await eventually(heard)
    known = lost = services.tail.epochs
    # What a restore to before that epoch leaves, once another has begun.
    await owner.execute("ALTER TABLE epochs DISABLE TRIGGER USER")
    await owner.execute("DELETE FROM epochs WHERE epoch = 2")
    await raise_epoch()
    await eventually(heard)
    assert services.tail.epochs.current == lost.current == 2
    scopes = (ALL_INSTITUTIONS, place.institution.id)
    for scope in scopes:
        with pytest.raises(CursorInvalid, match="does not go on with"):
            await services.tail.place(scope, lost.cursor(scope, 1))
    for scope in scopes:
        assert await services.tail.place(scope, services.tail.epochs.cursor(scope, 1)) == 1


async def test_an_epoch_cannot_be_raised_while_a_batch_commits(
    services: Services, place: Place, raise_epoch: Raise, owner: asyncpg.Connection
) -> None:
    """It begins behind a whole batch: what it starts after is committed, what follows is not."""
    commands = [await factories.opening(services, place.asset) for _ in range(50)]
    sent = [asyncio.create_task(services.writer.submit(command)) for command in commands]
    await asyncio.sleep(0.005)
    await raise_epoch()
    starts = await owner.fetchval("SELECT starts_after FROM epochs WHERE epoch = 2 AND scope = '*'")
    mine = await owner.fetchval(
        "SELECT starts_after FROM epochs WHERE epoch = 2 AND scope = $1", place.institution.id
    )
    assert starts == mine
    await asyncio.gather(*sent)
