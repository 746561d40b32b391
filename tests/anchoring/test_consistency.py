"""Anybody can check that one anchored head goes on from another, with one file and nothing of this server."""

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import verify_proof
from app.main import Parts
from app.positions.model import State
from app.storage.database import Address
from tests import factories
from tests.anchoring.conftest import Anchors, Deployed, Settled
from tests.anchoring.test_proofs import run_alone
from tests.conftest import Run
from tests.factories import Place
from tests.kit.test_merkle import PROOFS, ROOTS
from tests.serving import ROOT, plain_environment

CONSISTENCY = """
query ($since: ID!, $until: ID!) { anchorConsistency(since: $since, until: $until) {
  sinceSize sinceRoot untilSize untilRoot path document
} }
"""


@pytest.fixture
async def place(parts: Parts) -> Place:
    return await factories.place(parts.services)


@pytest.fixture
async def heads(parts: Parts, place: Place, settled: Settled, anchors: Anchors) -> Sequence[asyncpg.Record]:
    """At least three, of sizes that are no powers of two."""
    for _ in range(3):
        await factories.position(parts.services, place.asset, state=State.RELEASED)
        await settled()
    found = await anchors("mode = 'ANCHOR' AND state = 'FINAL'")
    assert len(found) >= 3
    return found


@pytest.fixture
async def proof(heads: Sequence[asyncpg.Record], run: Run) -> dict[str, Any]:
    """Of the last two heads, as GraphQL tells it."""
    answered = await run(CONSISTENCY, {"since": heads[-2]["id"], "until": heads[-1]["id"]})
    assert not answered.errors
    found: dict[str, Any] = json.loads(json.dumps(answered.data["anchorConsistency"]["document"]))
    return found


async def test_every_head_is_shown_to_go_on_from_every_earlier_one(
    heads: Sequence[asyncpg.Record], place: Place, run: Run
) -> None:
    for last, newer in enumerate(heads):
        for older in heads[: last + 1]:
            asked = {"since": older["id"], "until": newer["id"]}
            answered = await run(CONSISTENCY, asked, principal=place.admin)
            assert not answered.errors
            told = answered.data["anchorConsistency"]
            assert (int(told["sinceSize"]), told["sinceRoot"]) == (older["size"], older["root"].hex())
            assert (int(told["untilSize"]), told["untilRoot"]) == (newer["size"], newer["root"].hex())
            assert told["path"] == told["document"]["consistency"]
            check(told["document"], older, newer)


def check(document: dict[str, Any], older: asyncpg.Record, newer: asyncpg.Record) -> None:
    told = [(one["size"], one["root"].hex()) for one in (older, newer)]
    verify_proof.check(document, told[1], say=lambda _text: None, older=told[0])


async def test_what_cannot_be_shown_is_not(
    heads: Sequence[asyncpg.Record], run: Run, owner: asyncpg.Connection
) -> None:
    first, last = heads[0]["id"], heads[-1]["id"]
    backwards = await run(CONSISTENCY, {"since": last, "until": first})
    assert "give the earlier one first" in str(backwards.errors)
    unknown = await run(CONSISTENCY, {"since": "anc_0", "until": last})
    assert (unknown.data, unknown.errors) == ({"anchorConsistency": None}, [])
    await owner.execute("UPDATE anchors SET state = 'PENDING', final_at = NULL WHERE id = $1", first)
    waiting = await run(CONSISTENCY, {"since": first, "until": last})
    assert (waiting.data, waiting.errors) == ({"anchorConsistency": None}, [])


async def test_a_ledger_that_was_rewritten_shows_nothing(
    heads: Sequence[asyncpg.Record], run: Run, owner: asyncpg.Connection
) -> None:
    await owner.execute("UPDATE anchors SET root = $2 WHERE id = $1", heads[0]["id"], bytes(32))
    answered = await run(CONSISTENCY, {"since": heads[0]["id"], "until": heads[-1]["id"]})
    assert f"anchor {heads[0]['id']} holds another root" in str(answered.errors)


