"""The contract: what it refuses, who may do what, what it costs; and that what is checked in is what is compiled."""

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr
from web3 import Web3
from web3.exceptions import ContractLogicError

from app.anchoring.contract import artifact
from app.anchoring.keys import from_key
from app.anchoring.model import NO_ROOT
from contracts.__main__ import ARTIFACT, build, spell
from tests.anchoring.conftest import Deployed

LOG, OTHER = b"\x01" * 32, b"\x02" * 32
ROOT = [bytes([number]) * 32 for number in range(1, 6)]
ENTRY = (b"evt_0".ljust(32, b"\0"), b"pos_0".ljust(32, b"\0"), 1, 0, 1, b"h" * 32)


class Contract:
    """The contract, called by anybody."""

    def __init__(self, deployed: Deployed) -> None:
        self._node = deployed.node
        self.owner = deployed.signer
        self._web3: Any = Web3(Web3.HTTPProvider(deployed.node.url))
        address = Web3.to_checksum_address(deployed.contract)
        self._contract: Any = self._web3.eth.contract(address=address, abi=artifact()["abi"])

    def read(self, name: str, *arguments: Any) -> Any:
        return self._contract.functions[name](*arguments).call()

    async def call(self, name: str, *arguments: Any, by: Any = None) -> Any:
        signer = by or self.owner
        call = self._contract.encode_abi(name, args=list(arguments))
        gas = self._web3.eth.estimate_gas(
            {"from": signer.address, "to": self._contract.address, "data": call}
        )
        raw, tx_hash = await signer.sign(
            {
                "chainId": self._node.chain_id,
                "nonce": self._web3.eth.get_transaction_count(signer.address),
                "to": self._contract.address,
                "value": 0,
                "data": call,
                "gas": gas,
                "maxFeePerGas": 10**11,
                "maxPriorityFeePerGas": 10**9,
                "type": 2,
            }
        )
        await asyncio.to_thread(self._web3.eth.send_raw_transaction, raw)
        return await asyncio.to_thread(self._web3.eth.wait_for_transaction_receipt, tx_hash, 3, 0.05)

    def told(self, event: str, receipt: Any) -> list[dict[str, Any]]:
        return [dict(one["args"]) for one in self._contract.events[event]().process_receipt(receipt)]

    async def refuses(self, reason: str, name: str, *arguments: Any, by: Any = None) -> None:
        before = self.read("head", LOG), self.read("head", OTHER)
        with pytest.raises(ContractLogicError, match=reason):
            await self.call(name, *arguments, by=by)
        assert (self.read("head", LOG), self.read("head", OTHER)) == before


@pytest.fixture
def contract(deployed: Deployed) -> Contract:
    return Contract(deployed)


@pytest.fixture
def stranger(deployed: Deployed) -> Any:
    signer = from_key(SecretStr(secrets.token_hex(32)))
    deployed.node.fund(signer.address)
    return signer


def test_the_artifact_is_what_the_compiler_makes_of_the_source() -> None:
    kept = json.loads(ARTIFACT.read_text())
    assert kept["compiler"].startswith("vyper 0.4.3+")
    assert ARTIFACT.read_text() == spell(build()), "run `python -m contracts` and commit what it writes"


async def test_a_log_grows_from_exactly_the_head_that_is_there(contract: Contract) -> None:
    receipt = await contract.call("anchor", LOG, 0, NO_ROOT, 5, ROOT[0])
    assert contract.told("Anchored", receipt) == [
        {"log_id": LOG, "previous_size": 0, "size": 5, "root": ROOT[0]}
    ]
    await contract.call("anchor", LOG, 5, ROOT[0], 9, ROOT[1])
    assert contract.read("head", LOG) == [9, ROOT[1], 0, False]
    await contract.refuses("fork", "anchor", LOG, 5, ROOT[0], 10, ROOT[2])
    await contract.refuses("fork", "anchor", LOG, 9, ROOT[3], 10, ROOT[2])
    await contract.refuses("fork", "anchor", LOG, 0, NO_ROOT, 10, ROOT[2])
    for size in (0, 8, 9):
        await contract.refuses("not grown", "anchor", LOG, 9, ROOT[1], size, ROOT[2])
    await contract.refuses("no root", "anchor", LOG, 9, ROOT[1], 10, NO_ROOT)
    assert contract.read("head", OTHER) == [0, NO_ROOT, 0, False]


