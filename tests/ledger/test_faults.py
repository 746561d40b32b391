"""Connections that die at the worst moment: nothing is lost, nothing is done twice, nobody is told nonsense."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import Any

import asyncpg
import pytest

from app.context import Services
from app.errors import Refusal, Unavailable
from app.ledger.writer import Answer, Command, Decision, View, batch
from app.main import assemble
from app.positions.commands import MovePosition
from app.positions.model import Position, State
from app.settings import Settings
from app.storage.database import Address, DatabaseRole, take_role
from tests import factories
from tests.conftest import eventually
from tests.factories import FUND, Place, release
from tests.ledger.conftest import HeadHeld, Ledger, taken
from tests.ledger.proxy import Cut, Wire, wired
from tests.ledger.test_chain import check_chain

# The backends of writers: those that hold or wait for the head.
KILL_WRITERS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_locks
WHERE relation = 'ledger_head'::regclass AND mode IN ('RowShareLock', 'RowExclusiveLock') AND pid <> ALL($1::int[])
"""


KILL_ALL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = 'escrowgrid_test'
"""
KILLS_MAX = 30


async def kill_writers(owner: asyncpg.Connection, *spared: int) -> int:
    killed: int = await owner.fetchval(KILL_WRITERS, [owner.get_server_pid(), *spared])
    return killed


async def test_a_killed_backend_costs_time_and_no_command(
    services: Services, place: Place, owner: asyncpg.Connection, owner_url: str, ledger: Ledger
) -> None:
    """Killed while its batch waits for the head, three times over."""
    commands = [await factories.opening(services, place.asset, idempotency_key=str(n)) for n in range(20)]
    holder = await asyncpg.connect(owner_url)
    async with holder.transaction():
        await holder.execute("SELECT FROM ledger_head FOR UPDATE")
        tasks = [asyncio.create_task(services.writer.submit(command)) for command in commands]
        killed = 0
        while killed < 3:
            await asyncio.sleep(0.01)
            killed += await kill_writers(owner, holder.get_server_pid())
    await holder.close()
    answers = await asyncio.gather(*tasks)
    assert not any(answer.replayed for answer in answers)
    events = await ledger(place.institution.id)
    assert [event.key.value for event in events] == [str(number) for number in range(20)]
    check_chain(events)


async def test_backends_killed_at_random_lose_nothing_and_double_nothing(
    services: Services, second: Services, place: Place, owner: asyncpg.Connection, ledger: Ledger
) -> None:
    positions = [await factories.position(services, place.asset) for _ in range(10)]
    chance = random.Random(11)
    killed = 0

    async def kill() -> None:
        """Some thirty times: a database that never lets a batch end is another test's matter."""
        nonlocal killed
        while killed < KILLS_MAX:
            await asyncio.sleep(chance.uniform(0, 0.02))
            killed += await kill_writers(owner)

    async def work(server: Services, lane: int) -> list[Answer]:
        answers = []
        for number in range(10):
            command: Command = await factories.opening(server, place.asset)
            if number == 5:
                command = factories.move(server, positions[lane], FUND)
            answers.append(await server.writer.submit(command))
        return answers

    killing = asyncio.create_task(kill())
    servers = [services, second] * 5
    answers = await asyncio.gather(*(work(server, lane) for lane, server in enumerate(servers)))
    killing.cancel()
    told = [answer for some in answers for answer in some]
    assert killed > 3, "the test has teeth"
    assert not any(answer.replayed for answer in told)
    events = await ledger()
    assert len(events) == 110
    assert {answer.event.id for answer in told} == {event.id for event in events[10:]}
    check_chain(events)
    assert await owner.fetchval("SELECT count(*) FROM positions") == 100
    assert await owner.fetchval("SELECT count(*) FROM positions WHERE state = 'FUNDED'") == 10


