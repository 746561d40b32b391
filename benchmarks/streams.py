"""Whose stream is measured: the server, what its subscribers ask for, and how an event is written there."""

from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.client import Client, place
from benchmarks.peers import node
from benchmarks.server import ROOT_KEY, Served
from benchmarks.writes import CREATE

EVENT = "{ cursor node { id sequence positionId newState amountMoved currency balancesAfter { held } recordedAt } }"
# PostGraphile's word for the key of a row is rowId; a function's mutation answers with the row alone.
EVENT_OF_ROW = EVENT.replace("{ id ", "{ id: rowId ")
CREATE_ROW = (
    "mutation($i: CreatePositionInput!) { done: createPosition(input: $i) { "
    "position { id: rowId state version } } }"
)

# One reads each row by its id, the other takes all from the notification. Each tells of its own asset.
POSTGRAPHILE = (
    ("postgraphile", "ledgerEvents", EVENT_OF_ROW),
    ("postgraphile_carried", "ledgerEventsCarried", EVENT),
)
POOL = 16


@dataclass(frozen=True)
class Stream:
    """A server's stream of one asset's or institution's events, and the mutation that makes one."""

    name: str
    served: Served
    document: str
    create: str = CREATE
    secret: str = ""
    asset: str = "ast_bench"


async def ours(served: Served) -> Stream:
    """Ours: what the key of a new institution may see."""
    root = await Client(served.port, ROOT_KEY).open()
    secret, asset = await place(root)
    await root.close()
    return Stream("ours", served, f"subscription {{ ledgerEvents {EVENT} }}", secret=secret, asset=asset)


def peers(stack: ExitStack, database_url: str) -> list[Stream]:
    """Those of others, each of a server of its own that runs as long as the stack; PostGraphile's where Node is."""
    naive = stack.enter_context(node.naive(database_url))
    found = [Stream("strawberry", naive, f"subscription {{ ledgerEvents {EVENT} }}")]
    for name, subscription, event in () if node.missing() else POSTGRAPHILE:
        served = stack.enter_context(node.peer("streams", database_url, POOL))
        document = f'subscription {{ {subscription}(assetId: "{name}") {event} }}'
        found.append(Stream(name, served, document, create=CREATE_ROW, asset=name))
    return found


def beside() -> str:
    """Which PostGraphile it is, or why there is none."""
    why_not = node.missing()
    return (
        f"without PostGraphile: {why_not}" if why_not else f"PostGraphile {node.versions()['postgraphile']}"
    )
