"""The chain, through web3.py: the one module that asks a node anything."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import aiohttp
from eth_typing import ChecksumAddress, HexStr
from hexbytes import HexBytes
from web3 import AsyncWeb3
from web3.exceptions import (
    ContractLogicError,
    TransactionNotFound,
    Web3Exception,
    Web3RPCError,
)
from web3.providers.rpc import AsyncHTTPProvider
from web3.types import RPCEndpoint, TxParams

from app.anchoring.contract import artifact
from app.anchoring.model import Anchor, Fees, Head, Mode, Receipt, Transaction

# It tells the address of the node with every request, which may hold a key.
logging.getLogger("web3").setLevel(logging.WARNING)

T = TypeVar("T")

ANSWER_BYTES_MAX = 16 * 1024 * 1024
# What an estimate may be off by when the block comes: another fee, a slot that was empty.
GAS_MARGIN = Decimal("1.2")
RESULT_LENGTH_MAX = 300
SECRET_LENGTH_MIN = 12


class ChainDown(Exception):
    """The node does not answer, or not with what it should: nothing is known, ask again later."""


class Refused(Exception):
    """The node or the contract refuses this transaction; the message says why."""


class NoFunds(Refused):
    """The account cannot pay for it."""


class NonceTaken(Refused):
    """The account's nonce was used by another transaction."""


