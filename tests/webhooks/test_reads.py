"""A page of endpoints with their deliveries costs a statement for each level, however many there are."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from app.context import Services
from app.positions.model import State
from tests import factories
from tests.conftest import Run
from tests.webhooks.conftest import Endpoint, fine
from tests.webhooks.receiver import Receiver

DOCUMENT = """
{ webhookEndpoints { totalCount edges { node {
    id institution { name } secrets { createdAt }
    deliveries(first: 2, where: {state: {in: [DELIVERED, PENDING]}}) {
      totalCount edges { node { id endpoint { url } event { sequence position { id } } } }
    }
} } } }
"""


@contextmanager
def counting(services: Services) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "set_config" not in statement:
            sent.append(statement)

    engine = services.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("count", [1, 6])
async def test_statements_do_not_grow_with_the_rows(
    services: Services, run: Run, receiver: Receiver, endpoint: Endpoint, settled, count: int
) -> None:
    place = await factories.place(services)
    for _ in range(count):
        await endpoint(place, receiver.url)
    await factories.position(services, place.asset, state=State.RELEASED)
    await settled(3 * count)
    # What the courier reads goes other ways, but for events that it has forgotten.
    with counting(services) as sent:
        page = fine(await run(DOCUMENT, principal=place.admin))["webhookEndpoints"]
    assert page["totalCount"] == count
    for edge in page["edges"]:
        node = edge["node"]
        assert node["deliveries"]["totalCount"] == 3
        assert [one["node"]["event"]["sequence"] for one in node["deliveries"]["edges"]] == [3, 2]
    # Endpoints and their count, institutions, secrets, deliveries and their counts, endpoints again, events, positions.
    assert len(sent) <= 9, "\n".join(sent)
