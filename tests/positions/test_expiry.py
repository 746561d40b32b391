"""Deadlines: the clerk expires what is due, once, and nobody moves a position after its time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from app.context import Services
from app.engine.masking import Schema
from app.errors import ErrorCode, Refusal
from app.ledger.writer import Answer
from app.ledger.writer.batch import LOCK_NAMES, _lock_number
from app.main import Parts, assemble
from app.positions.lifecycle import Intent
from app.positions.model import Position, State
from app.principal import CLERK, root
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.conftest import eventually
from tests.factories import FUND, release
from tests.positions.conftest import Desk, Now, made_desk


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The clerk works when it is told to."""
    return settings.model_copy(update={"expiry_tick_seconds": 3600.0, "lease_seconds": 1.1})


Started = Callable[..., Any]


@pytest.fixture
async def parts(settings: Settings, address: Address, now: Now) -> AsyncIterator[Parts]:
    made = assemble(settings, address, clock=now)
    async with made.running():
        yield made


@pytest.fixture
async def second(settings: Settings, address: Address, now: Now, parts: Parts) -> AsyncIterator[Parts]:
    made = assemble(settings, address, clock=now)
    async with made.running():
        yield made


@pytest.fixture
async def desk(services: Services, built_schema: Schema, owner: asyncpg.Connection) -> Desk:
    return await made_desk(services, built_schema, owner)


async def expired(owner: asyncpg.Connection) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await owner.fetch(
        "SELECT position_id, actor_id, effect, amount_moved, evidence FROM ledger_events "
        "WHERE new_state = 'EXPIRED' ORDER BY global_sequence"
    )
    return rows


async def test_the_clerk_expires_what_is_due_and_nothing_else(
    desk: Desk, parts: Parts, now: Now, owner: asyncpg.Connection
) -> None:
    due = [
        await desk.position(state=state, expires_at=now.ahead(60)) for state in (State.CREATED, State.FUNDED)
    ]
    part = await desk.position(state=State.PARTIALLY_RELEASED, expires_at=now.ahead(60))
    for state in (State.RELEASED, State.CANCELLED, State.EXPIRED):
        await desk.position(state=state, expires_at=now.ahead(60))
    for expires_at in (None, now.ahead(61)):
        await desk.position(state=State.FUNDED, expires_at=expires_at)
    by_hand = len(await expired(owner))

    now.advance(59.999999)
    assert await parts.clerk.settle_due() == 0
    now.advance(0.000001)
    assert await parts.clerk.settle_due() == 3
    assert await parts.clerk.settle_due() == 0

    events = (await expired(owner))[by_hand:]
    assert {row["position_id"] for row in events} == {due[0].id, due[1].id, part.id}
    assert {row["actor_id"] for row in events} == {CLERK.id}
    moved = {row["position_id"]: (row["effect"], row["amount_moved"]) for row in events}
    assert moved == {
        due[0].id: ("NONE", 0),
        due[1].id: ("REFUND", Decimal(100)),
        part.id: ("REFUND", Decimal(99)),
    }
    assert all('"deadlinePassed": true' in row["evidence"] for row in events)


async def test_two_clerks_at_once_expire_each_position_once(
    desk: Desk, parts: Parts, second: Parts, now: Now, owner: asyncpg.Connection
) -> None:
    positions = [await desk.position(state=State.FUNDED, expires_at=now.ahead(60)) for _ in range(60)]
    now.advance(60)
    await asyncio.gather(*(made.clerk.settle_due() for made in (parts, second) for _ in range(3)))
    events = await expired(owner)
    assert sorted(row["position_id"] for row in events) == sorted(position.id for position in positions)