async def test_the_command_writes_it_and_the_verifier_agrees_offline_and_by_the_chain(
    heads: Sequence[asyncpg.Record], address: Address, deployed: Deployed, tmp_path: Path
) -> None:
    file = tmp_path / "consistency.json"
    environment = plain_environment() | {"STORE_BACKEND": "postgres", "DATABASE_URL": address.url}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        spelled = [sys.executable, "-m", "app.cli", "anchor", "consistency", *arguments]
        return subprocess.run(spelled, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    older, newer = heads[0], heads[-1]
    done = await asyncio.to_thread(command, older["id"], newer["id"], str(file))
    assert done.returncode == 0, done.stderr
    given = ["--from-size", str(older["size"]), "--from-root", older["root"].hex()]
    given += ["--size", str(newer["size"]), "--root", newer["root"].hex()]
    chain = ["--rpc", deployed.node.url, "--contract", deployed.contract, "--confirmations", "3"]
    for arguments in ([], given, chain):
        checked = await asyncio.to_thread(run_alone, file, arguments)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert checked.stdout.endswith("HOLDS\n")
    assert checked.stdout.count("anchor  block") == 2
    elsewhere = await asyncio.to_thread(run_alone, file, [*chain[:2], "--contract", "0x" + "ab" * 20])
    assert elsewhere.returncode == 1
    nowhere = await asyncio.to_thread(command, "anc_0", newer["id"])
    assert (nowhere.returncode, "there is no such anchor anc_0 of a head" in nowhere.stderr) == (1, True)


def flipped(proof: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The proof with one bit changed, for every bit of path, sizes, roots and names of logs."""
    hexes: list[tuple[Any, ...]] = [("consistency", step) for step in range(len(proof["consistency"]))]
    hexes += [(end, name) for end in ("from", "to") for name in ("root", "logId")]
    numbers = [(end, name) for end in ("from", "to") for name in ("size", "epoch")]
    for place, bits in [*((one, 256) for one in hexes), *((one, 40) for one in numbers)]:
        for bit in range(bits):
            changed = copy.deepcopy(proof)
            inner: Any = changed[place[0]]
            value = inner[place[1]]
            inner[place[1]] = f"{int(value, 16) ^ (1 << bit):064x}" if bits == 256 else value ^ (1 << bit)
            yield f"{place} {bit}", changed


def holds(proof: dict[str, Any], older: tuple[int, str], newer: tuple[int, str]) -> bool:
    try:
        verify_proof.check(proof, newer, say=lambda _text: None, older=older)
    except verify_proof.Wrong:
        return False
    return True


async def test_any_flipped_bit_of_it_fails(proof: dict[str, Any]) -> None:
    older, newer = ((proof[end]["size"], proof[end]["root"]) for end in ("from", "to"))
    assert holds(proof, older, newer)
    count = 0
    for what, changed in flipped(proof):
        count += 1
        assert not holds(changed, older, newer), what
    assert count >= 256 * (4 + len(proof["consistency"]))


def test_the_verifier_agrees_with_the_reference_vectors_and_with_no_change_of_them() -> None:
    count = 0
    for (first, size), path in PROOFS.items():
        steps = [bytes.fromhex(step) for step in path]
        older, newer = ({"size": one, "root": ROOTS[one - 1]} for one in (first, size))
        verify_proof.check_consistency(older, newer, steps)
        wrong = [steps[:-1], [*steps, bytes(32)], [*steps, *steps], *(
            [*steps[:at], bytes(step ^ 1 for step in steps[at]), *steps[at + 1 :]] for at in range(len(steps))
        )]  # fmt: skip
        for changed in (one for one in wrong if one != steps):
            count += 1
            with pytest.raises(verify_proof.Wrong):
                verify_proof.check_consistency(older, newer, changed)
    assert count >= 18
