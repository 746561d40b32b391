"""What a position's screen tells while the chain misbehaves: each state of an anchor in words, as it happens."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser, expect
from pydantic import SecretStr

from app.anchoring.deploying import deploy
from app.anchoring.keys import from_key
from tests.anchoring import nodes
from tests.anchoring.conftest import Deployed
from tests.anchoring.proxy import Proxy, drop, running
from tests.anchoring.test_contract import Contract
from tests.serving import Bookkeeper, Server, served

from .visiting import Visit, key_of, visiting

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

PATIENCE_MILLISECONDS = 60_000
RECORDED = """
mutation ($i: ID!, $chain: Long!) {
  made: createAssetTemplate(input: {institutionId: $i, name: "Recorded", code: "CONSTR_ESCROW", region: US,
    config: {currency: "USD", region: "US"}, onchain: {enabled: true, chainId: $chain}}) {
    assetTemplate { id } userErrors { message } } }"""
ASSET = """
mutation ($i: ID!, $t: ID!) { made: createAsset(input: {institutionId: $i, templateId: $t, label: "Recorded"}) {
  asset { id } userErrors { message } } }"""


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    """A chain that makes a block when it is told to, or when somebody sends something."""
    with nodes.devchain() as node:
        key = SecretStr(secrets.token_hex(32))
        signer = from_key(key)
        node.fund(signer.address)
        contract, gas = asyncio.run(deploy(node.url, signer, chain_id=node.chain_id))
        yield Deployed(node, contract.lower(), key, signer, gas)


@pytest.fixture(scope="module")
def proxy(deployed: Deployed) -> Iterator[Proxy]:
    with running(deployed.node.url) as found:
        yield found


@pytest.fixture(scope="module")
def anchoring(deployed: Deployed, proxy: Proxy) -> Iterator[Server]:
    settings = {
        "CHAIN_URL": proxy.url,
        "CHAIN_ID": str(deployed.node.chain_id),
        "CHAIN_CONTRACT": deployed.contract,
        "CHAIN_KEY": deployed.key.get_secret_value(),
        "CHAIN_CONFIRMATIONS": "3",
        "CHAIN_BATCH_SECONDS": "0.05",
        "CHAIN_POLL_SECONDS": "0.1",
        "CHAIN_RESEND_SECONDS": "0.3",
    }
    with served("--no-demo", settings=settings) as server:
        yield server


@pytest.fixture
async def visit(shared_browser: Browser, anchoring: Server) -> AsyncIterator[Visit]:
    async with visiting(shared_browser, anchoring.url, offers_keys=False) as made:
        yield made


async def test_an_event_that_is_recorded_by_itself_says_so(
    visit: Visit, anchoring: Server, deployed: Deployed
) -> None:
    books = await asyncio.to_thread(Bookkeeper, anchoring)
    made = await asyncio.to_thread(
        anchoring.ask, RECORDED, {"i": books.institution_id, "chain": deployed.node.chain_id}
    )
    template = made["made"]["assetTemplate"]["id"]
    made = await asyncio.to_thread(anchoring.ask, ASSET, {"i": books.institution_id, "t": template})
    books.asset_id = made["made"]["asset"]["id"]
    position = await asyncio.to_thread(books.open, "8.00")
    key = await asyncio.to_thread(key_of, anchoring, books.institution_id, "READ_ONLY")
    await visit.open(f"/positions/{position}", key=key)
    line = visit.page.locator(".timeline > li .anchored").first
    await expect(line).to_contain_text("Anchored in block", timeout=PATIENCE_MILLISECONDS)
    await asyncio.to_thread(deployed.node.mine, 3)
    await line.locator("summary").click()
    await expect(line.locator(".proof")).to_contain_text("by itself, as number 1")
    await visit.picture("anchor-recorded", line)


async def test_each_state_of_an_anchor_is_told_in_words_as_it_happens(
    visit: Visit, anchoring: Server, deployed: Deployed, proxy: Proxy
) -> None:
    books = await asyncio.to_thread(Bookkeeper, anchoring)
    node, contract = deployed.node, Contract(deployed)
    line = visit.page.locator(".timeline > li .anchored").first

    async def told(words: str) -> None:
        await expect(line).to_contain_text(words, timeout=PATIENCE_MILLISECONDS)

    key = await asyncio.to_thread(key_of, anchoring, books.institution_id, "READ_ONLY")
    # What waits says why.
    proxy.on("eth_estimateGas", lambda: {"error": {"code": -32000, "message": "insufficient funds"}})
    position = await asyncio.to_thread(books.open, "7.00")
    await visit.open(f"/positions/{position}", key=key)
    await told(f"Waits for chain {node.chain_id}: ")
    before = await asyncio.to_thread(node.snapshot)
    await asyncio.to_thread(node.automine, False)
    proxy.well()
    await told(f"On its way to chain {node.chain_id}")
    await asyncio.to_thread(node.mine)
    await asyncio.to_thread(node.automine, True)
    await told("Anchored in block")
    await expect(line).to_contain_text(re.compile("[12] confirmations? so far"))
    await asyncio.to_thread(node.mine, 3)
    await told("Anchored for good in block")
    await visit.picture("anchor-final", line)

    # Deeper than anybody waits for: what was for good is not, and is sent again.
    proxy.on("eth_sendRawTransaction", drop())
    await asyncio.to_thread(node.revert, before)
    await asyncio.to_thread(node.mine, 2)
    await told("The chain dropped its block; it is sent again")
    await visit.picture("anchor-reorged", line)
    proxy.well()
    await told("Anchored in block")
    await asyncio.to_thread(node.mine, 3)
    await told("Anchored for good in block")

    await contract.call("pause")
    proxy.on("eth_estimateGas", lambda: {"result": hex(200_000)})
    await asyncio.to_thread(books.fund, position)
    await told("The contract refuses it; an operator has to look")
    await visit.picture("anchor-failed", line)
