"""A signal to stop, sent to a whole process: live connections hear of it before uvicorn cuts them."""

import asyncio
import signal
import sys
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from .conftest import AUTH, EVENTS, PROTOCOL, Peer

REPOSITORY = Path(__file__).parents[2]

# uvicorn's own server, as its workers use it: the application itself sees to the draining.
PROGRAM = """
import contextlib, socket
import pytest, uvicorn
from app.http.server import config
from tests.http.conftest import make_site

site = make_site(pytest.MonkeyPatch())
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
with contextlib.suppress(KeyboardInterrupt):
    uvicorn.Server(config(site.app, site.settings)).run([listening])
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_first(sign: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as http:
        assert (await http.get("/ready")).status_code == 200
        asked = {"query": "subscription {count(to: 1, every: 60)}"}
        headers = {**AUTH, "Accept": EVENTS}
        async with (
            connect(f"ws://127.0.0.1:{port}/graphql", subprotocols=[PROTOCOL], proxy=None) as socket,
            http.stream("POST", "/graphql", json=asked, headers=headers) as response,
        ):
            peer = Peer(socket)
            await peer.init()
            await peer.subscribe("a", "subscription {count(to: 2, every: 60)}")
            await peer.until("next")
            process.send_signal(sign)
            assert await peer.closed() == (1012, "the server restarts; cursor=c1")
            assert ": the server restarts" in [line async for line in response.aiter_lines()]
    _, said = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode in {0, -sign}
    assert b"Traceback" not in said
