"""The request log of a whole server: one line for each operation, with what it cost and what it read."""

import json
import logging
from typing import Any

import asyncpg
import pytest

from app.institutions.model import NewKey
from app.main import Parts
from app.storage.database import Database
from app.storage.statements import Meter
from tests import factories
from tests.conftest import eventually
from tests.factories import Place

from .conftest import Serve

PAGE = "query Page($n: Int!) { positions(first: $n) { edges { node { id } } } }"
DEEP = (
    "query Deep { positions(first: 3) { edges { node { id events { edges { node { id sequence } } } } } } }"
)
MOVE = 'mutation Move($id: ID!) { fundPosition(input: {id: $id, reason: "SECRET-WORD"}) { userErrors { code } } }'
COUNT = "SELECT count(*) FROM ledger_events"
LABEL = (
    'mutation Label($id: ID!) { createAsset(input: {templateId: $id, label: "x"}) { userErrors { code } } }'
)


class Lines:
    """What the log has told of operations, by their names."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(r.getMessage()) for r in self._caplog.records if r.name == "escrowgrid.access"]

    async def one(self, operation: str) -> dict[str, Any]:
        async def told() -> bool:
            return any(line["operation"] == operation for line in self.all())

        await eventually(told, seconds=5)
        (line,) = (line for line in self.all() if line["operation"] == operation)
        return line


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


async def test_an_operation_is_one_line_with_what_it_cost_and_read(
    serve: Serve, parts: Parts, place: Place, key: NewKey, lines: Lines
) -> None:
    for _ in range(5):
        await factories.position(parts.services, place.asset)
    async with serve() as server:
        await server.ask(PAGE, {"n": 3}, key=key.secret)
        await server.ask(DEEP, key=key.secret)
    page, deep = await lines.one("Page"), await lines.one("Deep")
    assert (page["kind"], page["outcome"], page["status"]) == ("query", "OK", 200)
    assert (page["key_id"], page["role"]) == (key.key.id, "ADMIN")
    assert page["institution_id"] == place.institution.id
    assert page["cost"] == 3
    assert page["rows"] == 4, "three and one that tells whether there are more"
    assert deep["rows"] == 7, "and an event of each of the three"
    assert page["document"] != deep["document"]
    assert page["request_id"] != deep["request_id"]


async def test_what_was_refused_or_failed_says_so_without_values(
    serve: Serve, parts: Parts, place: Place, key: NewKey, lines: Lines, owner: asyncpg.Connection
) -> None:
    position = await factories.position(parts.services, place.asset)
    async with serve() as server:
        assert (await server.ask(MOVE, {"id": position.id}, key=key.secret)).status_code == 200
        moved = (await lines.one("Move"))["outcome"], (await lines.one("Move"))["refusals"]
        before = await owner.fetchval(COUNT)
        await server.ask(MOVE.replace("Move", "Again"), {"id": position.id}, key=key.secret)
        assert await owner.fetchval(COUNT) == before
        await server.ask(LABEL, {"id": place.template.id}, key=key.secret)
        await server.ask(PAGE.replace("Page", "Broken"), {"n": -1}, key=key.secret)
    assert moved == ("OK", [])
    again, made, broken = [await lines.one(name) for name in ("Again", "Label", "Broken")]
    assert (again["outcome"], again["refusals"], again["errors"]) == (
        "REFUSED",
        ["TRANSITION_NOT_ALLOWED"],
        [],
    )
    assert (made["kind"], made["outcome"]) == ("mutation", "OK")
    assert made["rows"] >= 3, "the template and the institution that were read, the asset that was written"
    assert (broken["outcome"], len(broken["errors"])) == ("FAILED", 1)
    told = json.dumps(lines.all())
    assert "SECRET-WORD" not in told
    assert key.secret not in told


async def test_each_operation_of_a_socket_has_a_line(
    serve: Serve, parts: Parts, place: Place, key: NewKey, lines: Lines
) -> None:
    await factories.position(parts.services, place.asset)
    async with serve() as server:
        peer = await server.dial(key.secret)
        await peer.subscribe("a", PAGE, variables={"n": 3})
        await peer.until("complete")
        await peer.subscribe("b", "subscription Watch { positionsChanged { position { id } } }")
        await peer.until("next")
        await peer.send({"type": "complete", "id": "b"})
        watch = await lines.one("Watch")
        await peer.socket.close()
    page = await lines.one("Page")
    assert (page["method"], page["kind"], page["rows"], page["outcome"]) == ("WS", "query", 1, "OK")
    assert (watch["kind"], watch["outcome"]) == ("subscription", "OK")
    assert watch["rows"] > 0
    assert watch["cost"] > 0
    assert {page["key_id"], watch["key_id"]} == {key.key.id}
    socket = next(line for line in lines.all() if line["method"] == "WS" and line["kind"] is None)
    assert (socket["operations"], socket["outcome"]) == (2, None)
    assert socket["rows"] == page["rows"] + watch["rows"]


async def test_rows_are_counted_for_the_operation_that_has_the_connection_alone(database: Database) -> None:
    from sqlalchemy import text

    first, second = Meter(), Meter()
    numbers = text("SELECT generate_series(1, 7)")
    async with database.reading("*", first) as connection:
        await connection.execute(numbers)
    async with database.reading("*") as connection:
        await connection.execute(numbers)
    async with database.reading("*", second) as connection:
        await connection.execute(numbers)
        await connection.execute(numbers)
    assert (first.rows, second.rows) == (7, 14)
