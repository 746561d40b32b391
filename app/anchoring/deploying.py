"""Puts the contract on a chain: once for each installation, by the account that will own it."""

import asyncio
from decimal import Decimal
from typing import Any

import rlp
from web3 import AsyncWeb3

from app.anchoring.chain import Chain, ChainDown, Client
from app.anchoring.contract import artifact
from app.anchoring.keys import Signer
from app.errors import Invalid, Unavailable

MINED_SECONDS_MAX = 300.0
POLL_SECONDS = 0.2


def address_of(account: str, nonce: int) -> str:
    """Where the contract comes to be that an account makes with that nonce (Ethereum Yellow Paper, section 7)."""
    made = AsyncWeb3.keccak(rlp.encode([bytes.fromhex(account.removeprefix("0x")), nonce]))
    return str(AsyncWeb3.to_checksum_address("0x" + made[12:].hex()))


async def deploy(
    url: str,
    signer: Signer,
    *,
    chain_id: int,
    submitter: str | None = None,
    expected: str | None = None,
    seconds: float = 10.0,
) -> tuple[str, int]:
    """Deploy the contract and wait until it is mined; returns its address, and the gas it took.

    Raises `Invalid`, with nothing sent, when it would not come to be at `expected`.
    """
    client = Client(url, seconds)
    web3: Any = AsyncWeb3(client)
    try:
        found = await web3.eth.chain_id
        if found != chain_id:
            raise Invalid(f"the node is on chain {found}, and CHAIN_ID is {chain_id}")
        nonce = await web3.eth.get_transaction_count(signer.address, "pending")
        there = address_of(signer.address, nonce)
        if expected is not None and there.lower() != expected.lower():
            raise Invalid(
                f"CHAIN_CONTRACT is {expected}, and the next contract of {signer.address} comes to be at {there}: "
                "set it to that address; nothing was sent"
            )
        made = artifact()
        factory = web3.eth.contract(abi=made["abi"], bytecode=made["bytecode"])
        data = factory.constructor(
            AsyncWeb3.to_checksum_address(submitter or signer.address)
        ).data_in_transaction
        block = await web3.eth.get_block("latest")
        tip = await web3.eth.max_priority_fee
        gas = await web3.eth.estimate_gas({"from": signer.address, "data": data})
        raw, tx_hash = await signer.sign(
            {
                "chainId": chain_id,
                "nonce": nonce,
                "value": 0,
                "data": data,
                "gas": int(Decimal(gas) * Decimal("1.2")),
                "maxFeePerGas": 2 * block["baseFeePerGas"] + tip,
                "maxPriorityFeePerGas": tip,
                "type": 2,
            }
        )
        await web3.eth.send_raw_transaction(raw)
        try:
            receipt = await web3.eth.wait_for_transaction_receipt(tx_hash, MINED_SECONDS_MAX, POLL_SECONDS)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, what was sent is told
            raise Unavailable(
                f"sent as 0x{tx_hash.hex()}, and not seen mined: {type(error).__name__}"
            ) from None
        if receipt["status"] != 1:
            raise Unavailable(f"0x{tx_hash.hex()} was reverted")
        return str(receipt["contractAddress"]), int(receipt["gasUsed"])
    finally:
        await client.disconnect()


async def has_contract(url: str, contract: str, *, seconds: float = 10.0) -> bool:
    """Whether there is code at the address already."""
    chain = Chain(url, contract, seconds)
    try:
        return await chain.has_code()
    except ChainDown as error:
        raise Unavailable(str(error)) from None
    finally:
        await chain.close()
