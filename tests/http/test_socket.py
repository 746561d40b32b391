"""GraphQL over WebSocket on a real port: the protocol, its limits, and clients that do not keep to it."""

import asyncio
import contextlib
import json
import logging
import socket
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from .conftest import (
    AUTH,
    AWAY,
    COST,
    ENDED,
    PROTOCOL,
    QUICK,
    ROOT,
    TENANT,
    Dial,
    Peer,
    Site,
    cost,
    eventually,
    served,
)

INIT = {"type": "connection_init", "payload": {"authorization": f"Bearer {ROOT}"}}


def code_of(frame: dict[str, Any]) -> str:
    assert frame["type"] == "error"
    (error,) = frame["payload"]
    return str(error["extensions"]["code"])


async def test_a_subscription_runs_to_its_end(dial: Dial, site: Site) -> None:
    peer = await dial()
    await peer.subscribe("a", "subscription {count(to: 2)}")
    assert await peer.next() == {"id": "a", "type": "next", "payload": {"data": {"count": 1}, **cost(10)}}
    assert await peer.next() == {"id": "a", "type": "next", "payload": {"data": {"count": 2}, **cost(10)}}
    assert await peer.next() == {"id": "a", "type": "complete"}
    await peer.subscribe("a", "query Q($v: JSONObject!) {json(value: $v)}", variables={"v": {"n": 1.5}})
    told = {"data": {"json": {"n": 1.5}}, **COST}
    assert await peer.next() == {"id": "a", "type": "next", "payload": told}
    assert await peer.next() == {"id": "a", "type": "complete"}
    await peer.subscribe("b", 'mutation {note(text: "x")}')
    assert (await peer.next())["payload"]["data"] == {"note": "x:None"}
    await eventually(lambda: len(site.closed) == 3)


@pytest.mark.parametrize(
    "payload",
    [
        {"authorization": f"Bearer {TENANT}"},
        {"Authorization": f"bearer {TENANT}"},
        {"apiKey": TENANT},
        {"x-api-key": TENANT},
        {"X-API-Key": TENANT},
        {"authorization": 7, "apiKey": TENANT},
    ],
    ids=range(6),
)
async def test_every_way_to_bring_a_key(dial: Dial, payload: Any) -> None:
    peer = await dial(acknowledged=False)
    await peer.init(**payload)
    await peer.subscribe("a", "{asker{key}}")
    assert (await peer.next())["payload"]["data"]["asker"]["key"] == "key_1"


async def test_the_handshake_may_bring_the_key(dial: Dial) -> None:
    peer = await dial(acknowledged=False, additional_headers=AUTH)
    await peer.send({"type": "connection_init"})
    assert await peer.next() == {"type": "connection_ack"}


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (None, 4403),
        ({}, 4403),
        ({"authorization": "Bearer nobody"}, 4403),
        ({"authorization": ROOT}, 4403),
        ({"apiKey": ["x"]}, 4403),
        ({"apiKey": "é"}, 4403),
        ({"apiKey": AWAY}, 1013),
    ],
)
async def test_without_a_valid_key_a_socket_is_closed(dial: Dial, payload: Any, code: int) -> None:
    peer = await dial(acknowledged=False)
    await peer.send({"type": "connection_init", "payload": payload})
    assert (await peer.closed())[0] == code


async def test_subscribing_before_the_acknowledgement_is_unauthorised(dial: Dial) -> None:
    peer = await dial(acknowledged=False)
    await peer.subscribe("a", "{ping}")
    assert await peer.closed() == (4401, "Unauthorized")