class TestBehindAWire:
    """The wire to the database breaks around COMMIT, so that the outcome is not known."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"command_deadline_seconds": 1.0})

    @pytest.fixture
    async def far(
        self, settings: Settings, address: Address, services: Services
    ) -> AsyncIterator[tuple[Wire, Services]]:
        """A second server whose connections can be cut."""
        async with wired(address.url) as (wire, url):
            made = assemble(settings, Address.of(url, address.direct_url, address.owner_url))
            async with made.running():
                yield wire, made.services

    @pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT])
    @pytest.mark.parametrize("key", [None, "mine"], ids=["with a key made for it", "with a key of its own"])
    async def test_a_command_whose_commit_is_cut_happens_once_and_is_no_replay(
        self, far: tuple[Wire, Services], place: Place, ledger: Ledger, cut: Cut, key: str | None
    ) -> None:
        wire, server = far
        command = await factories.opening(server, place.asset, idempotency_key=key)
        wire.cut = cut
        answer = await server.writer.submit(command)
        assert wire.cuts == 1
        assert not answer.replayed
        assert [answer.event] == await ledger()
        if key is not None:
            assert (await server.writer.submit(command)).replayed

    @pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT])
    async def test_a_move_whose_commit_is_cut_happens_once(
        self, far: tuple[Wire, Services], place: Place, ledger: Ledger, cut: Cut
    ) -> None:
        """Decided anew without its key it would be refused as stale."""
        wire, server = far
        position = await factories.position(server, place.asset)
        wire.cut = cut
        answer = await server.writer.submit(factories.move(server, position, FUND, expected_version=1))
        assert not answer.replayed
        assert (answer.row.position.version, answer.row.position.state) == (2, State.FUNDED)
        assert len(await ledger()) == 2

    async def test_a_list_whose_commit_is_cut_happens_once(
        self, far: tuple[Wire, Services], place: Place, ledger: Ledger
    ) -> None:
        wire, server = far
        position = await factories.position(server, place.asset)
        wire.cut = Cut.AFTER_COMMIT
        answers = await server.writer.submit_all(
            [factories.move(server, position, intent) for intent in (FUND, release("1.00"), release())]
        )
        assert [answer.replayed for answer in answers] == [False] * 3
        assert [answer.row.position.version for answer in answers] == [2, 3, 4]
        assert len(await ledger()) == 4

    async def test_an_equal_command_of_somebody_else_is_still_a_replay(
        self, far: tuple[Wire, Services], services: Services, place: Place, ledger: Ledger
    ) -> None:
        wire, server = far
        first = await services.writer.submit(
            await factories.opening(services, place.asset, idempotency_key="mine")
        )
        wire.cut = Cut.BEFORE_COMMIT
        again = await server.writer.submit(
            await factories.opening(server, place.asset, idempotency_key="mine")
        )
        assert again.replayed
        assert again.event == first.event
        assert len(await ledger()) == 1

    async def test_when_the_database_stays_away_nothing_is_said_that_is_not_certain(
        self, far: tuple[Wire, Services], place: Place, ledger: Ledger
    ) -> None:
        """The wire may cut another commit than the writer's: then nothing was done, and that is said."""
        wire, server = far
        command = await factories.opening(server, place.asset, idempotency_key="mine")
        wire.cut, wire.down = Cut.AFTER_COMMIT, False
        sent = asyncio.create_task(server.writer.submit(command))
        while not wire.cuts:
            await asyncio.sleep(0.001)
        wire.down = True
        wire.break_all()
        with pytest.raises(Unavailable) as told:
            await sent
        if "nothing was done" in told.value.message:
            assert await ledger() == []
        else:
            assert "same idempotency key" in told.value.message
        wire.down = False
        again = await server.writer.submit(command)
        assert again.event.key.value == "mine"
        assert len(await ledger()) == 1

    async def test_a_silent_wire_keeps_nobody_beyond_the_deadline(
        self, far: tuple[Wire, Services], place: Place, owner: asyncpg.Connection, ledger: Ledger
    ) -> None:
        """Neither end hears that the other is gone, as behind a firewall that forgot the connection."""
        wire, server = far
        await factories.position(server, place.asset)
        before = await factories.footprint(owner)
        commands = [await factories.opening(server, place.asset, idempotency_key=str(n)) for n in range(3)]
        wire.silence()
        began = asyncio.get_running_loop().time()
        told = await asyncio.gather(
            *(server.writer.submit(command) for command in commands), return_exceptions=True
        )
        assert asyncio.get_running_loop().time() - began < 8, "not as long as a driver waits"
        assert {str(one) for one in told} == {"this took too long; nothing was done, try again"}
        wire.mend()
        await asyncio.sleep(0.5)
        assert await factories.footprint(owner) == before, "what waited in the wire is not done later"
        answers = [await _patiently(server, command) for command in commands]
        assert not any(answer.replayed for answer in answers)
        assert len(await ledger()) == 4

    async def test_a_wire_that_falls_silent_at_a_commit_leaves_the_outcome_open_and_says_so(
        self, far: tuple[Wire, Services], place: Place, ledger: Ledger
    ) -> None:
        wire, server = far
        command = await factories.opening(server, place.asset, idempotency_key="mine")
        # Others may commit something of their own first.
        while not await ledger():
            wire.cut = Cut.SILENT_AT_COMMIT
            began = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable) as told:
                await server.writer.submit(command)
            assert asyncio.get_running_loop().time() - began < 8, "not as long as a driver waits"
            wire.cut = Cut.NEVER
            wire.mend()
        assert "same idempotency key" in told.value.message
        assert (await _patiently(server, command)).replayed
        assert len(await ledger()) == 1


