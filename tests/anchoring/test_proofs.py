"""Anybody can check that an event was anchored, with one file and nothing of this server."""

import asyncio
import copy
import http.client
import io
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import verify_proof
from app.anchoring.contract import artifact
from app.main import Parts
from app.positions.model import State
from tests import factories
from tests.anchoring.conftest import Deployed, Settled
from tests.conftest import Run

VERIFIER = Path(verify_proof.__file__)
PROOF = """
query ($id: ID!) { ledgerEvent(id: $id) {
  globalSequence hash
  anchor { id state mode size root txHash blockNumber confirmations chainId contract }
  record { number skipped state }
  proof { leaf index size root path anchorId document }
} }
"""


@pytest.fixture
async def event(parts: Parts, owner: asyncpg.Connection, settled: Settled) -> str:
    """One in the middle of an anchored ledger that is larger than a kept subtree."""
    place = await factories.place(parts.services)
    for _ in range(3):
        await factories.position(parts.services, place.asset, state=State.RELEASED)
    await settled()
    found: str = await owner.fetchval("SELECT id FROM ledger_events WHERE global_sequence = 5")
    return found


@pytest.fixture
async def proof(event: str, run: Run) -> dict[str, Any]:
    """As GraphQL tells it."""
    answered = await run(PROOF, {"id": event})
    assert not answered.errors
    found: dict[str, Any] = json.loads(json.dumps(answered.data["ledgerEvent"]["proof"]["document"]))
    return found


async def test_an_event_tells_where_it_is_anchored_and_what_proves_it(event: str, run: Run) -> None:
    answered = await run(PROOF, {"id": event})
    assert not answered.errors
    found = answered.data["ledgerEvent"]
    assert found["anchor"]["state"] == "FINAL"
    assert int(found["anchor"]["confirmations"]) >= 3
    assert int(found["anchor"]["size"]) >= 5
    assert found["proof"]["leaf"] == found["hash"]
    assert found["proof"]["anchorId"] == found["anchor"]["id"]
    assert found["record"] is None


async def test_the_verifier_agrees_offline_and_by_the_chain(
    proof: dict[str, Any], deployed: Deployed, tmp_path: Path
) -> None:
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proof))
    head = ["--size", str(proof["inclusion"]["size"]), "--root", proof["inclusion"]["root"]]
    chain = ["--rpc", deployed.node.url, "--contract", deployed.contract, "--confirmations", "3"]
    for arguments in ([], head, chain):
        done = await asyncio.to_thread(run_alone, file, arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("HOLDS\n")
    elsewhere = [*chain[:2], "--contract", "0x" + "ab" * 20]
    done = await asyncio.to_thread(run_alone, file, elsewhere)
    assert (done.returncode, "does not anchor this root" in done.stdout) == (1, True)


def run_alone(file: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Without any package: isolated, and without site-packages."""
    command = [sys.executable, "-I", "-S", str(VERIFIER), str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_verifier_names_what_it_requires_and_imports_no_more() -> None:
    text = VERIFIER.read_text()
    assert re.match(r"#!.*\n# requires: Python 3\.\d+ or newer, and nothing else\n", text)
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported <= set(sys.stdlib_module_names)


def test_the_verifier_knows_the_contracts_event() -> None:
    from eth_utils.abi import event_abi_to_log_topic

    (anchored,) = [one for one in artifact()["abi"] if one["type"] == "event" and one["name"] == "Anchored"]
    assert "0x" + event_abi_to_log_topic(anchored).hex() == verify_proof.ANCHORED


def holds(proof: dict[str, Any], head: tuple[int, str]) -> bool:
    try:
        verify_proof.check(proof, head, say=lambda _text: None)
    except (verify_proof.Wrong, UnicodeEncodeError):
        return False
    return True


def flipped(proof: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The proof with one bit changed, for every bit of leaf, content, path, size and root."""
    places: list[tuple[Any, ...]] = [
        ("event", "hash"),
        ("event", "previousHash"),
        ("inclusion", "root"),
        ("logId",),
    ]
    places += [("inclusion", "path", step) for step in range(len(proof["inclusion"]["path"]))]
    for place in places:
        for bit in range(256):
            changed = copy.deepcopy(proof)
            inner: Any = changed
            for name in place[:-1]:
                inner = inner[name]
            value = int(inner[place[-1]], 16) ^ (1 << bit)
            inner[place[-1]] = f"{value:064x}"
            yield f"{place} {bit}", changed
    for name in ("size", "index"):
        for bit in range(40):
            changed = copy.deepcopy(proof)
            changed["inclusion"][name] ^= 1 << bit
            yield f"{name} {bit}", changed
    content = proof["event"]["content"].encode()
    for bit in range(len(content) * 8):
        bytes_ = bytearray(content)
        bytes_[bit // 8] ^= 1 << bit % 8
        changed = copy.deepcopy(proof)
        changed["event"]["content"] = bytes_.decode(errors="surrogateescape")
        yield f"content {bit}", changed


HOSTILE: list[tuple[tuple[str, ...], Any]] = [
    (("ledger",), "x\nHOLDS\x1b[8m"),
    (("event", "id"), "evt_\x1b[2J"),
    (("nonce",), 0),
    (("nonce",), "\r"),
    (("version",), 1.0),
    (("version",), True),
    (("event", "hashVersion"), True),
    (("anchor", "transaction"), "0x\x07"),
]


@pytest.mark.parametrize(("place", "value"), HOSTILE, ids=str)
async def test_what_is_no_plain_value_is_refused_and_never_printed(
    proof: dict[str, Any], deployed: Deployed, tmp_path: Path, place: tuple[str, ...], value: Any
) -> None:
    inner = proof
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proof))
    chain = ["--rpc", deployed.node.url, "--contract", deployed.contract]
    done = await asyncio.to_thread(run_alone, file, chain)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines()[-1].startswith("MALFORMED")
    assert not re.search(r"[^\n -~]|^HOLDS", done.stdout, re.MULTILINE)


async def test_a_proof_is_tied_to_the_ledger_that_is_meant(
    proof: dict[str, Any], deployed: Deployed, tmp_path: Path
) -> None:
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proof))
    chain = ["--rpc", deployed.node.url, "--contract", deployed.contract]
    unnamed = await asyncio.to_thread(run_alone, file, chain)
    assert (unnamed.returncode, "BUT     whose ledger this is" in unnamed.stdout) == (0, True)
    named = await asyncio.to_thread(run_alone, file, [*chain, "--ledger", proof["ledger"]])
    assert (named.returncode, "BUT" in named.stdout) == (0, False)
    other = await asyncio.to_thread(run_alone, file, [*chain, "--ledger", "ab" * 16])
    assert (other.returncode, "the proof is of the ledger" in other.stdout) == (1, True)