BAD_FRAMES: dict[str, Any] = {
    "not json": "{",
    "empty": "",
    "list": [1, 2],
    "null": "null",
    "number": "7",
    "text": '"ping"',
    "nan": '{"type":"ping","payload":{"a":NaN}}',
    "duplicate key": '{"type":"ping","type":"pong"}',
    "lone surrogate": '{"type":"ping","payload":{"a":"\\ud800"}}',
    "deep": '{"type":"ping","payload":' + "[" * 5000 + "]" * 5000 + "}",
    "huge number": '{"type":"ping","payload":{"a":1e99999999999999999999}}',
    "no type": {},
    "type null": {"type": None},
    "type object": {"type": {"a": 1}},
    "unknown type": {"type": "start"},
    "long unknown type": {"type": "ü" * 1000},
    "type of a server": {"type": "next", "id": "a", "payload": {}},
    "payload list": {"type": "ping", "payload": [1]},
    "pong payload": {"type": "pong", "payload": "x"},
    "init payload": {"type": "connection_init", "payload": "x"},
    "subscribe without id": {"type": "subscribe", "payload": {"query": "{ping}"}},
    "subscribe id number": {"type": "subscribe", "id": 7, "payload": {"query": "{ping}"}},
    "subscribe id empty": {"type": "subscribe", "id": "", "payload": {"query": "{ping}"}},
    "subscribe id long": {"type": "subscribe", "id": "x" * 256, "payload": {"query": "{ping}"}},
    "subscribe without payload": {"type": "subscribe", "id": "a"},
    "subscribe payload list": {"type": "subscribe", "id": "a", "payload": [1]},
    "subscribe without query": {"type": "subscribe", "id": "a", "payload": {}},
    "subscribe query number": {"type": "subscribe", "id": "a", "payload": {"query": 7}},
    "subscribe variables list": {
        "type": "subscribe",
        "id": "a",
        "payload": {"query": "{ping}", "variables": [1]},
    },
    "subscribe operationName": {
        "type": "subscribe",
        "id": "a",
        "payload": {"query": "{ping}", "operationName": 7},
    },
    "subscribe extensions": {
        "type": "subscribe",
        "id": "a",
        "payload": {"query": "{ping}", "extensions": "x"},
    },
    "complete without id": {"type": "complete"},
    "complete id null": {"type": "complete", "id": None},
    "binary": b'{"type":"ping"}',
    "binary rubbish": b"\xff\x00",
}


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_what_is_no_message_closes_the_socket(dial: Dial, site: Site, acknowledged: bool) -> None:
    for name, frame in BAD_FRAMES.items():
        peer = await dial(acknowledged=acknowledged)
        await peer.send(frame)
        code, reason = await peer.closed()
        assert code == 4400, name
        assert 0 < len(reason.encode()) <= 123, name
    await eventually(lambda: site.sample("escrowgrid_live_connections", transport="websocket") == 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "the text is not JSON: "),
        ('{"type":"ping"', "the text is not JSON: "),
        ('{"type":"ping","payload":{"n":NaN}}', "NaN"),
        ('{"type":"ping","payload":' + "[" * 60_000 + "]" * 60_000 + "}", "nested too deeply"),
        ('{"type":"ping","type":"pong"}', "twice"),
        ('{"type":"ping","payload":{"x":"\\ud800"}}', "surrogate"),
    ],
)
async def test_a_frame_that_is_no_json_is_told_what_is_wrong_with_it(
    dial: Dial, text: str, words: str
) -> None:
    peer = await dial()
    await peer.send(text)
    code, reason = await peer.closed()
    assert code == 4400
    assert words in reason
    assert len(reason.encode()) <= 123


async def test_a_huge_frame_closes_the_socket(dial: Dial, site: Site) -> None:
    for size in (site.settings.frame_bytes_max, 20_000_000):
        peer = await dial()
        with contextlib.suppress(Exception):
            await peer.send('{"type":"ping","payload":{"a":"' + "x" * size + '"}}')
        assert (await peer.closed())[0] == 1009


async def test_a_second_init_closes_the_socket(dial: Dial) -> None:
    peer = await dial()
    await peer.send(INIT)
    assert await peer.closed() == (4429, "Too many initialisation requests")


@pytest.mark.parametrize("overrides", [{"connection_init_seconds": 0.2}])
async def test_a_socket_that_says_nothing_is_closed(dial: Dial) -> None:
    peer = await dial(acknowledged=False)
    await peer.send({"type": "ping"})
    assert await peer.next() == {"type": "pong"}
    assert await peer.closed() == (4408, "Connection initialisation timeout")


async def test_a_known_id_cannot_be_used_again_while_it_runs(dial: Dial) -> None:
    peer = await dial()
    await peer.subscribe("a", "subscription {silent}")
    await asyncio.sleep(0.1)
    await peer.subscribe("a", "{ping}")
    assert await peer.closed() == (4409, "Subscriber for a already exists")
    await eventually(lambda: ENDED == ["silent"])


async def test_an_id_is_free_once_it_is_completed_from_either_side(dial: Dial) -> None:
    peer = await dial()
    for _ in range(50):
        await peer.subscribe("a", "{ping}")
        assert (await peer.next())["type"] == "next"
        assert (await peer.next())["type"] == "complete"
    for number in range(5):
        await peer.subscribe("b", f'subscription {{silent(name: "s{number}")}}')
        await peer.send({"type": "complete", "id": "b"})
    await peer.send({"type": "complete", "id": "never-was"})
    await peer.subscribe("b", "{ping}")
    assert (await peer.next())["payload"] == {"data": {"ping": "pong"}, **COST}


