"""A development chain: py-evm in a process of its own, spoken to over JSON-RPC as any node is. It keeps nothing.

`python -m app.anchoring.devchain` prints its address when it is ready. Beside what is asked of nodes it knows
`evm_mine`, `evm_snapshot`, `evm_revert` and `evm_setAutomine`, so that tests can have it misbehave.
"""

import argparse
import json
import re
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# All of it is a development dependency: nothing else imports this module.
from eth_tester import EthereumTester, PyEVMBackend
from eth_tester.exceptions import BlockNotFound, TransactionFailed, TransactionNotFound, ValidationError
from eth_utils.address import to_checksum_address

CLIENT = "escrowgrid development chain (py-evm)"
GAS = 8_000_000
ETHER = 10**18
TIP = 10**9
# Of Error(string), which a reason comes in.
ERROR_SELECTOR = bytes.fromhex("08c379a0")


class DevelopmentChain:
    """The chain, and what can be asked of it."""

    def __init__(self) -> None:
        self._tester = EthereumTester(backend=PyEVMBackend())
        self._turn = threading.Lock()
        self._automine = True
        self._methods: dict[str, Callable[..., Any]] = {
            "web3_clientVersion": lambda: CLIENT,
            "eth_chainId": lambda: self._tester.backend.chain.chain_id,
            "net_version": lambda: str(self._tester.backend.chain.chain_id),
            "eth_blockNumber": lambda: self._newest()["number"],
            "eth_getBlockByNumber": self._block,
            "eth_getBalance": lambda account, _at="latest": self._tester.get_balance(account),
            "eth_getCode": lambda account, _at="latest": self._tester.get_code(account),
            "eth_getTransactionCount": lambda account, _at="latest": self._tester.get_nonce(account),
            "eth_gasPrice": lambda: 2 * int(self._newest()["base_fee_per_gas"]) + TIP,
            "eth_maxPriorityFeePerGas": lambda: TIP,
            "eth_call": self._call,
            "eth_estimateGas": lambda given, _at="latest": self._tester.estimate_gas(_request(given)),
            "eth_sendRawTransaction": self._send,
            "eth_getTransactionByHash": self._transaction,
            "eth_getTransactionReceipt": self._receipt,
            "eth_getLogs": self._logs,
            "evm_mine": self._mine,
            "evm_snapshot": self._tester.take_snapshot,
            "evm_revert": self._revert,
            "evm_setAutomine": self._set_automine,
            "evm_fund": self._fund,
        }

    def fund(self, account: str) -> None:
        """Give an account something to pay with."""
        with self._turn:
            self._fund(account)

    def mine(self) -> None:
        """Make a block."""
        with self._turn:
            self._tester.mine_block()

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """One call, answered as JSON-RPC demands."""
        told: dict[str, Any] = {"jsonrpc": "2.0", "id": asked.get("id")}
        method = self._methods.get(str(asked.get("method")))
        if method is None:
            return told | {"error": {"code": -32601, "message": "the method is not known"}}
        try:
            with self._turn:
                return told | {"result": _spelled(method(*asked.get("params", ())))}
        except TransactionFailed as error:
            data = _data(error.args[0] if error.args else "")
            return told | {
                "error": {"code": 3, "message": f"execution reverted: {_reason(data)}", "data": _hex(data)}
            }
        except (ValidationError, Exception) as error:  # noqa: BLE001 - py-evm raises what it likes
            return told | {"error": {"code": -32000, "message": _message(error)}}

    def _fund(self, account: str) -> Any:
        given = {"from": self._tester.get_accounts()[0], "to": account, "value": 100 * ETHER, "gas": 21_000}
        return self._tester.send_transaction(given)

    def _newest(self) -> dict[str, Any]:
        found: dict[str, Any] = self._tester.get_block_by_number("latest")
        return found

    def _block(self, at: str, _full: bool = False) -> Any:  # noqa: FBT001, FBT002 - as JSON-RPC has it
        try:
            return self._tester.get_block_by_number(int(at, 16) if at.startswith("0x") else at)
        except BlockNotFound:
            return None

    def _call(self, given: dict[str, Any], _at: str = "latest") -> Any:
        asked = {"from": self._tester.get_accounts()[0], "gas": GAS} | _request(given)
        return self._tester.call(asked)

    def _send(self, raw: str) -> Any:
        return self._tester.send_raw_transaction(raw)

    def _transaction(self, tx_hash: str) -> Any:
        try:
            return self._tester.get_transaction_by_hash(tx_hash)
        except TransactionNotFound:
            return None

    def _receipt(self, tx_hash: str) -> Any:
        try:
            return self._tester.get_transaction_receipt(tx_hash)
        except TransactionNotFound:
            return None

    def _logs(self, given: dict[str, Any]) -> Any:
        return self._tester.get_logs(
            from_block=_number(given.get("fromBlock", "0x0")),
            to_block=_number(given.get("toBlock", "latest")),
            address=given.get("address"),
            topics=given.get("topics"),
        )

    def _mine(self, blocks: str | int = 1) -> Any:
        self._tester.mine_blocks(blocks if isinstance(blocks, int) else int(blocks, 16))
        return True

    def _revert(self, snapshot: str) -> Any:
        self._tester.revert_to_snapshot(int(snapshot, 16))
        return True

    def _set_automine(self, on: bool) -> Any:  # noqa: FBT001 - as JSON-RPC has it
        if on:
            self._tester.enable_auto_mine_transactions()
        else:
            self._tester.disable_auto_mine_transactions()
        return True


