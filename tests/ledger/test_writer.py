"""The writer: commands that arrive together are decided in order, committed together, answered one by one."""

import asyncio
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from app.context import Services
from app.errors import ErrorCode, Overloaded, Refusal, Unavailable
from app.ledger.model import Event, Kind
from app.ledger.writer import Accepted, Answer, Decision, View
from app.main import Parts
from app.positions.commands import MovePosition
from app.positions.model import Position, State
from app.settings import Settings
from tests import factories
from tests.factories import FUND, Place, release
from tests.ledger.conftest import Gathering, HeadHeld, Ledger, taken
from tests.ledger.test_chain import check_chain


async def test_a_hundred_concurrent_creations_leave_gapless_sequences_and_one_chain_each(
    services: Services, place: Place, elsewhere: Place, ledger: Ledger
) -> None:
    commands = [
        await factories.opening(services, where.asset) for where in (place, elsewhere) for _ in range(50)
    ]
    answers = await asyncio.gather(*(services.writer.submit(command) for command in commands))
    everything = await ledger()
    assert [event.global_sequence for event in everything] == list(range(1, 101))
    for where in (place, elsewhere):
        events = await ledger(where.institution.id)
        assert [event.sequence for event in events] == list(range(1, 51))
        check_chain(events)
    assert {answer.event.id for answer in answers} == {event.id for event in everything}
    assert not any(answer.replayed for answer in answers)
    assert [answer.row.position.id for answer in answers] == [command.position_id for command in commands]