async def test_completing_ends_the_source_and_closes_the_context(dial: Dial, site: Site) -> None:
    peer = await dial()
    await peer.subscribe("a", "subscription {count(to: 1000, every: 0.01)}")
    await peer.next()
    await peer.send({"type": "complete", "id": "a"})
    await eventually(lambda: ENDED == ["count"] and len(site.closed) == 1)
    await peer.send({"type": "ping"})
    assert (await peer.until("pong")) == {"type": "pong"}
    with pytest.raises(TimeoutError):
        await peer.next(0.1)


async def test_a_client_that_goes_away_ends_everything(dial: Dial, site: Site) -> None:
    peer = await dial()
    for number in range(3):
        await peer.subscribe(f"s{number}", f'subscription {{silent(name: "s{number}")}}')
    await peer.subscribe("slow", "{slow(seconds: 60)}")
    await eventually(lambda: site.sample("escrowgrid_operations_open", transport="websocket") == 4)
    peer.socket.transport.abort()
    await eventually(lambda: len(site.closed) == 4)
    assert sorted(ENDED) == ["s0", "s1", "s2"]
    assert site.sample("escrowgrid_operations_open", transport="websocket") == 0


async def test_every_operation_has_a_context_and_a_request_id_of_its_own(dial: Dial, site: Site) -> None:
    peer = await dial(additional_headers={"X-Request-Id": "sock"})
    for name in "abc":
        await peer.subscribe(name, "{asker{context requestId operation}}")
    found = [(await peer.until("next", name))["payload"]["data"]["asker"] for name in "abc"]
    assert len({asker["context"] for asker in found}) == 3
    assert {asker["requestId"] for asker in found} == {"sock.1", "sock.2", "sock.3"}
    assert {asker["operation"] for asker in found} == {"query"}


async def test_extensions_reach_the_operation(dial: Dial) -> None:
    peer = await dial()
    await peer.subscribe("a", "{asker{extensions}}", extensions={"some": "value"})
    assert (await peer.next())["payload"]["data"]["asker"]["extensions"] == "{'some': 'value'}"


@pytest.mark.parametrize("overrides", [{"operations_per_socket_max": 2}])
async def test_a_socket_has_so_many_operations_and_no_more(dial: Dial) -> None:
    peer = await dial()
    for name in "ab":
        await peer.subscribe(name, "subscription {silent}")
    await peer.subscribe("c", "{ping}")
    frame = await peer.next()
    assert (frame["id"], code_of(frame)) == ("c", "LIMIT_EXCEEDED")
    assert frame["payload"][0]["extensions"] == {
        "code": "LIMIT_EXCEEDED",
        "limit": "operations_per_socket_max",
        "max": 2,
    }
    await peer.send({"type": "complete", "id": "a"})
    await peer.subscribe("c", "{ping}")
    assert (await peer.until("next"))["id"] == "c"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
        ({"query": "{nothing}"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "query A {ping}", "operationName": "B"}, "BAD_REQUEST"),
        ({"query": "query A {ping} query B {ping}"}, "BAD_REQUEST"),
        ({"query": "query($t: String!) {echo(text: $t)}"}, "BAD_USER_INPUT"),
        ({"query": "subscription($t: Int!) {count(to: $t)}", "variables": {"t": "x"}}, "BAD_USER_INPUT"),
        ({"query": "subscription {count count}" + "{" * 20}, "GRAPHQL_PARSE_FAILED"),
        ({"query": "subscription {count silent}"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "{item" + "{items" * 20 + "{number}" + "}" * 20 + "}"}, "LIMIT_EXCEEDED"),
        ({"extensions": {"persistedQuery": {"sha256Hash": "x"}}}, "BAD_REQUEST"),
    ],
)
async def test_what_cannot_run_is_an_error_and_the_socket_goes_on(
    dial: Dial, payload: Any, code: str
) -> None:
    peer = await dial()
    await peer.send({"type": "subscribe", "id": "a", "payload": payload})
    frame = await peer.next()
    assert frame["id"] == "a"
    assert frame["type"] == "error"
    assert {error["extensions"]["code"] for error in frame["payload"]} == {code}
    await peer.subscribe("a", "{ping}")
    assert (await peer.next())["payload"] == {"data": {"ping": "pong"}, **COST}