@pytest.mark.parametrize("answer", ["{}", "[]", '{"result": {"status": null}}', "[" * 100_000, "nonsense"])
async def test_what_a_node_gets_wrong_is_not_blamed_on_the_proof(
    proof: dict[str, Any], deployed: Deployed, answer: str
) -> None:
    def answers(request: Any, **_: Any) -> io.BytesIO:
        if answer == "nonsense":
            raise http.client.BadStatusLine("garbage")
        told = json.loads(request.data)["method"] == "eth_chainId"
        return io.BytesIO(
            json.dumps({"result": hex(deployed.node.chain_id)}).encode() if told else answer.encode()
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urllib.request, "urlopen", answers)
        with pytest.raises(verify_proof.Unknown):
            verify_proof.check(proof, None, "http://node", deployed.contract, say=lambda _text: None)


def test_a_file_that_is_nested_too_deeply_is_told_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    file.write_text("[" * 200_000 + "]" * 200_000)
    done = run_alone(file, [])
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("MALFORMED the file cannot be read")


@pytest.mark.parametrize(
    "wrong", [["--confirmations", "0"], ["--contract", "0x1234"], ["--contract", ""]], ids=str
)
def test_what_cannot_be_asked_is_a_mistake_of_use(tmp_path: Path, wrong: list[str]) -> None:
    done = run_alone(tmp_path / "none.json", wrong)
    assert done.returncode == 2
    assert "40 hex digits" in done.stderr


async def test_any_flipped_bit_fails(proof: dict[str, Any]) -> None:
    head = (proof["inclusion"]["size"], proof["inclusion"]["root"])
    verify_proof.check(proof, head, say=lambda _text: None)
    count = 0
    for what, changed in flipped(proof):
        count += 1
        assert not holds(changed, head), what
    assert count > 5000


async def test_a_head_of_another_size_fails_by_the_chain(proof: dict[str, Any], deployed: Deployed) -> None:
    proof["inclusion"]["size"] += 1
    with pytest.raises(verify_proof.Wrong):
        await asyncio.to_thread(
            verify_proof.check, proof, None, deployed.node.url, deployed.contract, say=lambda _text: None
        )


async def test_a_proof_of_another_institution_is_not_told(event: str, parts: Parts, run: Run) -> None:
    other = await factories.place(parts.services, name="Somebody Else")
    answered = await run(PROOF, {"id": event}, principal=other.admin)
    assert answered.data == {"ledgerEvent": None}
