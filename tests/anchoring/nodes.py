"""Chains to test on: the development chain (py-evm), and anvil where npm has it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ANVIL = "@foundry-rs/anvil@1.7.1"
ETHER = 10**18
# The development chain rebuilds what it takes back block by block, on whatever the machine leaves it.
ANSWER_SECONDS_MAX = 120


class Node:
    """A running node, told to misbehave from outside."""

    kind = ""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = Request(self.url, body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=ANSWER_SECONDS_MAX) as answer:
            told = json.load(answer)
        if "error" in told:
            raise RuntimeError(told["error"])
        return told.get("result")

    @property
    def chain_id(self) -> int:
        return int(self.ask("eth_chainId"), 16)

    @property
    def height(self) -> int:
        return int(self.ask("eth_blockNumber"), 16)

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.ask("evm_mine")

    def automine(self, on: bool) -> None:
        self.ask("evm_setAutomine", on)

    def snapshot(self) -> str:
        return str(self.ask("evm_snapshot"))

    def revert(self, snapshot: str) -> None:
        self.ask("evm_revert", snapshot)

    def fund(self, account: str) -> None:
        raise NotImplementedError


class DevNode(Node):
    kind = "py-evm"

    def fund(self, account: str) -> None:
        self.ask("evm_fund", account)


class AnvilNode(Node):
    kind = "anvil"

    def fund(self, account: str, ether: int = 100) -> None:
        self.ask("anvil_setBalance", account, hex(ether * ETHER))


@contextmanager
def devchain() -> Iterator[DevNode]:
    """The development chain; blocks are made by transactions and when a test asks."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.anchoring.devchain", "--block-seconds", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield DevNode(process.stdout.readline().strip())
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def anvil_binary(folder: Path) -> Path | None:
    """Where anvil is: ANVIL names it, or npm brings it into `folder`; None where neither can be."""
    if "ANVIL" in os.environ:
        return Path(os.environ["ANVIL"])
    found = sorted(folder.glob("node_modules/@foundry-rs/anvil-*/bin/anvil*"))
    npm = shutil.which("npm")
    if not found and npm is not None:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), ANVIL],
            check=False,
            capture_output=True,
            timeout=150,
        )
        found = sorted(folder.glob("node_modules/@foundry-rs/anvil-*/bin/anvil*"))
    return found[0] if found else None


@contextmanager
def anvil(binary: Path, port: int) -> Iterator[AnvilNode]:
    """One process that leaves nothing behind."""
    process = subprocess.Popen(
        [str(binary), "--host", "127.0.0.1", "--port", str(port), "--silent", "--prune-history", "500"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    node = AnvilNode(f"http://127.0.0.1:{port}")
    try:
        for _ in range(200):
            try:
                node.ask("eth_chainId")
                break
            except OSError:
                if process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield node
    finally:
        process.terminate()
        process.wait(10)