async def test_errors_while_running_are_told_beside_the_data(dial: Dial) -> None:
    peer = await dial()
    await peer.subscribe("a", '{ping refused(kind: "missing")}')
    payload = (await peer.next())["payload"]
    assert payload["data"] == {"ping": "pong", "refused": None}
    assert payload["errors"][0]["extensions"] == {"code": "NOT_FOUND", "field": "id"}
    assert (await peer.next())["type"] == "complete"


async def test_a_source_that_breaks_ends_alone(
    dial: Dial, noisy: None, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await dial(additional_headers={"X-Request-Id": "sock"})
    await peer.subscribe("other", "subscription {count(to: 100, every: 0.02)}")
    await peer.subscribe("a", "subscription {breaks}")
    assert (await peer.until("next", "a"))["payload"]["data"] == {"breaks": 1}
    told = await peer.until("error", "a")
    assert told["payload"][0]["message"] == "something went wrong on our side; request id sock.2"
    assert "secret" not in json.dumps(told)
    assert (await peer.until("next", "other"))["payload"]["data"]["count"] > 1
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_ping_is_answered_with_what_it_carried(dial: Dial) -> None:
    peer = await dial(acknowledged=False)
    for payload in ({}, {"payload": {"a": 1}}, {"payload": {}}):
        await peer.send({"type": "ping", **payload})
        assert await peer.next() == {"type": "pong", **payload}


@pytest.mark.parametrize("pace", [QUICK])
async def test_the_server_pings_and_gives_up_on_who_does_not_answer(dial: Dial) -> None:
    peer = await dial()
    for _ in range(3):
        assert await peer.next() == {"type": "ping"}
        await peer.send({"type": "pong"})
    code, reason = await peer.closed()
    assert (code, reason) == (1013, "no pong came")


@pytest.mark.parametrize("pace", [QUICK])
async def test_a_revoked_key_ends_its_sockets_and_no_others(dial: Dial, site: Site) -> None:
    theirs, ours = await dial(acknowledged=False), await dial()
    await theirs.init(apiKey=TENANT)
    await theirs.subscribe("a", "subscription {count(to: 1, every: 60)}")
    await theirs.until("next")
    del site.keys.known[TENANT]
    code, reason = await theirs.closed(2)
    assert (code, reason) == (4403, "the key is no longer valid, or no longer for the same; cursor=c1")
    await ours.subscribe("a", "{ping}")
    assert (await ours.until("next"))["payload"]["data"] == {"ping": "pong"}


@pytest.mark.parametrize("pace", [QUICK])
async def test_keys_that_cannot_be_confirmed_hold_for_a_while_only(dial: Dial, site: Site) -> None:
    peer = await dial()
    site.keys.away = True
    await asyncio.sleep(0.2)
    await peer.subscribe("a", "{ping}")
    assert (await peer.until("next"))["payload"]["data"] == {"ping": "pong"}

    async def answering() -> None:
        while True:
            if (await peer.next())["type"] == "ping":
                await peer.send({"type": "pong"})

    task = asyncio.create_task(answering())
    with contextlib.suppress(Exception):
        await task
    assert (await peer.closed(2))[0] == 1013


async def test_other_protocols_and_origins_are_refused(site: Site) -> None:
    for subprotocols in ([Subprotocol("graphql-ws")], None):
        async with connect(site.sockets_url, subprotocols=subprotocols, proxy=None) as socket:
            assert (await Peer(socket).closed())[0] == 4406
    with pytest.raises(InvalidStatus) as refused:
        await connect(site.sockets_url, subprotocols=[PROTOCOL], origin="https://evil.example", proxy=None)
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus):
        await connect(site.url.replace("http", "ws") + "/nothing", subprotocols=[PROTOCOL], proxy=None)