class Client(AsyncHTTPProvider):
    """HTTP with a session of our own.

    Web3's locks all providers of a process for ever when a request is cancelled, and sends again by itself, after
    which nobody knows whether a transaction was refused or sent before.
    """

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(url, exception_retry_configuration=None)
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=seconds)
        self._session: aiohttp.ClientSession | None = None

    async def _make_request(self, method: RPCEndpoint, request_data: bytes) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=request_data, headers=headers) as answer:
            found = await answer.content.read(ANSWER_BYTES_MAX + 1)
            if len(found) > ANSWER_BYTES_MAX:
                raise ChainDown("the node answers more than can be read")
            if not found.lstrip().startswith(b"{"):
                raise ChainDown(f"the node answers HTTP {answer.status}, which is no JSON-RPC")
            return found

    async def disconnect(self) -> None:
        """Close the session."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class Chain:
    """One node, one contract."""

    def __init__(self, url: str, contract: str, seconds: float) -> None:
        self._seconds = seconds
        self._secrets = [word for word in re.split(r"[/:?&=@]+", url) if len(word) >= SECRET_LENGTH_MIN]
        self._provider = Client(url, seconds)
        self._web3 = AsyncWeb3(self._provider)
        self._address: ChecksumAddress = AsyncWeb3.to_checksum_address(contract)
        self._contract: Any = self._web3.eth.contract(address=self._address, abi=artifact()["abi"])

    async def close(self) -> None:
        """Close the connection."""
        await self._provider.disconnect()

    async def _ask(self, question: Awaitable[T]) -> T:
        """An answer of the node; `ChainDown` when there is none, `Refused` when it says no."""
        try:
            async with asyncio.timeout(self._seconds):
                return await question
        except TransactionNotFound:
            raise
        except ContractLogicError as error:
            raise Refused(f"the contract refuses: {self._told(error.message or str(error))}") from None
        except Web3RPCError as error:
            raise _refusal(self._told(_message(error))) from None
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            raise ChainDown(f"the node does not answer: {type(error).__name__}") from None
        except (Web3Exception, ValueError, TypeError, KeyError) as error:
            raise ChainDown(f"the node answers what cannot be understood: {type(error).__name__}") from None

    def _told(self, text: str) -> str:
        """What the node says, without what its address holds: hosted nodes take keys there, and some repeat them."""
        for word in self._secrets:
            text = text.replace(word, "…")
        return text[:RESULT_LENGTH_MAX]

    async def chain_id(self) -> int:
        """Which chain this is."""
        return int(await self._ask(self._web3.eth.chain_id))

    async def has_code(self) -> bool:
        """Whether there is a contract at the address: calls of an address without code succeed and do nothing."""
        return len(await self._ask(self._web3.eth.get_code(self._address))) > 0

    async def latest(self) -> int:
        """The number of the newest block."""
        return int(await self._ask(self._web3.eth.block_number))

    async def balance(self, account: str) -> Decimal:
        """What the account has, in the chain's own coin."""
        found = await self._ask(self._web3.eth.get_balance(AsyncWeb3.to_checksum_address(account)))
        return Decimal(found) / Decimal(10**18)

    async def nonce(self, account: str, *, pending: bool) -> int:
        """How many transactions of the account were mined (with `pending`: or are known to the node)."""
        where = "pending" if pending else "latest"
        asked = self._web3.eth.get_transaction_count(AsyncWeb3.to_checksum_address(account), where)  # type: ignore[arg-type]
        return int(await self._ask(asked))

    async def head(self, log_id: bytes) -> Head:
        """What the contract holds of a log."""
        size, root, recorded, begun = await self._ask(self._contract.functions.head(log_id).call())
        return Head(int(size), bytes(root), int(recorded), bool(begun))

    async def market(self) -> tuple[Decimal, Decimal]:
        """The base fee of the next block as far as is known, and the tip that the node advises, in wei."""
        block = await self._ask(self._web3.eth.get_block("latest"))
        base = block.get("baseFeePerGas")
        if base is None:
            raise ChainDown("the chain has no base fee (EIP-1559), which is needed here")
        tip = await self._ask(self._web3.eth.max_priority_fee)
        return Decimal(int(base)), Decimal(int(tip))

    def call(self, anchor: Anchor, entries: Sequence[tuple[Any, ...]] = ()) -> bytes:
        """The call of the contract that an anchor is; `entries` are those of its records."""
        match anchor.mode:
            case Mode.ANCHOR:
                given = (anchor.previous_size, anchor.previous_root, anchor.size, anchor.root)
                encoded = self._contract.encode_abi("anchor", args=[anchor.log_id, *given])
            case Mode.RECORD:
                encoded = self._contract.encode_abi(
                    "record", args=[anchor.log_id, anchor.first, list(entries)]
                )
            case Mode.BEGIN:
                encoded = self._contract.encode_abi(
                    "begin", args=[anchor.log_id, anchor.follows, anchor.since]
                )
        return bytes(HexBytes(encoded))

    async def estimate(self, account: str, call: bytes) -> int:
        """The gas to allow; raises `Refused` when the contract would not take it, `NoFunds` when nobody can pay."""
        asked = self._web3.eth.estimate_gas(
            {"from": AsyncWeb3.to_checksum_address(account), "to": self._address, "data": HexBytes(call)}
        )
        return int(Decimal(await self._ask(asked)) * GAS_MARGIN)

    def transaction(self, chain_id: int, nonce: int, call: bytes, gas: int, fees: Fees) -> TxParams:
        """What is to be signed."""
        return {
            "chainId": chain_id,
            "nonce": nonce,  # type: ignore[typeddict-item]
            "to": self._address,
            "value": 0,  # type: ignore[typeddict-item]
            "data": HexStr("0x" + call.hex()),
            "gas": gas,
            "maxFeePerGas": int(fees.most),  # type: ignore[typeddict-item]
            "maxPriorityFeePerGas": int(fees.tip),  # type: ignore[typeddict-item]
            "type": 2,
        }

    async def send(self, transaction: Transaction) -> None:
        """Hand a signed transaction to the node; that it knows it already is as good."""
        try:
            await self._ask(self._web3.eth.send_raw_transaction(transaction.raw))
        except Refused as refusal:
            if not _is_known(str(refusal)):
                raise

    async def knows(self, tx_hash: bytes) -> bool:
        """Whether the node has the transaction, mined or not."""
        try:
            await self._ask(self._web3.eth.get_transaction(HexBytes(tx_hash)))
        except TransactionNotFound:
            return False
        return True

    async def receipt(self, tx_hash: bytes) -> Receipt | None:
        """Where a transaction was mined; None when it was not, or no longer is."""
        try:
            found = await self._ask(self._web3.eth.get_transaction_receipt(HexBytes(tx_hash)))
        except TransactionNotFound:
            return None
        if found is None or found.get("blockHash") is None:
            return None
        return Receipt(
            tx_hash=bytes(found["transactionHash"]),
            block_number=int(found["blockNumber"]),
            block_hash=bytes(found["blockHash"]),
            gas_used=int(found["gasUsed"]),
            succeeded=int(found["status"]) == 1,
        )


def _message(error: Web3RPCError) -> str:
    """The words of the node itself."""
    found = (error.rpc_response or {}).get("error")
    return str(found["message"]) if isinstance(found, dict) and "message" in found else str(error.message)


def _refusal(text: str) -> Exception:
    low = text.lower()
    if "insufficient funds" in low or "insufficient balance" in low:
        return NoFunds(text)
    if "nonce too low" in low or "invalid nonce" in low:
        return NonceTaken(text)
    if "revert" in low:
        return Refused(f"the contract refuses: {text}")
    known = ("underpriced", "nonce", "already known", "already imported", "fee", "gas", "known transaction")
    return Refused(text) if any(word in low for word in known) else ChainDown(f"the node says: {text}")


def _is_known(text: str) -> bool:
    return any(word in text.lower() for word in ("already known", "already imported", "known transaction"))