NAMES = {"data": "input", "coinbase": "miner"}
REQUEST = {"from", "to", "gas", "value", "data"}


def _request(given: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in given.items() if name in REQUEST}
    if "input" in given:
        found["data"] = given["input"]
    for name in ("gas", "value"):
        if isinstance(found.get(name), str):
            found[name] = int(found[name], 16)
    return {
        name: to_checksum_address(value) if name in ("from", "to") else value for name, value in found.items()
    }


def _number(at: str) -> Any:
    return int(at, 16) if at.startswith("0x") else at


def _spelled(value: Any, name: str = "") -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, str):
        return None if name == "to" and not value else value
    if isinstance(value, dict):
        # A log's data is its data, a transaction's is its input.
        inner = {} if "log_index" in value else NAMES
        return {_camel(inner.get(str(key), str(key))): _spelled(one, key) for key, one in value.items()}
    return [_spelled(one) for one in value]


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _hex(data: Any) -> str:
    return "0x" + data.hex() if isinstance(data, bytes) else "0x"


def _data(told: Any) -> Any:
    """What the contract returned: py-evm hands it inside the error it stopped with."""
    return told.args[0] if isinstance(told, Exception) and told.args else told


def _reason(data: Any) -> str:
    if not isinstance(data, bytes) or not data.startswith(ERROR_SELECTOR):
        return str(data)[:200]
    inner = data[len(ERROR_SELECTOR) :]
    return inner[64 : 64 + int.from_bytes(inner[32:64], "big")].decode(errors="replace")


def _message(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"[:300]
    low = text.lower()
    if "nonce" in low:
        wanted = [int(number) for number in re.findall(r"\d+", text)]
        # Nodes keep those for later; this one does not.
        return f"nonce too {'high' if wanted[1:] and wanted[-1] > wanted[-2] else 'low'}: {text}"
    if "insufficient" in low or "does not have enough balance" in low or "sender" in low:
        return f"insufficient funds: {text}"
    return text


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    chain: DevelopmentChain

    def do_POST(self) -> None:
        """Answer one request."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told = json.dumps(self.chain.answer(asked)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


def serve(port: int, block_seconds: float, funded: Sequence[str]) -> None:
    """Until it is ended; a block every so often, and one for each transaction."""
    chain = DevelopmentChain()
    for account in funded:
        chain.fund(account)
    handler = type("Handler", (_Handler,), {"chain": chain})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    # Whoever started it holds the other end: when that is gone, so is this.
    ended = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    while not ended.wait(block_seconds or None):
        chain.mine()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--block-seconds", type=float, default=1.0)
    parser.add_argument("--fund", action="append", default=[])
    given = parser.parse_args()
    serve(given.port, given.block_seconds, given.fund)