async def test_a_socket_is_one_line_in_the_log_and_so_is_each_of_its_operations(
    dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await dial(acknowledged=False)
    await peer.init(apiKey=TENANT)
    await peer.subscribe("a", "{nothing}")
    await peer.next()
    await peer.socket.close(4321)
    own = [record for record in caplog.records if record.name == "escrowgrid.access"]
    await eventually(lambda: len([r for r in caplog.records if r.name == "escrowgrid.access"]) == 2)
    own = [json.loads(record.getMessage()) for record in caplog.records if record.name == "escrowgrid.access"]
    told = [(line["method"], line["status"], line["outcome"], line["key_id"], line["errors"]) for line in own]
    assert told == [
        ("WS", None, "FAILED", "key_1", ["GRAPHQL_VALIDATION_FAILED"]),
        ("WS", 4321, None, "key_1", ["GRAPHQL_VALIDATION_FAILED"]),
    ]
    assert own[0]["request_id"] == f"{own[1]['request_id']}.1"


async def test_a_server_that_goes_closes_its_sockets_one_after_the_other(site: Site) -> None:
    async with contextlib.AsyncExitStack() as stack:
        peers = []
        for number in range(8):
            socket_ = await stack.enter_async_context(
                connect(site.sockets_url, subprotocols=[PROTOCOL], proxy=None)
            )
            peers.append(Peer(socket_))
            await peers[-1].init()
            await peers[-1].subscribe("a", f"subscription {{count(to: {number + 1}, every: 0.001)}}")
            await peers[-1].subscribe("b", "subscription {silent}")
            await peers[-1].until("next")
        loop = asyncio.get_running_loop()

        async def gone(peer: Peer) -> tuple[float, int, str]:
            code, reason = await peer.closed()
            return loop.time(), code, reason

        waiting = [asyncio.create_task(gone(peer)) for peer in peers]
        await site.app.state.live.drain()
        found = await asyncio.gather(*waiting)
    assert {code for _, code, _ in found} == {1012}
    assert all(reason.startswith("the server restarts") for _, _, reason in found)
    times = sorted(when for when, _, _ in found)
    assert times[-1] - times[0] > 0.1
    async with connect(site.sockets_url, subprotocols=[PROTOCOL], proxy=None) as late:
        assert await Peer(late).closed() == (1012, "the server restarts")


async def test_a_cursor_too_long_for_a_close_frame_comes_before_it(site: Site, dial: Dial) -> None:
    peer = await dial()
    await peer.subscribe("a", "subscription {count(to: 1, every: 60, pad: 132)}")
    await peer.until("next")
    draining = asyncio.create_task(site.app.state.live.drain())
    told = {"closing": "the server restarts", "cursor": "c1" + "x" * 132}
    assert await peer.until("ping") == {"type": "ping", "payload": told}
    assert await peer.closed() == (1012, "the server restarts")
    await draining


async def test_stopping_the_server_drains_first(site: Site) -> None:
    async with served(site) as server:
        async with connect(site.sockets_url, subprotocols=[PROTOCOL], proxy=None) as socket_:
            peer = Peer(socket_)
            await peer.init()
            await peer.subscribe("a", "subscription {count(to: 2, every: 60)}")
            await peer.until("next")
            server.should_exit = True
            assert await peer.closed() == (1012, "the server restarts; cursor=c1")
    assert ENDED == ["count"]


@pytest.mark.parametrize("pace", [QUICK])
async def test_a_socket_that_takes_nothing_is_closed_with_its_cursor(site: Site) -> None:
    # A small window, so that the kernel does not take the flood for the client.
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    raw.setblocking(False)
    port = int(site.url.rpartition(":")[2])
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    async with connect(
        site.sockets_url, sock=raw, subprotocols=[PROTOCOL], proxy=None, max_queue=1, ping_interval=None
    ) as socket_:
        peer = Peer(socket_)
        await peer.init()
        await peer.subscribe("a", "subscription {flood}")
        await peer.until("next")
        await asyncio.sleep(1.2)
        await eventually(lambda: len(site.closed) == 1)
        taken = 1
        with contextlib.suppress(ConnectionClosed):
            while True:
                taken += json.loads(await socket_.recv())["type"] == "next"
        assert socket_.close_code == 1013
        # Where the last message stands that arrives: one that was made and never sent comes after a resume.
        assert socket_.close_reason == f"nothing was taken for too long; cursor=f{taken}"


@pytest.mark.parametrize("pace", [QUICK])
async def test_a_socket_that_never_takes_anything_again_is_dropped(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    raw.setblocking(False)
    port = int(site.url.rpartition(":")[2])
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    socket_ = await connect(
        site.sockets_url, sock=raw, subprotocols=[PROTOCOL], proxy=None, max_queue=1, ping_interval=None
    )
    peer = Peer(socket_)
    await peer.init()
    await peer.subscribe("a", "subscription {flood}")
    await peer.until("next")
    await eventually(lambda: site.sample("escrowgrid_live_connections", transport="websocket") == 0, 10)
    assert not site.app.state.live._connections
    assert len(site.closed) == 1
    socket_.transport.abort()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_text_frame_that_is_no_utf_8_closes_the_socket_and_is_a_line_of_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(site.sockets_url, subprotocols=[PROTOCOL], proxy=None) as socket_:
        await socket_.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed):
            await socket_.recv()
        assert socket_.close_code == 1007
    said = [record for record in caplog.records if "UTF-8" in record.getMessage()]
    assert [(record.levelno, record.exc_info) for record in said] == [(logging.WARNING, None)]