async def test_an_answer_tells_the_event_as_it_is_stored_and_the_position_as_it_is_stored(
    services: Services, place: Place, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    created = await services.writer.submit(await factories.opening(services, place.asset, reason="new"))
    moved = await services.writer.submit(factories.move(services, created.row.position, FUND))
    assert [created.event, moved.event] == await ledger()
    assert created.event.kind is Kind.POSITION_CREATED
    stored = await owner.fetchrow("SELECT * FROM positions")
    position: Position = moved.row.position
    assert (position.version, position.state, position.balances.held) == (2, State.FUNDED, Decimal(100))
    assert {
        name: stored[name] for name in ("version", "state", "stage", "held", "created_at", "updated_at")
    } == {
        "version": position.version,
        "state": position.state,
        "stage": position.stage,
        "held": position.balances.held,
        "created_at": created.event.recorded_at,
        "updated_at": moved.event.recorded_at,
    }


async def test_an_accepted_move_inserts_one_event_and_no_other_row(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    position = await factories.position(services, place.asset)
    before = await _counts(owner)
    await services.writer.submit(factories.move(services, position, FUND))
    after = await _counts(owner)
    assert {name: after[name] - count for name, count in before.items() if after[name] != count} == {
        "ledger_events": 1
    }


async def _counts(owner: asyncpg.Connection) -> dict[str, int]:
    """The rows of each table that commands write."""
    names = await owner.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p') AND n.nspname = 'public' AND c.relname <> 'checkpoints'"
    )
    return {row["name"]: await owner.fetchval(f"SELECT count(*) FROM {row['name']}") for row in names}


async def test_commands_that_arrive_while_a_batch_commits_form_the_next_one(
    services: Services, place: Place, gathered: Gathering
) -> None:
    commands = [await factories.opening(services, place.asset) for _ in range(200)]
    before = services.writer.batches
    async with gathered(commands) as tasks:
        assert len(services.writer) == 200
    await asyncio.gather(*tasks)
    assert services.writer.batches - before == 2


async def test_a_batch_is_bounded(
    services: Services, place: Place, gathered: Gathering, settings: Settings
) -> None:
    commands = [await factories.opening(services, place.asset) for _ in range(settings.batch_size_max + 1)]
    before = services.writer.batches
    async with gathered(commands) as tasks:
        pass
    answers = await asyncio.gather(*tasks)
    assert services.writer.batches - before == 3
    assert [answer.event.sequence for answer in answers] == list(range(2, len(commands) + 2))


async def test_commands_of_one_batch_see_the_effect_of_those_before_them(
    services: Services, place: Place, gathered: Gathering, owner: asyncpg.Connection
) -> None:
    position = await factories.position(services, place.asset)
    intents = [FUND, release("30.00"), release("30.00"), release("50.00"), release("40.00"), release("0.01")]
    async with gathered([factories.move(services, position, intent) for intent in intents]) as tasks:
        pass
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [_told(result) for result in results] == [
        State.FUNDED,
        State.PARTIALLY_RELEASED,
        State.PARTIALLY_RELEASED,
        ErrorCode.INSUFFICIENT_HELD,
        State.RELEASED,
        ErrorCode.TRANSITION_NOT_ALLOWED,
    ]
    row = await owner.fetchrow("SELECT version, released, held FROM positions WHERE id = $1", position.id)
    assert tuple(row) == (5, 100, 0)


def _told(result: Any) -> Any:
    return result.code if isinstance(result, Refusal) else result.row.position.state


async def test_of_two_writers_on_one_position_exactly_one_wins(
    services: Services, second: Services, place: Place, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    for round_ in range(5):
        position = await factories.position(services, place.asset)
        events = len(await ledger())
        results = await asyncio.gather(
            *(
                server.writer.submit(factories.move(server, position, FUND, expected_version=1))
                for server in (services, second)
            ),
            return_exceptions=True,
        )
        won = [result for result in results if isinstance(result, Answer)]
        (lost,) = (result for result in results if isinstance(result, Refusal))
        assert len(won) == 1, f"round {round_}"
        assert lost.code is ErrorCode.VERSION_CONFLICT
        assert lost.field == "expectedVersion"
        assert "at version 2, not 1" in lost.message
        assert len(await ledger()) == events + 1
        assert await owner.fetchval("SELECT version FROM positions WHERE id = $1", position.id) == 2


async def test_a_stale_writer_writes_nothing(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    position = await factories.position(services, place.asset, state=State.FUNDED)
    before = await factories.footprint(owner)
    for stale in (1, 3, 2**31 - 1):
        with pytest.raises(Refusal) as refused:
            await services.writer.submit(
                factories.move(services, position, release("1.00"), expected_version=stale)
            )
        assert refused.value.code is ErrorCode.VERSION_CONFLICT
    assert await factories.footprint(owner) == before


@dataclass(frozen=True, slots=True)
class Poison(MovePosition):
    """A command that our own code lets pass, or breaks on."""

    harm: Any = None

    def decide(self, view: View) -> Decision:
        decided = MovePosition.decide(self, view)
        assert isinstance(decided, Accepted)
        return self.harm(decided)  # type: ignore[no-any-return]


def _raising(error: Exception) -> Any:
    def harm(_decided: Accepted) -> Decision:
        raise error

    return harm


HARMS = {
    "a check of the database": lambda it: replace(it, draft=replace(it.draft, amount_moved=Decimal(-1))),
    "an invariant of ours": lambda it: replace(
        it, draft=replace(it.draft, balances=replace(it.draft.balances, held=Decimal(1)))
    ),
    "a NUL in a text": lambda it: replace(it, draft=replace(it.draft, template_id="\x00")),
    "a lone surrogate in a text": lambda it: replace(it, draft=replace(it.draft, template_id="\ud800")),
    "a missing value": lambda it: replace(it, draft=replace(it.draft, template_id=None)),
    "a float in its evidence": lambda it: replace(it, draft=replace(it.draft, evidence={"x": 0.5})),
    "an unknown currency": lambda it: replace(it, draft=replace(it.draft, currency="XXX")),
    "an institution out of its scope": lambda it: replace(
        it, draft=replace(it.draft, institution_id="inst_x")
    ),
    "a number too large": lambda it: replace(it, draft=replace(it.draft, lifecycle_version=2**40)),
    "a version that is used": lambda it: replace(it, draft=replace(it.draft, position_version=1)),
    "a KeyError": _raising(KeyError("lifecycle")),
    "an ArithmeticError": _raising(ArithmeticError("1/0")),
    "a RuntimeError": _raising(RuntimeError("a bug")),
}


def poison(services: Services, position: Position, harm: str) -> Poison:
    sane = factories.move(services, position, FUND)
    return Poison(**{field.name: getattr(sane, field.name) for field in fields(sane)}, harm=HARMS[harm])


@pytest.mark.parametrize("harm", HARMS)
async def test_a_poison_command_fails_alone_while_its_neighbours_succeed(
    services: Services,
    place: Place,
    gathered: Gathering,
    ledger: Ledger,
    harm: str,
    owner: asyncpg.Connection,
) -> None:
    positions = [await factories.position(services, place.asset) for _ in range(8)]
    commands = [factories.move(services, position, FUND) for position in positions]
    commands[5] = poison(services, positions[5], harm)
    async with gathered(commands) as tasks:
        pass
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [place for place, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [5]
    assert not isinstance(results[5], Refusal)
    check_chain(await ledger(place.institution.id))
    funded = await owner.fetch("SELECT id FROM positions WHERE state = 'FUNDED' ORDER BY id")
    assert [row["id"] for row in funded] == [p.id for number, p in enumerate(positions) if number != 5]
    # The poisoned position is as it was and can still be moved.
    answer = await services.writer.submit(factories.move(services, positions[5], FUND))
    assert answer.row.position.version == 2


async def test_a_client_that_goes_away_changes_nothing(
    services: Services, place: Place, gathered: Gathering, owner: asyncpg.Connection
) -> None:
    commands = [await factories.opening(services, place.asset) for _ in range(3)]
    async with gathered(commands) as tasks:
        tasks[1].cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[1].cancelled()
    ids = {row["id"] for row in await owner.fetch("SELECT id FROM positions")}
    assert {command.position_id for command in commands} <= ids


async def test_the_time_of_recording_never_runs_backwards_even_when_the_clock_does(
    services: Services, place: Place, owner: asyncpg.Connection, ledger: Ledger
) -> None:
    await owner.execute("UPDATE ledger_head SET recorded_at = now() + interval '1 hour'")
    ahead = await owner.fetchval("SELECT recorded_at FROM ledger_head")
    await factories.position(services, place.asset, state=State.FUNDED)
    assert [event.recorded_at for event in await ledger()] == [ahead, ahead]


async def test_a_command_on_a_position_that_is_not_there_is_refused_and_takes_nothing_down(
    services: Services, place: Place, elsewhere: Place, gathered: Gathering, owner: asyncpg.Connection
) -> None:
    mine, theirs = [await factories.position(services, where.asset) for where in (place, elsewhere)]
    ghost = replace(mine, id=services.ids.new("pos"))
    foreign = replace(theirs, institution_id=place.institution.id)
    commands = [factories.move(services, position, FUND) for position in (ghost, mine, foreign)]
    # A neighbour of the other institution in the same batch puts the foreign row within the batch's scope.
    commands.append(factories.move(services, theirs, release("1.00")))
    async with gathered(commands) as tasks:
        pass
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [_told(result) for result in results] == [
        ErrorCode.NOT_FOUND,
        State.FUNDED,
        ErrorCode.NOT_FOUND,
        ErrorCode.TRANSITION_NOT_ALLOWED,
    ]
    assert await owner.fetchval("SELECT version FROM positions WHERE id = $1", theirs.id) == 1


class TestWithASmallQueue:
    """Bounds and fairness."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"writer_queue_max": 6, "batch_size_max": 2})

    async def test_a_full_queue_refuses_at_once_and_writes_nothing(
        self, services: Services, place: Place, gathered: Gathering, owner: asyncpg.Connection
    ) -> None:
        commands = [await factories.opening(services, place.asset) for _ in range(6)]
        late = await factories.opening(services, place.asset)
        async with gathered(commands) as tasks:
            with pytest.raises(Overloaded, match="nothing was done"):
                await services.writer.submit(late)
        await asyncio.gather(*tasks)
        assert await owner.fetchval("SELECT count(*) FROM positions") == 7
        await services.writer.submit(late)

    async def test_an_institution_that_fills_the_queue_leaves_others_their_share(
        self, services: Services, place: Place, elsewhere: Place, gathered: Gathering
    ) -> None:
        flood = [await factories.opening(services, place.asset) for _ in range(6)]
        others = [await factories.opening(services, elsewhere.asset) for _ in range(4)]
        async with gathered(flood) as tasks:
            tasks += [asyncio.create_task(services.writer.submit(command)) for command in others[:3]]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await services.writer.submit(others[3])
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, Answer) for result in results)

    async def test_a_flood_of_one_institution_delays_another_by_about_one_batch(
        self, services: Services, place: Place, elsewhere: Place, gathered: Gathering
    ) -> None:
        flood = [await factories.opening(services, place.asset) for _ in range(6)]
        one = await factories.opening(services, elsewhere.asset)
        async with gathered(flood) as tasks:
            before = services.writer.batches
            mine = asyncio.create_task(services.writer.submit(one))
            await asyncio.sleep(0)
        await mine
        # The batch that was under way, and the first one after it.
        assert services.writer.batches - before <= 2
        await asyncio.gather(*tasks)

    async def test_a_list_larger_than_a_batch_comes_alone(
        self, services: Services, place: Place, head_held: HeadHeld
    ) -> None:
        commands = [await factories.opening(services, place.asset) for _ in range(5)]
        before = services.writer.batches
        answers = await services.writer.submit_all(commands)
        assert services.writer.batches - before == 1
        assert [answer.event.sequence for answer in answers] == [1, 2, 3, 4, 5]


async def test_shutting_down_finishes_what_was_accepted_and_refuses_what_comes_later(
    services: Services, place: Place, gathered: Gathering, owner: asyncpg.Connection
) -> None:
    commands = [await factories.opening(services, place.asset) for _ in range(50)]
    late = await factories.opening(services, place.asset)
    async with gathered(commands) as tasks:
        closing = asyncio.create_task(services.writer.close())
        await asyncio.sleep(0.02)
        with pytest.raises(Overloaded, match="shutting down; nothing was done"):
            await services.writer.submit(late)
        assert not closing.done()
    answers = await asyncio.gather(*tasks)
    await closing
    assert len({answer.event.id for answer in answers}) == 50
    assert await owner.fetchval("SELECT count(*) FROM positions") == 51


async def test_events_of_a_batch_share_one_time_and_follow_their_order(
    services: Services, place: Place, elsewhere: Place, gathered: Gathering, ledger: Ledger
) -> None:
    where = [place, elsewhere, place, elsewhere, place]
    async with gathered([await factories.opening(services, at.asset) for at in where]) as tasks:
        pass
    answers: list[Event] = [(await task).event for task in tasks]
    assert len({event.recorded_at for event in answers}) == 1
    # Round-robin by institution: one of each, then one of each.
    assert sorted(answers, key=lambda event: event.global_sequence) == (await ledger())[1:]
    await taken(services.writer)


async def test_a_writer_that_stops_tells_who_waits_and_takes_nothing_more(
    parts: Parts,
    place: Place,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    services = parts.services
    commands = [await factories.opening(services, place.asset) for _ in range(3)]

    async def breaks(*_args: object, **_options: object) -> None:
        await asyncio.sleep(0.05)
        raise asyncio.CancelledError

    monkeypatch.setattr(services.writer, "_attempt", breaks)
    taken = asyncio.ensure_future(services.writer.submit(commands[0]))
    await asyncio.sleep(0.02)
    waiting = asyncio.ensure_future(services.writer.submit(commands[1]))
    with pytest.raises(Unavailable, match="not known yet"):
        await asyncio.wait_for(taken, timeout=3)
    with pytest.raises(Unavailable, match="nothing was done"):
        await asyncio.wait_for(waiting, timeout=3)
    with pytest.raises(Unavailable, match="needs its operator"):
        await asyncio.wait_for(services.writer.submit(commands[2]), timeout=3)
    assert "ledger-writer has stopped by itself: what it waited for was cancelled" in caplog.text
    assert not (await parts.ready())["writer"]
    assert not await ledger()
