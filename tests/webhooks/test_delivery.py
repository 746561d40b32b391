"""Events reach their endpoints: signed, at least once, each position's in order, whatever receivers and servers do."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence

import asyncpg
import httpx
import pytest

from app.context import Services
from app.fittings import webhooks as follower_of
from app.ledger.followers import Runner
from app.main import Parts
from app.positions.model import State
from app.webhooks import courier
from app.webhooks.model import JITTER, SCHEDULE
from app.webhooks.sending import Sender
from app.webhooks.worker import Webhooks
from tests import factories
from tests.conftest import Run, eventually
from tests.webhooks.conftest import Endpoint, MovableClock, Rows, fine, moments
from tests.webhooks.receiver import Message, Receiver, Reply, receiving, verified

PRIVATE = "HOLDER-OF-A-SECRET"


def in_order(messages: Sequence[Message]) -> bool:
    """Whether the first arrivals of each position's events are in the order of its versions."""
    seen: set[str] = set()
    versions: dict[str, list[int]] = defaultdict(list)
    for message in messages:
        if message.id not in seen:
            seen.add(message.id)
            versions[message.data["positionId"]].append(message.data["positionVersion"])
    return all(found == sorted(found) for found in versions.values())


async def test_every_event_arrives_signed_as_the_standard_says(
    services: Services,
    receiver: Receiver,
    endpoint: Endpoint,
    settled,
    clock: MovableClock,
    owner: asyncpg.Connection,
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    position = await factories.position(
        services, place.asset, "1250.50", state=State.PARTIALLY_RELEASED, holder_reference=PRIVATE, reason=PRIVATE,
        metadata={"name": PRIVATE}, external_reference="INV-1",
    )  # fmt: skip
    await settled(3)
    events = await owner.fetch("SELECT * FROM ledger_events ORDER BY sequence")
    assert receiver.ids == [f"{event['id']}-{made.id}" for event in events]
    for message, event in zip(receiver.messages, events, strict=True):
        assert verified(message, made.secret, now=clock().timestamp())
        assert PRIVATE not in message.body.decode() + str(message.headers)
        assert "globalSequence" not in message.data
        assert message.headers["content-type"] == "application/json"
        assert message.data["id"] == event["id"]
        assert message.data["hash"] == event["hash"].hex()
    created, funded, released = (message.content for message in receiver.messages)
    assert created["type"] == "position.created"
    assert created["data"]["data"] == {
        "amount": "1250.50", "assetId": place.asset.id, "expiresAt": None, "externalReference": "INV-1",
    }  # fmt: skip
    assert funded["type"] == released["type"] == "position.state_changed"
    assert released["data"]["balancesAfter"] == {
        "funded": "1250.50", "released": "1.00", "refunded": "0.00", "held": "1249.50",
    }  # fmt: skip
    assert (released["data"]["previousState"], released["data"]["newState"]) == (
        "FUNDED",
        "PARTIALLY_RELEASED",
    )
    assert released["data"]["positionId"] == position.id
    assert released["timestamp"].endswith("Z")
    assert released["data"]["cursor"] == services.tail.epochs.cursor(place.institution.id, 3)


async def test_only_what_is_wanted_is_sent_and_nothing_from_before(
    services: Services, receiver: Receiver, endpoint: Endpoint, settled, deliveries: Rows
) -> None:
    place, other = await factories.place(services), await factories.place(services, name="Other")
    await factories.position(services, place.asset, state=State.RELEASED)
    all_of_it = await endpoint(place, receiver.url + "/all")
    created = await endpoint(place, receiver.url + "/created", kinds=["POSITION_CREATED"])
    released = await endpoint(place, receiver.url + "/released", states=["RELEASED"])
    await endpoint(place, receiver.url + "/off", enabled=False)
    await factories.position(services, place.asset, state=State.RELEASED)
    await factories.position(services, other.asset, state=State.RELEASED)
    await settled(5)
    await moments()
    counts = {one.id: len(await deliveries(one.id)) for one in (all_of_it, created, released)}
    assert counts == {all_of_it.id: 3, created.id: 1, released.id: 1}
    assert len(receiver.messages) == 5
    assert {message.data["institutionId"] for message in receiver.messages} == {place.institution.id}
    states = {
        message.path: message.data["newState"] for message in receiver.messages if "all" not in message.path
    }
    assert states == {"/hook/created": "CREATED", "/hook/released": "RELEASED"}


async def test_a_receiver_down_for_a_day_gets_everything_in_order_under_the_same_ids(
    services: Services,
    endpoint: Endpoint,
    settled,
    deliveries: Rows,
    clock: MovableClock,
    unused_tcp_port: int,
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, f"http://127.0.0.1:{unused_tcp_port}/hook")
    positions = [await factories.position(services, place.asset, state=State.FUNDED) for _ in range(5)]

    for hour in range(24):
        # Meanwhile life goes on; the first attempts of a waiting event must not overtake those before it.
        if hour == 12:
            positions.append(await factories.position(services, place.asset, state=State.RELEASED))
            for position in positions[:2]:
                await services.writer.submit(factories.move(services, position, factories.release()))
        clock.move(hours=1)
        await moments()
    rows = await deliveries()
    assert len(rows) == 15
    assert {row["state"] for row in rows} == {"PENDING"}
    ready = [row for row in rows if row["next_attempt_at"] is not None]
    assert sorted(row["position_id"] for row in ready) == sorted(position.id for position in positions)
    assert max(row["attempts"] for row in rows) >= 7, "5 s, 5 min, 30 min, 2 h, 5 h and 10 h have passed"
    assert all(row["last_error"].startswith("ConnectError") for row in ready)
    assert all(row["attempts"] == 0 for row in rows if row not in ready)

    async with receiving(port=unused_tcp_port) as receiver:
        clock.move(hours=24)
        await settled(15)
        assert len(receiver.messages) == 15, "each is delivered once"
        assert in_order(receiver.messages)
        rows = await deliveries()
        assert set(receiver.ids) == {f"{row['event_id']}-{made.id}" for row in rows}
        assert all(verified(message, made.secret, now=clock().timestamp()) for message in receiver.messages)


async def test_ids_are_the_same_at_every_attempt_and_times_are_not(
    services: Services, receiver: Receiver, endpoint: Endpoint, settled, deliveries: Rows, clock: MovableClock
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    failures = itertools.count()

    async def late(_message: Message) -> Reply:
        return Reply(500 if next(failures) < 4 else 200)

    receiver.answer = late
    await factories.position(services, place.asset)
    for number in range(1, 5):
        await eventually(lambda number=number: _noted(deliveries, number))
        clock.move(hours=3)
    await settled(1)
    assert len(set(receiver.ids)) == 1
    assert len({message.body for message in receiver.messages}) == 1
    assert len({message.headers["webhook-timestamp"] for message in receiver.messages}) == 5
    assert all(verified(message, made.secret) for message in receiver.messages)


async def _noted(deliveries: Rows, attempts: int) -> bool:
    """When the next one is due is known once this one is noted, by the clock of then."""
    return any(row["attempts"] >= attempts for row in await deliveries())


async def test_after_the_whole_schedule_it_has_failed_and_what_waited_goes_on(
    services: Services, receiver: Receiver, endpoint: Endpoint, settled, deliveries: Rows, clock: MovableClock
) -> None:
    place = await factories.place(services)
    await endpoint(place, receiver.url)

    async def not_the_first(message: Message) -> Reply:
        return Reply(503 if message.data["positionVersion"] == 1 else 200, {}, b"come back later")

    receiver.answer = not_the_first
    await factories.position(services, place.asset, state=State.FUNDED)
    for number in range(1, 11):
        await eventually(lambda number=number: _noted(deliveries, number))
        clock.move(seconds=SCHEDULE[number % 10].total_seconds() * (1 + JITTER))
    await settled(1, "FAILED")
    await settled(1, "DELIVERED")
    first, second = await deliveries()
    assert (first["state"], first["attempts"], first["last_status"]) == ("FAILED", 10, 503)
    assert first["last_response"] == "come back later"
    assert (second["state"], second["attempts"]) == ("DELIVERED", 1)
    assert [message.data["positionVersion"] for message in receiver.messages] == [1] * 10 + [2]


async def test_one_that_answers_410_is_disabled_until_somebody_enables_it(
    services: Services, run: Run, receiver: Receiver, endpoint: Endpoint, settled, owner: asyncpg.Connection
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    all_queued = asyncio.Event()

    async def gone(_message: Message) -> Reply:
        await all_queued.wait()
        return Reply(410)

    receiver.answer = gone
    await factories.position(services, place.asset, state=State.RELEASED)
    await settled(3, "PENDING")
    all_queued.set()
    await settled(2, "CANCELLED")
    document = "query ($id: ID!) { webhookEndpoint(id: $id) { enabled disabledReason deliveries { edges { node { state lastStatus attemptCount } } } } }"
    seen = fine(await run(document, {"id": made.id}, principal=place.admin))["webhookEndpoint"]
    assert (seen["enabled"], seen["disabledReason"]) == (False, "GONE")
    states = {(edge["node"]["state"], edge["node"]["lastStatus"]) for edge in seen["deliveries"]["edges"]}
    assert states == {("FAILED", 410), ("CANCELLED", None)}
    await factories.position(services, place.asset)
    await moments()
    assert len(receiver.messages) == 1
    audited = await owner.fetchrow("SELECT * FROM audit_events WHERE action = 'WEBHOOK_ENDPOINT_DISABLED'")
    assert (audited["actor_id"], audited["resource_id"]) == ("webhooks", made.id)


async def test_a_slow_endpoint_delays_no_other(
    services: Services, receiver: Receiver, endpoint: Endpoint, deliveries: Rows
) -> None:
    place = await factories.place(services)

    async def slow(_message: Message) -> Reply:
        await asyncio.sleep(60)
        return Reply()

    async with receiving() as stuck:
        stuck.answer = slow
        for _ in range(10):
            await endpoint(place, stuck.url)
        quick = await endpoint(place, receiver.url)
        started = asyncio.get_running_loop().time()
        for _ in range(10):
            await factories.position(services, place.asset, state=State.RELEASED)

        async def through() -> bool:
            return (
                all(row["state"] == "DELIVERED" for row in await deliveries(quick.id))
                and len(receiver.messages) == 30
            )

        await eventually(through, seconds=8)
        assert asyncio.get_running_loop().time() - started < 8
        assert in_order(receiver.messages)
        assert 0 < stuck.open_most <= 10, "each of them gets one attempt until it has answered"


async def test_positions_go_side_by_side_each_in_its_order(
    services: Services, receiver: Receiver, endpoint: Endpoint, settled
) -> None:
    place = await factories.place(services)
    await endpoint(place, receiver.url)

    async def uneven(message: Message) -> Reply:
        await asyncio.sleep(0.03 * (message.data["sequence"] % 3))
        return Reply()

    receiver.answer = uneven
    await asyncio.gather(
        *(factories.position(services, place.asset, state=State.RELEASED) for _ in range(20))
    )
    await settled(60)
    assert receiver.open_most > 1
    assert len(receiver.messages) == 60
    assert in_order(receiver.messages)


async def test_a_runner_that_is_killed_loses_nothing(
    services: Services, parts: Parts, receiver: Receiver, endpoint: Endpoint, settled, clock: MovableClock
) -> None:
    """No acknowledgement, no giving back: its tasks are gone from one moment to the next, again and again."""
    place = await factories.place(services)
    await endpoint(place, receiver.url)
    for running in parts.followers:
        await running.close()

    async def uneven(message: Message) -> Reply:
        await asyncio.sleep(0.02 * (message.data["sequence"] % 5))
        return Reply()

    receiver.answer = uneven
    opening = asyncio.create_task(_open_many(services, place))
    for number in range(12):
        runner, follower = _process(services, f"process-{number}")
        await runner.start()
        await asyncio.sleep(0.15)
        _kill(runner, follower)
        # Its lease and its claims are left to expire.
        clock.move(minutes=1)
        await asyncio.sleep(0.3 if number % 3 else 1.3)
    await opening
    last, _follower = _process(services, "the last")
    await last.start()
    await settled(90, seconds=40)
    await last.close()
    assert len(set(receiver.ids)) == 90
    assert in_order(receiver.messages)


async def _open_many(services: Services, place: factories.Place) -> None:
    for _ in range(30):
        await factories.position(services, place.asset, state=State.RELEASED)
        await asyncio.sleep(0.05)


def _process(services: Services, name: str) -> tuple[Runner, Webhooks]:
    follower = follower_of(services)
    settings = services.settings.model_copy(update={"lease_seconds": 1.1})
    return Runner(services.database, services.tail, settings, follower, name), follower


def _kill(runner: Runner, follower: Webhooks) -> None:
    courier = follower._courier
    for lane, task in courier._lanes.values():
        # It has nothing to give back: as if the process were gone.
        for attempt in lane._under_way:
            attempt.cancel()
        lane._under_way.clear()
        task.cancel()
    for task in (runner._task, courier._task):
        if task is not None:
            task.cancel()


async def test_two_processes_deliver_once_between_them_and_hand_over(
    services: Services, parts: Parts, receiver: Receiver, endpoint: Endpoint, settled
) -> None:
    place = await factories.place(services)
    await endpoint(place, receiver.url)
    second, _follower = _process(services, "second")
    await second.start()
    await factories.position(services, place.asset, state=State.RELEASED)
    await settled(3)
    for running in parts.followers:
        await running.close()
    await factories.position(services, place.asset, state=State.RELEASED)
    await settled(6)
    await second.close()
    assert len(receiver.messages) == len(set(receiver.ids)) == 6


async def test_a_paused_follower_sends_nothing(
    services: Services, receiver: Receiver, endpoint: Endpoint, run: Run, owner: asyncpg.Connection, settled
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    await owner.execute("UPDATE followers SET paused = true WHERE name = 'webhooks'")
    test = "mutation ($id: ID!) { sendTestWebhook(input: {endpointId: $id}) { delivery { id } } }"
    fine(await run(test, {"id": made.id}, principal=place.admin))
    await moments()
    assert not receiver.messages
    await owner.execute("UPDATE followers SET paused = false WHERE name = 'webhooks'")
    await settled(1)


async def test_following_twice_queues_once(
    services: Services,
    parts: Parts,
    receiver: Receiver,
    endpoint: Endpoint,
    settled,
    owner: asyncpg.Connection,
) -> None:
    place = await factories.place(services)
    await endpoint(place, receiver.url)
    await factories.position(services, place.asset, state=State.RELEASED)
    await settled(3)
    await owner.execute("UPDATE followers SET cursor = 0, token = token WHERE name = 'webhooks'")
    for running in parts.followers:
        await running.close()
    again, _follower = _process(services, "again")
    await again.start()
    await factories.position(services, place.asset, state=State.RELEASED)
    await settled(6)
    await again.close()
    assert len(receiver.messages) == len(set(receiver.ids)) == 6


async def test_a_secret_that_does_not_open_fails_the_attempt_and_says_why(
    services: Services, receiver: Receiver, endpoint: Endpoint, deliveries: Rows, owner: asyncpg.Connection
) -> None:
    place = await factories.place(services)
    await endpoint(place, receiver.url)
    await owner.execute("UPDATE webhook_secrets SET sealed = decode(repeat('00', 60), 'hex')")
    await factories.position(services, place.asset)

    async def told() -> bool:
        return any("WEBHOOK_KEY" in (row["last_error"] or "") for row in await deliveries())

    await eventually(told)
    assert not receiver.messages


async def test_an_endpoint_held_by_somebody_waits_and_others_go_on(
    services: Services,
    receiver: Receiver,
    endpoint: Endpoint,
    settled,
    deliveries: Rows,
    owner: asyncpg.Connection,
) -> None:
    """A mutation that takes its time (a long replay) holds the endpoint's row; outcomes are kept until it is free."""
    place, other = await factories.place(services), await factories.place(services, name="Other")
    held, free = await endpoint(place, receiver.url + "/held"), await endpoint(other, receiver.url + "/free")
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    async def wait(message: Message) -> Reply:
        if "held" in message.path:
            arrived.set()
            await go_on.wait()
        return Reply()

    receiver.answer = wait
    await factories.position(services, place.asset)
    await asyncio.wait_for(arrived.wait(), 10)
    async with owner.transaction():
        await owner.execute("SELECT FROM webhook_endpoints WHERE id = $1 FOR UPDATE", held.id)
        go_on.set()
        await factories.position(services, other.asset, state=State.RELEASED)
        await settled(3)
        assert [row["state"] for row in await deliveries(free.id)] == ["DELIVERED"] * 3
        assert [row["state"] for row in await deliveries(held.id)] == ["PENDING"]
    await settled(4)
    assert len(receiver.messages) == 4, "what was answered is not sent again"


async def test_lost_connections_lose_no_delivery(
    services: Services,
    receiver: Receiver,
    endpoint: Endpoint,
    settled,
    owner: asyncpg.Connection,
    clock: MovableClock,
) -> None:
    place = await factories.place(services)
    await endpoint(place, receiver.url)

    async def uneven(message: Message) -> Reply:
        await asyncio.sleep(0.02 * (message.data["sequence"] % 4))
        return Reply()

    receiver.answer = uneven
    for _ in range(10):
        await factories.position(services, place.asset, state=State.RELEASED)
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.1)
    clock.move(minutes=1)  # claims of transactions whose end nobody knows expire
    await settled(30, seconds=30)
    assert len(set(receiver.ids)) == 30
    assert in_order(receiver.messages)


async def test_many_failing_endpoints_do_not_delay_a_good_one(
    services: Services, receiver: Receiver, deliveries: Rows, endpoint: Endpoint, owner: asyncpg.Connection
) -> None:
    """Three hundred that refuse every connection, each with something due all the time."""
    place = await factories.place(services)
    bad = await endpoint(place, "http://127.0.0.1:1/")
    good = await endpoint(place, receiver.url)
    await owner.execute(
        "INSERT INTO webhook_endpoints (institution_id, id, url, description, enabled, starts_after, created_by, "
        "created_at, updated_at) SELECT institution_id, 'whe_' || lpad(g::text, 26, '0'), url, '', true, 0, 'root', "
        "now(), now() FROM webhook_endpoints, generate_series(1, 300) g WHERE id = $1",
        bad.id,
    )
    await owner.execute(
        "INSERT INTO webhook_secrets (institution_id, id, endpoint_id, sealed, created_at) "
        "SELECT e.institution_id, 'whs_' || substr(e.id, 5), e.id, s.sealed, now() "
        "FROM webhook_endpoints e, webhook_secrets s WHERE e.created_by = 'root' AND s.endpoint_id = $1",
        bad.id,
    )
    for _ in range(3):
        await factories.position(services, place.asset, state=State.FUNDED)
    began = asyncio.get_running_loop().time()
    await factories.position(services, place.asset, state=State.RELEASED)

    async def through() -> bool:
        rows = await deliveries(good.id)
        return len(rows) == 9 and all(row["state"] == "DELIVERED" for row in rows)

    await eventually(through, seconds=20)
    assert asyncio.get_running_loop().time() - began < 20


async def test_a_connection_that_cannot_be_closed_keeps_no_delivery_from_being_given_back(
    services: Services,
    parts: Parts,
    receiver: Receiver,
    endpoint: Endpoint,
    owner: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hangs(*_args: object, **_options: object) -> None:
        await asyncio.Event().wait()

    async def breaks(*_args: object) -> None:
        raise RuntimeError("its transport is gone")

    monkeypatch.setattr(Sender, "post", hangs)
    monkeypatch.setattr(httpx.AsyncClient, "aclose", breaks)
    monkeypatch.setattr(courier, "DRAIN_SECONDS", 0.1)
    place = await factories.place(services)
    await endpoint(place, receiver.url)
    await factories.position(services, place.asset)
    claimed = "SELECT count(*) FROM webhook_deliveries WHERE claimed_until IS NOT NULL"

    async def under_way() -> bool:
        return bool(await owner.fetchval(claimed))

    await eventually(under_way)
    for running in parts.followers:
        await running.close()
    assert await owner.fetchval(claimed) == 0