async def test_events_are_recorded_each_once_and_none_left_out(contract: Contract) -> None:
    receipt = await contract.call("record", LOG, 1, [ENTRY, ENTRY])
    assert [one["number"] for one in contract.told("Recorded", receipt)] == [1, 2]
    first = contract.told("Recorded", receipt)[0]
    assert (first["event_id"], first["kind"], first["new_state"], first["hash"]) == (
        ENTRY[0],
        1,
        1,
        b"h" * 32,
    )
    for number in (0, 1, 2, 4):
        await contract.refuses("not the next", "record", LOG, number, [ENTRY])
    await contract.refuses("no entries", "record", LOG, 3, [])
    await contract.call("record", LOG, 3, [ENTRY] * 64)
    assert contract.read("head", LOG) == [0, NO_ROOT, 66, False]


async def test_a_restored_ledger_goes_on_as_another_log_that_says_so(contract: Contract) -> None:
    await contract.refuses("nothing was lost", "begin", OTHER, LOG, 0)
    await contract.call("anchor", LOG, 0, NO_ROOT, 5, ROOT[0])
    await contract.refuses("nothing was lost", "begin", OTHER, LOG, 5)
    receipt = await contract.call("begin", OTHER, LOG, 3)
    assert contract.told("Began", receipt) == [{"log_id": OTHER, "follows": LOG, "since": 3}]
    assert contract.read("head", OTHER) == [0, NO_ROOT, 0, True]
    await contract.refuses("not a new log", "begin", OTHER, LOG, 3)
    await contract.refuses("not a new log", "begin", LOG, LOG, 3)


async def test_nobody_else_may_do_anything(contract: Contract, stranger: Any) -> None:
    await contract.refuses("not a submitter", "anchor", LOG, 0, NO_ROOT, 5, ROOT[0], by=stranger)
    await contract.refuses("not a submitter", "record", LOG, 1, [ENTRY], by=stranger)
    await contract.refuses("not a submitter", "begin", OTHER, LOG, 0, by=stranger)
    await contract.refuses("not a pauser", "pause", by=stranger)
    owners = ("unpause",), ("propose_owner", stranger.address), ("set_submitter", stranger.address, True)
    for call in (*owners, ("set_pauser", stranger.address, True)):
        await contract.refuses("not the owner", *call, by=stranger)
    await contract.refuses("not proposed", "accept_ownership", by=stranger)


async def test_roles_are_given_and_taken_by_the_owner(contract: Contract, stranger: Any) -> None:
    receipt = await contract.call("set_submitter", stranger.address, True)
    assert contract.told("SubmitterSet", receipt) == [{"submitter": stranger.address, "allowed": True}]
    await contract.call("anchor", LOG, 0, NO_ROOT, 5, ROOT[0], by=stranger)
    await contract.call("set_submitter", stranger.address, False)
    await contract.refuses("not a submitter", "anchor", LOG, 5, ROOT[0], 6, ROOT[1], by=stranger)
    await contract.call("propose_owner", stranger.address)
    assert contract.read("owner") == contract.owner.address
    await contract.call("accept_ownership", by=stranger)
    assert contract.read("owner") == stranger.address
    await contract.refuses("not the owner", "set_submitter", stranger.address, True)


async def test_a_pauser_stops_everything_and_only_the_owner_lets_it_go_on(
    contract: Contract, stranger: Any
) -> None:
    await contract.call("set_pauser", stranger.address, True)
    await contract.call("pause", by=stranger)
    await contract.refuses("paused", "anchor", LOG, 0, NO_ROOT, 5, ROOT[0])
    await contract.refuses("paused", "record", LOG, 1, [ENTRY])
    await contract.refuses("not the owner", "unpause", by=stranger)
    await contract.call("unpause")
    await contract.call("anchor", LOG, 0, NO_ROOT, 5, ROOT[0])


async def test_what_it_costs(contract: Contract, deployed: Deployed, report: Callable[[str], None]) -> None:
    gas = {"deploy": deployed.gas}
    gas["first anchor"] = (await contract.call("anchor", LOG, 0, NO_ROOT, 5, ROOT[0]))["gasUsed"]
    gas["anchor"] = (await contract.call("anchor", LOG, 5, ROOT[0], 9, ROOT[1]))["gasUsed"]
    gas["first record"] = (await contract.call("record", LOG, 1, [ENTRY]))["gasUsed"]
    gas["record of 1"] = (await contract.call("record", LOG, 2, [ENTRY]))["gasUsed"]
    gas["record of 64"] = (await contract.call("record", LOG, 3, [ENTRY] * 64))["gasUsed"]
    gas["begin"] = (await contract.call("begin", OTHER, LOG, 3))["gasUsed"]
    report("gas: " + ", ".join(f"{name} {count:,}" for name, count in gas.items()))
    report(
        f"gas per event: {gas['record of 64'] / 64:,.0f} recorded in batches of 64, "
        f"{gas['anchor'] / 1000:,.0f} anchored in batches of 1,000"
    )
    assert gas["anchor"] < 60_000
    assert gas["record of 64"] / 64 < 8_000
