"""Starts a development chain with the contract on it, for `escrowgrid dev --chain`."""

import asyncio
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from pydantic import SecretStr

from app.anchoring.chain import Chain
from app.anchoring.deploying import deploy
from app.anchoring.keys import from_key
from app.errors import Invalid

BLOCK_SECONDS = 1.0
END_SECONDS_MAX = 5.0
MISSING = (
    "the development chain needs py-evm, which is not installed: `make run ARGS=--chain` brings it, or "
    "pip install eth-tester py-evm"
)


@contextmanager
def running() -> Iterator[Mapping[str, object]]:
    """The settings of a chain that runs for the length of the block."""
    if find_spec("eth_tester") is None or find_spec("eth") is None:
        raise Invalid(MISSING)
    key = SecretStr(secrets.token_hex(32))
    signer = from_key(key)
    command = [sys.executable, "-m", "app.anchoring.devchain", "--fund", signer.address]
    process = subprocess.Popen(  # noqa: S603 - this interpreter, arguments of ours
        [*command, "--block-seconds", str(BLOCK_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C is for the server: it ends the chain when it is done with it.
        start_new_session=True,
    )
    assert process.stdin is not None, "piped"
    assert process.stdout is not None, "piped"
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise Invalid("the development chain did not start; the lines above say why")
        chain_id = asyncio.run(_chain_id(url))
        contract, _gas = asyncio.run(deploy(url, signer, chain_id=chain_id))
        yield {
            "chain_url": SecretStr(url),
            "chain_id": chain_id,
            "chain_contract": contract.lower(),
            "chain_key": key,
            "chain_confirmations": 3,
            "chain_batch_seconds": 5.0,
            "chain_poll_seconds": 1.0,
        }
    finally:
        process.stdin.close()
        try:
            process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


async def _chain_id(url: str) -> int:
    chain = Chain(url, "0x" + "00" * 20, 10.0)
    try:
        return await chain.chain_id()
    finally:
        await chain.close()