class TestRunningClerks:
    """The clerks of two servers, working by themselves."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"expiry_tick_seconds": 0.02})

    async def test_everything_due_expires_once_also_when_the_leader_goes(
        self, desk: Desk, parts: Parts, second: Parts, now: Now, owner: asyncpg.Connection
    ) -> None:
        async def all_expired(count: int) -> bool:
            return len(await expired(owner)) == count

        first = [await desk.position(state=State.FUNDED, expires_at=now.ahead(60)) for _ in range(20)]
        now.advance(60)
        await eventually(lambda: all_expired(20), seconds=5)
        holder = await owner.fetchval("SELECT holder FROM leases WHERE name = 'expiry'")
        leader = next(made for made in (parts, second) if made.clerk._name == holder)
        await leader.clerk.close()
        other = second if leader is parts else parts
        later = [
            await factories.position(
                other.services, desk.place.asset, state=State.FUNDED, expires_at=now.ahead(60)
            )
            for _ in range(20)
        ]
        now.advance(60)
        await eventually(lambda: all_expired(40), seconds=5)
        ids = [row["position_id"] for row in await expired(owner)]
        assert sorted(ids) == sorted(position.id for position in (*first, *later))
        assert await owner.fetchval("SELECT token FROM leases WHERE name = 'expiry'") == 2

    async def test_a_position_that_somebody_holds_is_met_again(
        self, desk: Desk, parts: Parts, now: Now, owner: asyncpg.Connection
    ) -> None:
        held, free = [await desk.position(state=State.FUNDED, expires_at=now.ahead(60)) for _ in range(2)]
        async with owner.transaction():
            await owner.execute("SELECT FROM positions WHERE id = $1 FOR UPDATE", held.id)
            now.advance(60)

            async def one() -> bool:
                return len(await expired(owner)) == 1

            await eventually(one, seconds=3)
            assert [row["position_id"] for row in await expired(owner)] == [free.id]

        async def both() -> bool:
            return len(await expired(owner)) == 2

        await eventually(both, seconds=5)

    async def test_others_expire_at_once_while_somebody_holds_one(
        self, desk: Desk, parts: Parts, now: Now, owner: asyncpg.Connection, owner_url: str
    ) -> None:
        held = await desk.position(state=State.FUNDED, expires_at=now.ahead(60))
        other = await asyncpg.connect(owner_url)
        async with other.transaction():
            await other.execute("SELECT FROM positions WHERE id = $1 FOR UPDATE", held.id)
            now.advance(60)
            await asyncio.sleep(0.2)
            for count in range(1, 4):
                position = await desk.position(state=State.FUNDED, expires_at=now.ahead(60))
                now.advance(60)

                async def gone(position: Position = position) -> bool:
                    return position.id in {row["position_id"] for row in await expired(owner)}

                began = asyncio.get_running_loop().time()
                await eventually(gone, seconds=10)
                assert asyncio.get_running_loop().time() - began < 1, count
        await other.close()


async def test_nobody_can_use_up_the_clerks_key_before_it(
    desk: Desk, parts: Parts, now: Now, owner: asyncpg.Connection
) -> None:
    position = await desk.position(expires_at=now.ahead(60))
    mine = {"idempotencyKey": f"expiry:{position.id}"}
    await desk.accepted("fundPosition", root(), id=position.id, **mine)
    other = await desk.position(expires_at=now.ahead(60))
    await desk.accepted("fundPosition", id=other.id, idempotencyKey=f"expiry:{other.id}")
    now.advance(60)
    assert await parts.clerk.settle_due() == 2
    assert {row["position_id"] for row in await expired(owner)} == {position.id, other.id}


async def test_positions_that_cannot_expire_keep_no_other_from_it(
    desk: Desk, parts: Parts, now: Now, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.positions.worker.DUE_MAX", 3)
    stuck = [await desk.position(expires_at=now.ahead(50)) for _ in range(7)]
    # Nothing leads away from there.
    await owner.execute(
        "UPDATE positions SET stage = 'NOWHERE' WHERE id = ANY($1)", [position.id for position in stuck]
    )
    free = [await desk.position(expires_at=now.ahead(60)) for _ in range(4)]
    now.advance(60)
    assert await parts.clerk.settle_due() == 11
    assert {row["position_id"] for row in await expired(owner)} == {position.id for position in free}
    later = await desk.position(expires_at=now.ahead(60))
    now.advance(60)
    assert await parts.clerk.settle_due() == 1, "those that were refused rest"
    assert later.id in {row["position_id"] for row in await expired(owner)}
    monkeypatch.setattr("app.positions.worker.REST_SECONDS", 0.0)
    parts.clerk._resting.clear()
    assert await parts.clerk.settle_due() == 7, "and are met again"


LATE: list[tuple[State, str, dict[str, Any]]] = [
    (State.CREATED, "fundPosition", {}),
    (State.CREATED, "cancelPosition", {}),
    (State.FUNDED, "releasePosition", {}),
    (State.FUNDED, "releasePosition", {"amount": "1.00"}),
    (State.FUNDED, "cancelPosition", {}),
    (State.PARTIALLY_RELEASED, "releasePosition", {}),
    (State.PARTIALLY_RELEASED, "transitionPosition", {"toState": "CANCELLED"}),
]


@pytest.mark.parametrize(("state", "mutation", "given"), LATE, ids=str)
async def test_after_the_deadline_nothing_but_expiry_is_accepted_even_before_the_clerk_comes(
    desk: Desk, now: Now, state: State, mutation: str, given: dict[str, Any]
) -> None:
    position = await desk.position(state=state, expires_at=now.ahead(60))
    now.advance(60)
    error = await desk.refused(mutation, id=position.id, **given)
    assert error["code"] == "POSITION_EXPIRED"
    assert "its deadline passed at" in error["message"]
    payload = await desk.accepted("expirePosition", id=position.id)
    assert payload["position"]["state"] == "EXPIRED"
    assert payload["event"]["evidence"]["deadlinePassed"] is True


async def test_a_deadline_that_passes_while_a_command_waits_for_its_locks_has_passed(
    desk: Desk, now: Now, owner: asyncpg.Connection, owner_url: str
) -> None:
    position = await desk.position(state=State.FUNDED, expires_at=now.ahead(60))
    opening = await factories.opening(desk.services, desk.place.asset, idempotency_key="held")
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

    async def waits() -> bool:
        return bool(await owner.fetchval(waiting))

    other = await asyncpg.connect(owner_url)
    async with other.transaction():
        await other.execute(LOCK_NAMES, sorted(map(_lock_number, opening.names())))
        both = [
            asyncio.create_task(desk.services.writer.submit(command))
            for command in (opening, factories.move(desk.services, position, release("1.00")))
        ]
        await eventually(waits, seconds=5)
        now.advance(60)
    await other.close()
    opened, released = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(opened, Answer), opened
    assert isinstance(released, Refusal), released
    assert released.code == ErrorCode.POSITION_EXPIRED
    assert await owner.fetchval("SELECT version FROM positions WHERE id = $1", position.id) == 2


async def test_until_the_deadline_everything_is_accepted(desk: Desk, now: Now) -> None:
    position = await desk.position(expires_at=now.ahead(60))
    now.advance(59.999999)
    for mutation, given in (
        ("fundPosition", {}),
        ("releasePosition", {"amount": "1.00"}),
        ("cancelPosition", {}),
    ):
        await desk.accepted(mutation, id=position.id, **given)


async def test_the_clock_of_the_server_judges_and_not_the_time_a_client_gives(desk: Desk, now: Now) -> None:
    """A release that is back-dated to before the deadline is late all the same."""
    position = await desk.position(state=State.FUNDED, expires_at=now.ahead(60))
    early = now.moment.isoformat()
    now.advance(61)
    error = await desk.refused("releasePosition", id=position.id, occurredAt=early)
    assert error["code"] == "POSITION_EXPIRED"


@pytest.mark.parametrize("winner", ["release", "expiry"])
async def test_of_a_release_and_an_expiry_the_first_wins_and_the_other_changes_nothing(
    desk: Desk, parts: Parts, now: Now, winner: str, owner: asyncpg.Connection
) -> None:
    position = await desk.position(state=State.FUNDED, expires_at=now.ahead(60))
    if winner == "release":
        await desk.accepted("releasePosition", id=position.id)
        now.advance(60)
        assert await parts.clerk.settle_due() == 0
        assert await expired(owner) == []
    else:
        now.advance(60)
        assert await parts.clerk.settle_due() == 1
        error = await desk.refused("releasePosition", id=position.id)
        assert error["code"] == "TRANSITION_NOT_ALLOWED"
    versions = await owner.fetchval("SELECT max(version) FROM positions")
    assert versions == 3


async def test_releases_and_the_clerk_at_once_leave_one_history(
    desk: Desk, parts: Parts, second: Parts, now: Now, owner: asyncpg.Connection
) -> None:
    positions = [await desk.position(state=State.FUNDED, expires_at=now.ahead(60)) for _ in range(30)]

    async def move(server: Services, position: Position) -> Answer | None:
        try:
            return await server.writer.submit(factories.move(server, position, release("50.00")))
        except Refusal as refusal:
            if refusal.code not in (ErrorCode.POSITION_EXPIRED, ErrorCode.TRANSITION_NOT_ALLOWED):
                raise
            return None

    async def pass_time() -> None:
        await asyncio.sleep(0.004)
        now.advance(60)
        await parts.clerk.settle_due()

    await asyncio.gather(
        *(move(server, position) for position in positions for server in (parts.services, second.services)),
        pass_time(),
        second.clerk.settle_due(),
    )
    await parts.clerk.settle_due()
    rows = await owner.fetch("SELECT state, funded, released, refunded, held, version FROM positions")
    assert all(row["held"] == 0 and row["funded"] == row["released"] + row["refunded"] for row in rows)
    assert all(row["state"] in ("EXPIRED", "RELEASED") for row in rows)
    assert len(await expired(owner)) == sum(row["state"] == "EXPIRED" for row in rows)


async def test_a_position_without_a_deadline_can_be_expired_by_hand_only(
    desk: Desk, parts: Parts, now: Now
) -> None:
    position = await desk.position(state=State.FUNDED)
    now.advance(10**8)
    assert await parts.clerk.settle_due() == 0
    payload = await desk.accepted("expirePosition", id=position.id)
    assert payload["event"]["evidence"] == {"deadline": None, "deadlinePassed": False}


async def test_a_timer_that_is_early_is_refused(desk: Desk, now: Now) -> None:
    position = await desk.position(expires_at=now.ahead(60))
    early = factories.move(desk.services, position, Intent(state=State.EXPIRED, by_timer=True), by=CLERK)
    with pytest.raises(Refusal, match="has not passed yet"):
        await desk.services.writer.submit(early)
    await desk.services.writer.submit(factories.move(desk.services, position, FUND))


async def test_a_deadline_that_has_passed_cannot_be_given(desk: Desk, now: Now) -> None:
    for expires_at in (now.moment, now.ahead(-1), datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)):
        error = await desk.refused("createPosition", **desk.terms(expiresAt=expires_at.isoformat()))
        assert (error["code"], error["field"]) == ("VALIDATION_FAILED", "expiresAt")
    payload = await desk.accepted("createPosition", **desk.terms(expiresAt=now.ahead(0.000001).isoformat()))
    assert payload["position"]["expiresAt"] == now.ahead(0.000001).isoformat().replace("+00:00", "Z")
