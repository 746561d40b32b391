"""An endpoint that changes while deliveries are under way, and leaders that are held up."""

import asyncio
from collections.abc import Mapping, Sequence

import asyncpg
import pytest

from app.context import Services
from app.ledger.model import Event
from app.main import assemble
from app.positions.model import State
from app.settings import Settings
from app.storage.database import Address
from app.webhooks import courier, service
from app.webhooks.post import Post
from tests import factories
from tests.conftest import Run, eventually
from tests.webhooks.conftest import Endpoint, MovableClock, Rows, fine, moments
from tests.webhooks.receiver import Message, Receiver, Reply, receiving

UPDATE = """
mutation ($input: UpdateWebhookEndpointInput!) {
  updateWebhookEndpoint(input: $input) { endpoint { id } userErrors { code message field } }
}
"""
ENABLED = "SELECT enabled FROM webhook_endpoints WHERE id = $1"
SINCE = "SELECT failing_since FROM webhook_endpoints WHERE id = $1"


async def got(receiver: Receiver, count: int, *, seconds: float = 15) -> None:
    async def there() -> bool:
        return len(receiver.messages) >= count

    await eventually(there, seconds=seconds)


async def busy(_message: Message) -> Reply:
    return Reply(503)


async def test_what_disabling_left_pending_is_neither_sent_nor_stuck_when_it_is_enabled(
    services: Services,
    run: Run,
    endpoint: Endpoint,
    receiver: Receiver,
    deliveries: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More was pending than is cancelled at once."""
    monkeypatch.setattr(service, "CANCELLED_AT_ONCE_MAX", 2)
    monkeypatch.setattr(courier, "SWEEP_EVERY_SECONDS", 3600.0)
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    receiver.answer = busy
    await factories.position(services, place.asset, state=State.RELEASED)
    await factories.position(services, place.asset)
    await got(receiver, 2)
    await moments()
    fine(await run(UPDATE, {"input": {"id": made.id, "enabled": False}}, principal=place.admin))
    enable = {"input": {"id": made.id, "enabled": True}}
    (refused,) = (await run(UPDATE, enable, principal=place.admin)).data["updateWebhookEndpoint"][
        "userErrors"
    ]
    assert (refused["code"], refused["field"]) == ("VALIDATION_FAILED", "enabled")
    monkeypatch.setattr(courier, "SWEEP_EVERY_SECONDS", 0.0)

    async def all_cancelled() -> bool:
        return {row["state"] for row in await deliveries()} == {"CANCELLED"}

    await eventually(all_cancelled)
    fine(await run(UPDATE, enable, principal=place.admin))


async def test_a_410_of_the_former_url_does_not_disable_the_new_one(
    services: Services, run: Run, endpoint: Endpoint, receiver: Receiver, owner: asyncpg.Connection, settled
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    go = asyncio.Event()

    async def gone(_message: Message) -> Reply:
        await go.wait()
        return Reply(410)

    receiver.answer = gone
    async with receiving() as new:
        await factories.position(services, place.asset)
        await got(receiver, 1)
        fine(await run(UPDATE, {"input": {"id": made.id, "url": new.url}}, principal=place.admin))
        go.set()
        await settled(1, "FAILED")
        await factories.position(services, place.asset)
        await got(new, 1)
        assert await owner.fetchval(ENABLED, made.id)


async def test_days_of_failures_at_the_former_url_are_not_the_new_ones(
    services: Services,
    run: Run,
    endpoint: Endpoint,
    receiver: Receiver,
    owner: asyncpg.Connection,
    clock: MovableClock,
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    receiver.answer = busy
    await factories.position(services, place.asset)
    await got(receiver, 1)
    await moments()
    await owner.execute("UPDATE webhook_deliveries SET next_attempt_at = '2100-01-01'")
    clock.move(days=6)
    async with receiving() as new:
        new.answer = busy
        fine(await run(UPDATE, {"input": {"id": made.id, "url": new.url}}, principal=place.admin))
        assert await owner.fetchval(SINCE, made.id) is None
        await factories.position(services, place.asset)
        await got(new, 1)
        await moments()
        assert await owner.fetchval(ENABLED, made.id)


async def test_an_endpoint_whose_url_is_no_longer_taken_can_be_disabled_but_not_enabled(
    services: Services, run: Run, endpoint: Endpoint, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    monkeypatch.setitem(services.settings.__dict__, "webhook_allow_private", False)
    fine(await run(UPDATE, {"input": {"id": made.id, "enabled": False}}, principal=place.admin))
    answered = await run(UPDATE, {"input": {"id": made.id, "enabled": True}}, principal=place.admin)
    (refused,) = answered.data["updateWebhookEndpoint"]["userErrors"]
    assert refused["field"] == "url"


async def test_a_leader_held_up_between_claim_and_attempt_leaves_it_to_its_heir(
    services: Services,
    settings: Settings,
    address: Address,
    clock: MovableClock,
    endpoint: Endpoint,
    receiver: Receiver,
    owner: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = await factories.place(services)
    await endpoint(place, receiver.url)
    original, held, go = Post.events, asyncio.Event(), asyncio.Event()
    leaders: list[Post] = []

    async def slow(self: Post, ids: Sequence[str]) -> Mapping[str, Event]:
        leaders.append(self)
        if self is leaders[0]:
            held.set()
            await go.wait()
        return await original(self, ids)

    monkeypatch.setattr(Post, "events", slow)
    await factories.position(services, place.asset, state=State.RELEASED)
    await held.wait()
    clock.move(seconds=31)
    async with assemble(settings, address, clock=clock).running():
        await owner.execute(
            "UPDATE leases SET holder = 'x', expires_at = now() WHERE name = 'follower:webhooks'"
        )
        await got(receiver, 3)
        go.set()
        await moments()
    assert [message.data["sequence"] for message in receiver.messages] == [1, 2, 3]


async def test_lanes_that_wait_for_their_receivers_keep_no_quick_one_from_its_turn(
    services: Services, endpoint: Endpoint, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows of them before that they are slow: they are new, or their leader is."""
    monkeypatch.setattr(courier, "QUICK_LANES_MAX", 2)
    place, other = await factories.place(services), await factories.place(services, name="Other")

    async def never(_message: Message) -> Reply:
        await asyncio.sleep(60)
        return Reply()

    async with receiving() as hung:
        hung.answer = never
        for _ in range(4):
            await endpoint(place, hung.url)
        await endpoint(other, receiver.url)
        await factories.position(services, place.asset)
        await got(hung, 2)
        await factories.position(services, other.asset)
        await got(receiver, 1, seconds=8)