async def _patiently(server: Services, command: Command) -> Answer:
    """Its answer, once the server has connections again."""
    for _attempt in range(20):
        try:
            return await server.writer.submit(command)
        except Unavailable:
            await asyncio.sleep(0.2)
    raise AssertionError("the server never has connections again")


async def test_a_database_that_only_reads_for_a_moment_costs_time_and_no_command(
    services: Services, place: Place, owner: asyncpg.Connection, ledger: Ledger
) -> None:
    """As at a failover, where the address leads to a standby that is not promoted yet."""
    positions = [await factories.position(services, place.asset) for _ in range(4)]
    name = await owner.fetchval("SELECT current_database()")
    reading = f'ALTER DATABASE "{name}" SET default_transaction_read_only = '
    await owner.execute(f"{reading} on")
    await owner.execute(KILL_ALL)
    moves = [
        asyncio.create_task(services.writer.submit(factories.move(services, position, FUND)))
        for position in positions
    ]
    await asyncio.sleep(0.5)
    await owner.execute(f"SET default_transaction_read_only = off; {reading} off")
    while not all(move.done() for move in moves):
        # Only new connections hear of it.
        await owner.execute(KILL_ALL)
        await asyncio.sleep(0.2)
    assert [move.result().row.position.state for move in moves] == [State.FUNDED] * 4
    assert len(await ledger()) == 8


class TestWithLittleTime:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"command_deadline_seconds": 1.0})

    async def test_the_deadline_is_kept_however_long_the_head_is_held(
        self, services: Services, place: Place, head_held: HeadHeld, owner: asyncpg.Connection
    ) -> None:
        commands = [await factories.opening(services, place.asset) for _ in range(8)]
        loop = asyncio.get_running_loop()
        async with head_held():
            before = await factories.footprint(owner)
            began = loop.time()
            results = await asyncio.gather(
                *(services.writer.submit(command) for command in commands), return_exceptions=True
            )
            # A command that comes while a batch waits may wait for as long once more.
            assert loop.time() - began < 4
            told = {str(result) for result in results}
            assert told == {"this took too long; nothing was done, try again"}
            assert await factories.footprint(owner) == before
        assert (await services.writer.submit(commands[0])).event.sequence == 1


async def test_names_are_locked_in_one_order_whatever_the_order_of_the_commands(
    services: Services, place: Place
) -> None:
    """Two processes that hash their sets differently would meet crosswise otherwise."""
    commands = [await factories.opening(services, place.asset, idempotency_key=f"k{n}") for n in range(40)]
    locked: list[list[int]] = []
    pool = services.database.pool(DatabaseRole.WRITER)
    async with pool.acquire() as connection, connection.transaction():
        await take_role(connection, DatabaseRole.WRITER, [place.institution.id])

        def note(told: Any) -> None:
            if told.query == batch.LOCK_NAMES:
                locked.append(list(told.args[0]))

        with connection.query_logger(note):
            for order in (commands, commands[::-1], commands[1::2] + commands[::2]):
                await batch._lock_names(connection, order)
    assert locked[0] == locked[1] == locked[2] == sorted(locked[0])
    assert len(set(locked[0])) == len(locked[0]) == 40


@dataclass(frozen=True, slots=True)
class Stalling(MovePosition):
    """Stops the whole process for longer than the database waits, the first time it is decided."""

    stalled: Any = None

    def decide(self, view: View) -> Decision:
        if not self.stalled:
            self.stalled.append(True)
            time.sleep(5.6)
        return MovePosition.decide(self, view)


