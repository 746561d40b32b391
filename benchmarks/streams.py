"""Whose stream is measured: the server, what its subscribers ask for, and how an event is written there."""

from dataclasses import dataclass

from benchmarks.server import Served
from benchmarks.writes import CREATE

EVENT = "{ cursor node { id sequence positionId newState amountMoved currency balancesAfter { held } recordedAt } }"
# PostGraphile's word for the key of a row is rowId; a function's mutation answers with the row alone.
EVENT_OF_ROW = EVENT.replace("{ id ", "{ id: rowId ")
CREATE_ROW = (
    "mutation($i: CreatePositionInput!) { done: createPosition(input: $i) { "
    "position { id: rowId state version } } }"
)


@dataclass(frozen=True)
class Stream:
    """A server's stream of one asset's or institution's events, and the mutation that makes one."""

    name: str
    served: Served
    document: str
    create: str = CREATE
    secret: str = ""
    asset: str = "ast_bench"


def of_ours(served: Served, secret: str, asset: str) -> Stream:
    """Ours: what the key's institution may see."""
    return Stream("ours", served, f"subscription {{ ledgerEvents {EVENT} }}", secret=secret, asset=asset)


def of_naive(served: Served) -> Stream:
    """Plain Strawberry's: everything, taken from the notification."""
    return Stream("strawberry", served, f"subscription {{ ledgerEvents {EVENT} }}")


def of_postgraphile(served: Served) -> list[Stream]:
    """PostGraphile's, each of its own asset: one reads each row by its id, one takes all from the notification."""
    read, carried = "ast_read", "ast_carried"
    return [
        Stream(
            "postgraphile",
            served,
            f'subscription {{ ledgerEvents(assetId: "{read}") {EVENT_OF_ROW} }}',
            create=CREATE_ROW,
            asset=read,
        ),
        Stream(
            "postgraphile_carried",
            served,
            f'subscription {{ ledgerEventsCarried(assetId: "{carried}") {EVENT} }}',
            create=CREATE_ROW,
            asset=carried,
        ),
    ]
