"""`escrowgrid anchor deploy --once`, for containers that start again: one contract, where it was said to be."""

import secrets
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from app import onchain
from app.anchoring.keys import from_key
from app.errors import Invalid, Unavailable
from app.settings import Settings
from tests.anchoring import nodes
from tests.anchoring.nodes import DevNode

ELSEWHERE = "0x" + "11" * 20


@pytest.fixture(scope="module")
def node() -> Iterator[DevNode]:
    with nodes.devchain() as made:
        yield made


@pytest.fixture
def settings(node: DevNode) -> Settings:
    key = SecretStr(secrets.token_hex(32))
    node.fund(from_key(key).address)
    return Settings(chain_url=SecretStr(node.url), chain_id=node.chain_id, chain_key=key)


def test_it_has_to_be_told_where(node: DevNode, settings: Settings) -> None:
    before = node.height
    with pytest.raises(Invalid, match="set it"):
        onchain.deploy(settings, None, once=True)
    assert node.height == before


def test_what_is_there_is_left_as_it_is(
    node: DevNode, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    onchain.deploy(settings, None)
    contract = capsys.readouterr().out.strip().partition("CHAIN_CONTRACT=")[2].lower()
    before = node.height
    onchain.deploy(settings.model_copy(update={"chain_contract": contract}), None, once=True)
    assert capsys.readouterr().out == f"The contract is at {contract} already.\n"
    assert node.height == before


def test_a_contract_at_another_address_is_told_of(settings: Settings) -> None:
    with pytest.raises(Invalid, match=f"deployed at 0x.*, and CHAIN_CONTRACT is {ELSEWHERE}"):
        onchain.deploy(settings.model_copy(update={"chain_contract": ELSEWHERE}), None, once=True)


def test_a_node_that_is_away_is_told_of(settings: Settings) -> None:
    away = {"chain_url": SecretStr("http://127.0.0.1:9"), "chain_contract": ELSEWHERE}
    with pytest.raises(Unavailable, match="does not answer"):
        onchain.deploy(settings.model_copy(update=away), None, once=True)
