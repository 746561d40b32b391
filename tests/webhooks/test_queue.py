"""The queue of deliveries: nothing falls out of it, and only who leads puts into it and takes from it."""

from dataclasses import replace

import asyncpg
import pytest

from app.context import Services
from app.fittings import webhooks as follower_of
from app.ledger.followers import LeadLost
from app.ledger.leases import Lease
from app.ledger.pages import READ_ALL
from app.ledger.store import event_of
from app.main import Parts
from app.storage.database import DatabaseRole
from app.webhooks import service
from app.webhooks.model import DeliveryState, EndpointDraft, Outcome, Verdict
from app.webhooks.queue import Settled
from tests import factories
from tests.factories import FUND
from tests.webhooks.conftest import Endpoint, MovableClock, Rows, moments
from tests.webhooks.receiver import Receiver


@pytest.mark.parametrize("enabled_later", [False, True], ids=["made", "enabled"])
async def test_events_that_are_committed_while_an_endpoint_begins_reach_it(
    services: Services, owner: asyncpg.Connection, receiver: Receiver, settled, enabled_later: bool
) -> None:
    place = await factories.place(services)
    terms = {"epochs": services.tail.epochs, "private": True}
    institution, draft = place.institution.id, EndpointDraft(receiver.url, enabled=not enabled_later)
    if enabled_later:
        async with factories.working(services, institution, place.admin) as work:
            made = (
                await service.create_endpoint(work, institution, draft, vault=services.vault, **terms)
            ).endpoint
    await factories.position(services, place.asset)
    async with factories.working(services, institution, place.admin) as work:
        if enabled_later:
            await service.update_endpoint(
                work, institution, made.id, lambda draft: replace(draft, enabled=True), **terms
            )
        else:
            await service.create_endpoint(work, institution, draft, vault=services.vault, **terms)
        # It cannot be seen yet; somebody opens a position meanwhile, and the follower comes by.
        position = await factories.position(services, place.asset)
        await moments()
    await services.writer.submit(factories.move(services, position, FUND))
    await settled(2)
    assert [message.data["sequence"] for message in receiver.messages] == [2, 3]
    assert await owner.fetchval("SELECT starts_after FROM webhook_endpoints") == 1


async def events_of(services: Services):
    pool = services.database.pool(DatabaseRole.FEED)
    return [event_of(row) for row in await pool.fetch(READ_ALL, 0, 100)]


async def _the_lease(owner: asyncpg.Connection) -> Lease:
    row = await owner.fetchrow("SELECT name, token FROM leases WHERE name = 'follower:webhooks'")
    return Lease(row["name"], row["token"])


async def test_who_no_longer_leads_queues_nothing(
    parts: Parts, owner: asyncpg.Connection, receiver: Receiver, endpoint: Endpoint, deliveries: Rows
) -> None:
    services = parts.services
    place = await factories.place(services)
    await endpoint(place, receiver.url)
    await owner.execute("UPDATE followers SET paused = true WHERE name = 'webhooks'")
    await moments()
    await factories.position(services, place.asset)
    lease, webhooks = await _the_lease(owner), follower_of(services)
    with pytest.raises(LeadLost):
        await webhooks.follow(await events_of(services), replace(lease, token=lease.token - 1))
    assert await deliveries() == []
    await webhooks.close()


async def test_who_no_longer_leads_claims_nothing(
    parts: Parts, owner: asyncpg.Connection, receiver: Receiver, endpoint: Endpoint, deliveries: Rows
) -> None:
    services = parts.services
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    await owner.execute("UPDATE followers SET paused = true WHERE name = 'webhooks'")
    await moments()
    await factories.position(services, place.asset)
    lease, webhooks = await _the_lease(owner), follower_of(services)
    await webhooks._queue(await events_of(services), [place.institution.id], lease)
    (row,) = await deliveries()
    assert row["next_attempt_at"] is not None
    post, address = webhooks._post, (place.institution.id, made.id)
    old = replace(lease, token=lease.token - 1)
    assert await post.exchange(old, address, [], [], 8, slow=False) is None
    (row,) = await deliveries()
    assert row["claimed_until"] is None
    claim = await post.exchange(lease, address, [], [], 8, slow=False)
    assert claim is not None
    assert [one.id for one in claim.deliveries] == [row["id"]]
    await webhooks.close()


async def test_an_attempt_that_another_has_outdone_settles_nothing(
    parts: Parts,
    owner: asyncpg.Connection,
    receiver: Receiver,
    endpoint: Endpoint,
    deliveries: Rows,
    clock: MovableClock,
) -> None:
    """Two attempts at once: one's claim ended, an heir claimed and failed, and claimed again."""
    services = parts.services
    place = await factories.place(services)
    made = await endpoint(place, receiver.url)
    await owner.execute("UPDATE followers SET paused = true WHERE name = 'webhooks'")
    await moments()
    await factories.position(services, place.asset)
    lease, webhooks = await _the_lease(owner), follower_of(services)
    await webhooks._queue(await events_of(services), [place.institution.id], lease)
    post, address = webhooks._post, (place.institution.id, made.id)
    first = await post.exchange(lease, address, [], [], 8, slow=False)
    assert first is not None
    (claimed,) = first.deliveries
    now = clock()
    failed = Settled(claimed, Outcome(500), Verdict(DeliveryState.PENDING, 1, now), now, first.url)
    again = await post.exchange(lease, address, [failed], [], 8, slow=False)
    assert again is not None
    assert [one.attempts for one in again.deliveries] == [1]
    late = Settled(claimed, Outcome(404), Verdict(DeliveryState.FAILED, 9, None), now, first.url)
    assert await post.exchange(lease, address, [late], [], 0, slow=False) is None
    (row,) = await deliveries()
    assert (row["state"], row["attempts"], row["last_status"]) == ("PENDING", 1, 500)
    await webhooks.close()
