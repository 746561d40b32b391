"""Every state of an anchor is seen wherever somebody looks: in GraphQL, metrics and `escrowgrid anchor status`."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from app import onchain
from app.anchoring import status
from app.anchoring.model import NO_ROOT, State
from app.chain_vitals import Anchoring
from app.kit.clock import system_clock
from app.main import Parts
from app.positions import model as positions
from app.storage.database import DatabaseRole, take_role
from tests import factories
from tests.anchoring.conftest import Deployed, Settled, log_of
from tests.anchoring.proxy import Proxy, drop
from tests.anchoring.test_contract import Contract
from tests.conftest import Run, eventually

COUNT = "query ($state: AnchorState!) { anchors(where: {state: {eq: $state}}) { totalCount } }"
Seen = Callable[[State], Awaitable[None]]


def seen_by(run: Run, owner: asyncpg.Connection) -> Seen:
    """Waits until an anchor is in that state, and looks for it in all three places at one instant."""

    async def look(state: State) -> bool:
        async with owner.transaction(isolation="repeatable_read"):
            await take_role(owner, DatabaseRole.FEED, ())
            found = await status.read(owner)
            metrics = Anchoring(system_clock)
            await metrics.ask(owner)
        (states,) = [vital for vital in metrics.vitals() if vital.name == "escrowgrid_anchors"]
        told = states.read()
        assert isinstance(told, dict)
        assert set(told) == {one.value for one in State}, "each state has its number, also where it is none"
        count = int(told[state.value])
        if not count:
            return False
        lines = onchain._lines(found)
        (line,) = [line for line in lines if line.startswith("anchors: ")]
        assert f"{count} {state.value}" in line
        if state not in (State.FINAL, State.SUPERSEDED):
            assert any(f" ANCHOR {state.value}" in line for line in lines), (
                "and by itself, with what keeps it"
            )
        answered = await run(COUNT, {"state": state.value})
        # It may have gone on since the other two were read.
        return bool(answered.data["anchors"]["totalCount"] == count)

    async def wait(state: State) -> None:
        try:
            await eventually(lambda: look(state))
        except AssertionError as error:
            error.add_note(f"{state} was not seen in all three places")
            raise

    return wait


async def test_an_anchor_is_seen_in_each_of_its_states_wherever_somebody_looks(
    parts: Parts, run: Run, owner: asyncpg.Connection, proxy: Proxy, deployed: Deployed, settled: Settled,
) -> None:  # fmt: skip
    seen, contract = seen_by(run, owner), Contract(deployed)
    place = await factories.place(parts.services)

    async def happen() -> None:
        await factories.position(parts.services, place.asset, state=positions.State.RELEASED)

    # The contract takes from elsewhere what waits here: nothing of it is sent any more.
    proxy.on("eth_estimateGas", lambda: {"error": {"code": -32000, "message": "insufficient funds"}})
    await happen()
    await seen(State.PENDING)
    first = await owner.fetchrow("SELECT size, root FROM anchors ORDER BY number LIMIT 1")
    await contract.call("anchor", await log_of(owner), 0, NO_ROOT, first["size"], first["root"])
    proxy.well()
    await seen(State.SUPERSEDED)

    # One that is signed, sent, mined, final, and goes with a reorganisation.
    before = await asyncio.to_thread(deployed.node.snapshot)
    proxy.on("eth_sendRawTransaction", drop())
    await happen()
    await seen(State.SIGNED)
    await asyncio.to_thread(deployed.node.automine, False)
    proxy.well()
    await seen(State.BROADCAST)
    await asyncio.to_thread(deployed.node.mine)
    await asyncio.to_thread(deployed.node.automine, True)
    await seen(State.MINED)
    await asyncio.to_thread(deployed.node.mine, 3)
    await seen(State.FINAL)
    proxy.on("eth_sendRawTransaction", drop())
    await asyncio.to_thread(deployed.node.revert, before)
    await asyncio.to_thread(deployed.node.mine, 2)
    await seen(State.REORGED)
    proxy.well()
    await settled()

    # One that the contract reverts whenever it is sent.
    await contract.call("pause")
    proxy.on("eth_estimateGas", lambda: {"result": hex(200_000)})
    await happen()
    await seen(State.FAILED)
    proxy.well()
    await contract.call("unpause")
    async with owner.transaction():
        await take_role(owner, DatabaseRole.WRITER, ())
        assert await status.retry(owner) == 1
    await settled()


async def test_several_failed_anchors_are_retried_at_once(owner: asyncpg.Connection) -> None:
    for number in (1, 2, 3):
        await owner.execute(
            "INSERT INTO anchors (id, number, revision, mode, state, chain_id, contract, log_id, epoch, previous_size,"
            " previous_root, size, root, reverts, created_at, changed_at) VALUES ($1, $2, $2, 'ANCHOR', 'FAILED', 1,"
            " $3, $4, 1, 0, $4, 2, $4, 3, now(), now())",
            f"anc_{number}",
            number,
            "0x" + f"{number:040x}",
            bytes(32),
        )
    async with owner.transaction():
        await take_role(owner, DatabaseRole.WRITER, ())
        assert await status.retry(owner) == 3
    rows = await owner.fetch("SELECT revision, state, reverts FROM anchors ORDER BY number")
    assert [tuple(row) for row in rows] == [(revision, "PENDING", 0) for revision in (4, 5, 6)]
