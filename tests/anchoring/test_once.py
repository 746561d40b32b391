"""`escrowgrid anchor deploy --once`, for containers that start again: one contract, where it was said to be."""

import secrets
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from app import onchain
from app.anchoring.deploying import address_of
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


def test_one_that_would_come_to_be_elsewhere_is_refused_before_it_is_paid(
    node: DevNode, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = node.height
    with pytest.raises(Invalid, match=f"CHAIN_CONTRACT is {ELSEWHERE}.*nothing was sent") as refused:
        onchain.deploy(settings.model_copy(update={"chain_contract": ELSEWHERE}), None, once=True)
    assert node.height == before
    assert settings.chain_key is not None
    there = address_of(from_key(settings.chain_key).address, 0)
    assert there in str(refused.value), "where it would be is what to set"
    onchain.deploy(settings.model_copy(update={"chain_contract": there.lower()}), None, once=True)
    assert capsys.readouterr().out.endswith(f"CHAIN_CONTRACT={there}\n")


@pytest.mark.parametrize(
    ("nonce", "address"),
    [
        (0, "0xcd234A471b72ba2F1Ccf0A70FCABA648a5eeCD8d"),
        (1, "0x343c43A37D37dfF08AE8C4A11544c718AbB4fCF8"),
        (2, "0xf778B86FA74E846c4f0a1fBd1335FE81c00a0C91"),
        (3, "0xffFd933A0bC612844eaF0C6Fe3E5b8E9B6C1d19c"),
    ],
)
def test_where_a_contract_comes_to_be_is_known_before(nonce: int, address: str) -> None:
    """The vectors that implementations of Ethereum share."""
    assert address_of("0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0", nonce) == address


def test_a_node_that_is_away_is_told_of(settings: Settings) -> None:
    away = {"chain_url": SecretStr("http://127.0.0.1:9"), "chain_contract": ELSEWHERE}
    with pytest.raises(Unavailable, match="does not answer"):
        onchain.deploy(settings.model_copy(update=away), None, once=True)
