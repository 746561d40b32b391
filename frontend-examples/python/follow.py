"""Shows the open positions, then every event of the ledger as it happens.

Its place in the ledger is kept in a file, so that the next run begins where this one ends, and a lost
connection is taken up again without an event missed.

    pip install httpx websockets
    ESCROWGRID_KEY=… python follow.py [http://127.0.0.1:8000/graphql]
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

HERE = Path(__file__).parent
PLACE = Path(os.environ.get("ESCROWGRID_CURSOR", "escrowgrid.cursor"))
KEY_REFUSED = 4403


class RefusedError(Exception):
    """The server said no, and asking again would not help."""


def main() -> None:
    """Ask once, then follow until Ctrl-C."""
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/graphql"
    key = os.environ.get("ESCROWGRID_KEY") or sys.exit("put a key into ESCROWGRID_KEY")
    try:
        if not PLACE.exists():
            keep(show_positions(address, key))
        asyncio.run(follow(address, key))
    except RefusedError as refused:
        sys.exit(str(refused))
    except KeyboardInterrupt:
        pass


def show_positions(address: str, key: str) -> str:
    """Print the open positions; returns the cursor of the instant they were read at."""
    try:
        response = httpx.post(
            address,
            json={"query": (HERE / "positions.graphql").read_text()},
            headers={"Authorization": f"Bearer {key}"},
        )
        answer = response.json()
    except httpx.TransportError as error:
        raise RefusedError(f"{address} cannot be reached: {error}") from None
    except ValueError:
        raise RefusedError(f"{address} answered {response.status_code}, and not with JSON") from None
    if answer.get("errors"):
        raise RefusedError(told(answer["errors"]))
    for edge in answer["data"]["positions"]["edges"]:
        node = edge["node"]
        held = f"{node['held']:>15} {node['currency']}"
        print(f"{node['id']}  {node['state']:18}  {held}  {node['asset']['label']}")
    cursor: str = answer["data"]["ledgerHead"]["cursor"]
    return cursor


async def follow(address: str, key: str) -> None:
    """Stream, and connect again whenever the connection is lost, later and later."""
    async for socket in connect(
        address.replace("http", "ws", 1),
        subprotocols=[Subprotocol("graphql-transport-ws")],
        process_exception=retry,
    ):
        try:
            await stream(socket, key)
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == KEY_REFUSED:
                raise RefusedError(f"the key was refused: {closed.rcvd.reason}") from None
            print("connection lost, connecting again", file=sys.stderr, flush=True)


def retry(error: Exception) -> Exception | None:
    """None for what may pass by itself: a server that is away or restarts."""
    if isinstance(error, InvalidStatus) and error.response.status_code < 500:
        return RefusedError(
            f"the server answered {error.response.status_code} where a WebSocket was asked for"
        )
    print("the server cannot be reached, trying again", file=sys.stderr, flush=True)
    return None


async def stream(socket: ClientConnection, key: str) -> None:
    """One connection's worth of events, after the place that is kept."""
    await send(socket, type="connection_init", payload={"authorization": f"Bearer {key}"})
    async for frame in socket:
        message = json.loads(frame)
        match message["type"]:
            case "connection_ack":
                await send(socket, id="follow", type="subscribe", payload=subscription())
            case "ping":
                await send(socket, type="pong")
            case "next" if not message["payload"].get("errors"):
                take(message["payload"]["data"]["ledgerEvents"])
            case "next":
                raise RefusedError(told(message["payload"]["errors"]))
            case "error":
                raise RefusedError(told(message["payload"]))
            case "complete":
                return


def subscription() -> dict[str, Any]:
    """What to follow, after the place that is kept."""
    return {"query": (HERE / "follow.graphql").read_text(), "variables": {"after": PLACE.read_text()}}


def take(message: dict[str, Any]) -> None:
    """Do what is to be done with an event, and only then keep its place: at worst it is done again."""
    event = message["node"]
    if event is not None:
        moved = f"{event['amountMoved']:>15} {event['currency']}"
        print(f"{event['recordedAt']}  {event['id']}  {event['newState']:18}  {moved}", flush=True)
    keep(message["cursor"])


def keep(cursor: str) -> None:
    """Write the cursor so that a crash leaves the old one or the new one."""
    new = PLACE.with_suffix(".new")
    new.write_text(cursor)
    new.replace(PLACE)


async def send(socket: ClientConnection, **message: object) -> None:
    """One message of the protocol."""
    await socket.send(json.dumps(message))


def told(errors: list[dict[str, Any]]) -> str:
    """What the server says is wrong."""
    lines = [f"{error.get('extensions', {}).get('code')}: {error['message']}" for error in errors]
    if any(line.startswith("CURSOR_INVALID") for line in lines):
        lines.append(f"To begin anew, remove {PLACE}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