@pytest.mark.slow
async def test_a_process_that_stalls_within_its_transaction_loses_its_turn_and_not_its_command(
    services: Services, place: Place, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """The database ends such a transaction after five seconds, so that it stops nobody else."""
    position = await factories.position(services, place.asset)
    sane = factories.move(services, position, FUND)
    command = Stalling(**{field.name: getattr(sane, field.name) for field in fields(sane)}, stalled=[])
    answer = await services.writer.submit(command)
    assert (answer.row.position.state, answer.replayed) == (State.FUNDED, False)
    assert "is tried again" in caplog.text, "the test has teeth"
    assert len(await ledger()) == 2


async def test_two_processes_that_want_the_same_things_in_opposite_orders_never_deadlock(
    services: Services,
    second: Services,
    place: Place,
    owner: asyncpg.Connection,
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Keys, references, holders and positions, in lists; for at most eight seconds."""
    caplog.set_level(logging.WARNING, "escrowgrid.writer")
    positions = [await factories.position(services, place.asset) for _ in range(6)]
    accepted = 0

    async def creations(server: Services, order: int, round_: int) -> list[Command]:
        names = [f"{round_}-{number}" for number in range(6)][::order]
        return [
            await factories.opening(
                server,
                place.asset,
                external_reference=f"ref {name}",
                idempotency_key=f"key {name}",
                holder_reference=f"holder {name}",
            )
            for name in names
        ]

    async def work(server: Services, order: int) -> None:
        nonlocal accepted
        for round_ in range(12):
            moves: list[Command] = [
                factories.move(server, position, intent)
                for position in positions[::order]
                for intent in ([FUND] if round_ == 0 else [release("0.01")])
            ]
            batches = [await creations(server, order, round_), moves]
            for commands in batches[::order]:
                results = await asyncio.gather(
                    server.writer.submit_all(commands),
                    *(server.writer.submit(command) for command in reversed(commands)),
                    return_exceptions=True,
                )
                unexpected = [r for r in results if isinstance(r, Exception) and not isinstance(r, Refusal)]
                assert not unexpected
                accepted += sum(not isinstance(result, Exception) for result in results)

    async with asyncio.timeout(8):
        await asyncio.gather(*(work(server, order) for server, order in [(services, 1), (second, -1)] * 2))
    assert accepted
    assert "Deadlock" not in caplog.text
    assert (
        await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    )
    references = [
        row["external_reference"] for row in await owner.fetch("SELECT external_reference FROM positions")
    ]
    assert len(references) == 6 + 12 * 6
    check_chain(await ledger())


async def test_a_server_whose_bell_and_tail_are_killed_too_goes_on(
    services: Services, place: Place, owner: asyncpg.Connection, head_held: HeadHeld
) -> None:
    """Every backend of the login, whatever it does."""
    plug = await factories.opening(services, place.asset)
    waiting: asyncio.Task[Answer]
    async with head_held():
        waiting = asyncio.create_task(services.writer.submit(plug))
        await taken(services.writer)
    await waiting
    killed = await owner.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND usename = 'escrowgrid_test'"
    )
    assert killed >= 3
    answer = await services.writer.submit(await factories.opening(services, place.asset))
    found: Position = answer.row.position
    assert found.version == 1
    stream = services.tail.stream(place.institution.id, 1)
    events = await asyncio.wait_for(anext(stream), timeout=5)
    assert [event.id for event in events] == [answer.event.id]
    await stream.aclose()


async def test_two_processes_held_up_half_way_through_the_same_names_do_not_wait_for_each_other(
    services: Services, second: Services, place: Place, owner: asyncpg.Connection, ledger: Ledger
) -> None:
    """Somebody holds a name from the middle: whoever took the others in an order of its own would deadlock now."""
    keys = [f"key {number}" for number in range(9)]
    orders = ((services, keys), (second, keys[::-1]))
    lists = [
        [await factories.opening(server, place.asset, idempotency_key=key) for key in order]
        for server, order in orders
    ]
    (middle,) = [name for name in lists[0][4].names() if "key 4" in name]
    holder = owner.transaction()
    await holder.start()
    await owner.execute("SELECT pg_advisory_xact_lock($1)", batch._lock_number(middle))
    answers = [
        asyncio.create_task(server.writer.submit_all(commands))
        for (server, _order), commands in zip(orders, lists, strict=True)
    ]

    async def both_wait() -> bool:
        waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
        waiting += "WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
        return bool(await owner.fetchval(waiting) == 2)

    await eventually(both_wait)
    await holder.rollback()
    async with asyncio.timeout(8):
        first, other = await asyncio.gather(*answers)
    assert sorted(answer.replayed for answer in (*first, *other)) == [False] * 9 + [True] * 9
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    await asyncio.sleep(0.1)
    assert await owner.fetchval(deadlocks) == 0
    check_chain(await ledger())
