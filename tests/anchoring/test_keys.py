"""Whose key signs, and that it is told to nobody; a setting that is missing is never silent."""

import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from pydantic import SecretStr, ValidationError

from app.anchoring.keys import LocalSigner, from_key, from_keystore, signer_from
from app.errors import Invalid
from app.main import Parts, assemble
from app.positions.model import State
from app.settings import Settings
from app.storage.database import Address
from tests import factories
from tests.anchoring.conftest import PROJECT, Deployed, Settled
from tests.anchoring.proxy import Proxy, drop
from tests.serving import ROOT

KEY = "4c" * 32
CHAIN: dict[str, Any] = {
    "chain_url": "http://127.0.0.1:1/secret-path",
    "chain_id": 1,
    "chain_contract": "0x" + "Ab" * 20,
}


def test_a_keystore_file_and_an_environment_key_sign_alike(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps(Account.encrypt(KEY, "a password", kdf="pbkdf2", iterations=2)))
    one = signer_from(Settings(**CHAIN, chain_key=SecretStr(KEY)))
    settings = Settings(**CHAIN, chain_keystore=file, chain_keystore_password=SecretStr("a password"))
    assert signer_from(settings).address == one.address == Account.from_key(KEY).address
    with pytest.raises(Invalid, match="cannot be opened") as refused:
        from_keystore(file, SecretStr("another password"))
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    with pytest.raises(Invalid, match="cannot be read"):
        from_keystore(tmp_path / "nothing", SecretStr("a password"))


async def test_a_key_is_in_no_repr_and_in_no_pickle() -> None:
    settings = Settings(**CHAIN, chain_key=SecretStr(KEY))
    signer = from_key(SecretStr(KEY))
    raw, tx_hash = await signer.sign(
        {
            "chainId": 1,
            "nonce": 0,
            "to": from_key(SecretStr(KEY)).address,
            "value": 0,
            "gas": 1,
            "gasPrice": 1,
        }
    )
    assert (len(tx_hash), len(raw) > 60) == (32, True)
    for thing in (settings, signer):
        assert KEY not in repr(thing) + str(thing)
        assert "secret-path" not in repr(thing)
    with pytest.raises(TypeError):
        pickle.dumps(signer)
    assert isinstance(signer, LocalSigner)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"chain_key": "no key"}, "CHAIN_KEY is 64 hex digits"),
        ({"chain_url": "ftp://somewhere"}, "CHAIN_URL is an http or https address"),
        ({"chain_contract": "0x12"}, "CHAIN_CONTRACT is an address"),
        (CHAIN, "anchoring needs CHAIN_KEY or CHAIN_KEYSTORE as well"),
        (
            {"chain_contract": CHAIN["chain_contract"], "chain_key": KEY},
            "anchoring needs CHAIN_URL, CHAIN_ID as well",
        ),
        (CHAIN | {"chain_keystore": "file"}, "belong together"),
        (
            CHAIN | {"chain_keystore": "file", "chain_keystore_password": "x", "chain_key": KEY},
            "give either CHAIN_KEY or CHAIN_KEYSTORE",
        ),
    ],
)
def test_half_of_the_settings_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as refused:
        Settings(**given)
    told = str(refused.value.errors(include_input=False, include_context=False))
    assert KEY not in told


async def test_a_url_without_a_contract_does_not_start(address: Address) -> None:
    settings = Settings(chain_url=SecretStr("http://127.0.0.1:1"), chain_id=1, chain_key=SecretStr(KEY))
    with pytest.raises(Invalid, match="CHAIN_CONTRACT is missing"):
        assemble(settings, address)


async def test_neither_key_nor_address_of_the_node_is_logged_whatever_goes_wrong(
    parts: Parts,
    deployed: Deployed,
    proxy: Proxy,
    settled: Settled,
    caplog: pytest.LogCaptureFixture,
    owner: Any,
) -> None:
    caplog.set_level(logging.DEBUG)
    place = await factories.place(parts.services)
    for fault in (
        lambda: {"error": {"code": -32000, "message": "insufficient funds"}},
        lambda: {"error": {"code": -32000, "message": f"no such project: {PROJECT}"}},
        lambda: {"result": "nonsense"},
        drop(),
    ):
        proxy.on("eth_sendRawTransaction", fault, times=2)
        await factories.position(parts.services, place.asset, state=State.FUNDED)
        await settled()
    key = deployed.key.get_secret_value()
    assert key not in caplog.text
    assert "no such project: …" in caplog.text
    assert PROJECT not in caplog.text
    rows = await owner.fetch("SELECT to_jsonb(a)::text AS text FROM anchors a")
    rows += await owner.fetch("SELECT to_jsonb(c)::text AS text FROM anchor_chains c")
    assert not [row for row in rows if key in row["text"] or PROJECT in row["text"]]


def test_a_server_that_does_not_anchor_loads_no_web3() -> None:
    program = (
        "import sys; import app.main, app.commands, app.onchain, app.dev\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} "
        "& {'web3', 'eth_account', 'eth_utils', 'aiohttp', 'coincurve'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


BEARABLE = """
import sys
from pydantic import SecretStr
from app.main import assemble
from app.settings import Settings
from app.storage.database import Address

before = sys.getrecursionlimit()
settings = Settings(chain_url="http://127.0.0.1:1", chain_id=1, chain_contract="0x" + "ab" * 20,
                    chain_key=SecretStr("4c" * 32))
assemble(settings, Address.of("postgresql://nobody@127.0.0.1:1/none"))
assert "web3" in sys.modules
assert sys.getrecursionlimit() == before, sys.getrecursionlimit()
"""


def test_recursion_ends_where_it_does_without_a_chain() -> None:
    run = subprocess.run(
        [sys.executable, "-c", BEARABLE], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
