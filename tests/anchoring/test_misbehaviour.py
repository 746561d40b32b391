"""Many runs of a chain that misbehaves: 0 lost, 0 doubled, 0 stuck. MISBEHAVIOUR_RUNS=100 for the full count."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.main import Parts
from app.positions.model import State
from tests import factories
from tests.anchoring import nodes
from tests.anchoring.conftest import Anchors, Deployed, Settled, Whole
from tests.anchoring.misbehaviour import Run
from tests.anchoring.nodes import Node
from tests.anchoring.proxy import Proxy
from tests.anchoring.test_contract import Contract
from tests.serving import free_port


@pytest.fixture
def node(py_evm: Node) -> Iterator[Node]:
    """ANVIL=…, which is quick, or the development chain."""
    binary = os.environ.get("ANVIL")
    if binary is None:
        yield py_evm
        return
    with nodes.anvil(Path(binary), free_port()) as found:
        yield found


RUNS = int(os.environ.get("MISBEHAVIOUR_RUNS", "4"))
FIRST = int(os.environ.get("MISBEHAVIOUR_FIRST", "1"))


async def test_nothing_is_lost_doubled_or_stuck(
    parts: Parts,
    deployed: Deployed,
    proxy: Proxy,
    settled: Settled,
    whole: Whole,
    anchors: Anchors,
    report: Callable[[str], None],
) -> None:
    place, contract, did = await factories.place(parts.services), Contract(deployed), Counter[str]()
    for number in range(FIRST, FIRST + RUNS):
        run = Run(
            number,
            deployed.node,
            proxy,
            lambda: factories.position(parts.services, place.asset, state=State.FUNDED),
            lambda: contract.call("set_pauser", deployed.account, True),
        )
        try:
            await run.play()
            # Stuck is what is not final in time; `whole` finds what is lost or doubled.
            await settled(seconds=60)
            await whole()
        except BaseException as error:
            error.add_note(f"run {number}: {dict(run.did)}")
            raise
        did += run.did
    rows = await anchors()
    report(
        f"{RUNS} runs of misbehaviour, {sum(did.values())} faults ({', '.join(f'{k} {n}' for k, n in sorted(did.items()))}): "
        f"{len(rows)} anchors, 0 lost, 0 doubled, 0 stuck"
    )
