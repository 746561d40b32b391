"""Webhooks look after themselves: what is old goes, what fails for days is disabled, keys can be turned over."""

import asyncio
from functools import partial

import asyncpg
import pytest
from click import ClickException
from pydantic import SecretStr

from app import operate
from app.context import Services
from app.main import Parts, assemble
from app.positions.model import State
from app.settings import Settings, StoreBackend
from app.storage.database import Address
from app.webhooks import courier
from app.webhooks.model import FAILING_MAX
from tests import factories
from tests.conftest import Run, eventually
from tests.webhooks.conftest import KEY, Endpoint, MovableClock, Rows, fine, moments
from tests.webhooks.receiver import Message, Receiver, Reply, verified

SEEN = "query ($id: ID!) { webhookEndpoint(id: $id) { enabled disabledReason } }"
ENABLE = (
    "mutation ($i: UpdateWebhookEndpointInput!) { updateWebhookEndpoint(input: $i) { userErrors { code } } }"
)
SINCE = "SELECT failing_since FROM webhook_endpoints WHERE id = $1"
NEW_KEY = "a7" * 32


async def refusing(_message: Message) -> Reply:
    return Reply(500)


async def accepting(_message: Message) -> Reply:
    return Reply(200)


async def test_an_endpoint_at_which_every_attempt_fails_for_days_is_disabled_and_says_so(
    services: Services,
    run: Run,
    receiver: Receiver,
    endpoint: Endpoint,
    settled,
    clock: MovableClock,
    owner: asyncpg.Connection,
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    receiver.answer = refusing
    await factories.position(services, place.asset)

    async def attempts(count: int) -> bool:
        return bool(
            await owner.fetchval("SELECT coalesce(max(attempts), 0) FROM webhook_deliveries") >= count
        )

    await eventually(lambda: attempts(1))
    since = await owner.fetchval(SINCE, made.id)
    assert since is not None
    # Not yet: a minute is missing.
    clock.move(seconds=(since + FAILING_MAX - clock()).total_seconds() - 60)
    await eventually(lambda: attempts(2))
    await moments()
    assert fine(await run(SEEN, {"id": made.id}, principal=place.admin))["webhookEndpoint"]["enabled"]
    await factories.position(services, place.asset)
    clock.move(days=1)
    await settled(2, "CANCELLED")
    seen = fine(await run(SEEN, {"id": made.id}, principal=place.admin))["webhookEndpoint"]
    assert (seen["enabled"], seen["disabledReason"]) == (False, "FAILING")
    audited = await owner.fetchrow(
        "SELECT actor_id, resource_id, payload::jsonb->>'reason' AS reason FROM audit_events "
        "WHERE action = 'WEBHOOK_ENDPOINT_DISABLED'"
    )
    assert tuple(audited) == ("webhooks", made.id, "FAILING")

    receiver.answer = accepting
    fine(await run(ENABLE, {"i": {"id": made.id, "enabled": True}}, principal=place.admin))
    assert await owner.fetchval(SINCE, made.id) is None
    await factories.position(services, place.asset)
    await settled(1)


async def test_one_success_begins_the_days_anew(
    services: Services,
    receiver: Receiver,
    endpoint: Endpoint,
    settled,
    clock: MovableClock,
    owner: asyncpg.Connection,
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    receiver.answer = refusing
    await factories.position(services, place.asset)

    async def failing() -> bool:
        return await owner.fetchval(SINCE, made.id) is not None

    await eventually(failing)
    receiver.answer = accepting
    clock.move(days=4)
    await settled(1)
    assert await owner.fetchval(SINCE, made.id) is None
    receiver.answer = refusing
    clock.move(days=4)
    await factories.position(services, place.asset)
    await eventually(failing)
    await moments()
    assert await owner.fetchval("SELECT enabled FROM webhook_endpoints")


async def test_a_secret_that_does_not_open_is_not_the_endpoints_failure(
    services: Services, receiver: Receiver, endpoint: Endpoint, deliveries: Rows, owner: asyncpg.Connection
) -> None:
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    await owner.execute("UPDATE webhook_secrets SET sealed = decode(repeat('00', 60), 'hex')")
    await factories.position(services, place.asset)

    async def tried() -> bool:
        return any(row["attempts"] for row in await deliveries())

    await eventually(tried)
    assert await owner.fetchval(SINCE, made.id) is None


async def test_deliveries_settled_long_ago_go_and_others_stay(
    services: Services,
    run: Run,
    receiver: Receiver,
    endpoint: Endpoint,
    settled,
    deliveries: Rows,
    clock: MovableClock,
    owner: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(courier, "FORGET_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(courier, "FORGOTTEN_AT_ONCE_MAX", 2)
    places = [await factories.place(services, name=name) for name in ("One", "Two")]
    for place in places:
        await endpoint(place, receiver.url)
        await factories.position(services, place.asset, state=State.RELEASED)
    await settled(6)
    days = services.settings.webhook_delivery_days
    clock.move(days=days - 1)
    await moments()
    assert len(await deliveries()) == 6
    receiver.answer = refusing
    pending = await factories.position(services, places[0].asset)
    await settled(1, "PENDING")
    await owner.execute("UPDATE webhook_deliveries SET updated_at = 'epoch' WHERE state = 'PENDING'")
    # Without the receiver, so that it stays pending; the endpoint holds out.
    clock.move(days=1.5)

    async def gone() -> bool:
        return len(await deliveries()) == 1

    await eventually(gone)
    (left,) = await deliveries()
    assert (left["position_id"], left["state"]) == (pending.id, "PENDING")
    await moments()
    assert len(await deliveries()) == 1


async def test_secrets_are_sealed_anew_after_the_key_was_turned_over(
    settings: Settings, address: Address, owner: asyncpg.Connection, clock: MovableClock, receiver: Receiver
) -> None:
    stored = {"store_backend": StoreBackend.POSTGRES, "database_url": SecretStr(address.url)}
    turned = settings.model_copy(
        update=stored | {"webhook_key": SecretStr(NEW_KEY), "webhook_key_former": SecretStr(KEY)}
    )
    alone = turned.model_copy(update={"webhook_key_former": None})
    first = assemble(settings, address, clock=clock)
    async with first.running():
        place = await factories.place(first.services)
        made = await _made(first, place, receiver.url)
    with pytest.raises(ClickException, match="1 open with no key"):
        await asyncio.to_thread(partial(operate.reseal_webhooks, alone))
    both = assemble(turned, address, clock=clock)
    async with both.running():
        await factories.position(both.services, place.asset)
        await _arrived(receiver, 1)
    await asyncio.to_thread(partial(operate.reseal_webhooks, turned))
    await asyncio.to_thread(partial(operate.reseal_webhooks, turned))
    last = assemble(alone, address, clock=clock)
    async with last.running():
        await factories.position(last.services, place.asset)
        await _arrived(receiver, 2)
    assert all(verified(message, made, now=clock().timestamp()) for message in receiver.messages)


async def _made(parts: Parts, place: factories.Place, url: str) -> str:
    from app.webhooks import service
    from app.webhooks.model import EndpointDraft

    services = parts.services
    async with factories.working(services, place.institution.id, place.admin) as work:
        told = await service.create_endpoint(
            work,
            place.institution.id,
            EndpointDraft(url),
            vault=services.vault,
            epochs=services.tail.epochs,
            private=True,
        )
    return told.secret


async def _arrived(receiver: Receiver, count: int) -> None:
    async def there() -> bool:
        return len(receiver.messages) >= count

    await eventually(there)
