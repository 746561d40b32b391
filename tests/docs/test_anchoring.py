"""What docs/anchoring.md tells operators and auditors to type works, one behind the other."""

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pydantic import SecretStr

from app.anchoring.keys import from_key
from tests.anchoring import nodes
from tests.anchoring.nodes import DevNode
from tests.docs.blocks import blocks
from tests.e2e.conftest import started, until_ready
from tests.serving import ROOT, Bookkeeper, Server, free_port, plain_environment

BLOCKS = blocks(ROOT / "docs" / "anchoring.md")
WAIT_SECONDS_MAX = 60
PROOF = "query ($id: ID!) { ledgerEvent(id: $id) { proof { size } anchor { state } } }"
HEADS = "{ anchors(first: 2, where: {mode: {eq: ANCHOR}, state: {eq: FINAL}}) { edges { node { id } } } }"
NEWEST = "{ ledgerEvents(last: 1) { edges { node { id } } } }"


def typed(text: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As one script."""
    return subprocess.run(
        ["sh", "-c", f"set -eu\n{text}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def program(folder: Path, name: str, command: str) -> None:
    file = folder / name
    file.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    file.chmod(0o755)


def until_proven(server: Server, node: DevNode, event: str) -> None:
    end = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < end:
        node.mine()
        told = server.ask(PROOF, {"id": event})["ledgerEvent"]
        if told["proof"] is not None and told["anchor"]["state"] == "FINAL":
            return
        time.sleep(0.3)
    raise AssertionError("the event was not anchored in time")


def test_the_page_has_the_blocks_that_are_tried_here() -> None:
    marks = ["operator", "auditor", "auditor, fails"]
    assert [block.mark for block in BLOCKS] == marks * 2


def test_what_an_operator_proves_an_auditor_checks_with_nothing_but_a_file_and_a_node(tmp_path: Path) -> None:
    operator, auditor = tmp_path / "operator", tmp_path / "auditor"
    operator.mkdir()
    auditor.mkdir()
    program(operator, "escrowgrid", f'"{sys.executable}" -m app.cli')
    program(auditor, "python3", f'"{sys.executable}"')
    key = secrets.token_hex(32)
    with nodes.devchain() as node:
        node.fund(from_key(SecretStr(key)).address)
        settings = {"CHAIN_URL": node.url, "CHAIN_ID": str(node.chain_id), "CHAIN_KEY": key}
        settings |= {"CHAIN_CONFIRMATIONS": "3", "CHAIN_BATCH_SECONDS": "0.2", "CHAIN_POLL_SECONDS": "0.2"}
        mine = (
            plain_environment()
            | settings
            | {"PATH": f"{operator}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        )
        deployed = typed("escrowgrid anchor deploy", operator, mine)
        found = re.search(r"CHAIN_CONTRACT=(0x\w{40})", deployed.stdout)
        assert found, deployed.stderr
        mine["CHAIN_CONTRACT"] = settings["CHAIN_CONTRACT"] = found[1]
        server = Server(f"http://127.0.0.1:{free_port()}", f"egroot_{secrets.token_urlsafe(16)}")
        command = ("dev", "--no-demo", "--port", str(server.port))
        with started(command, settings | {"ROOT_API_KEY": server.root_key}, operator) as running:
            until_ready(server, running)
            Bookkeeper(server).open("900000.00")
            event = server.ask(NEWEST)["ledgerEvents"]["edges"][0]["node"]["id"]
            until_proven(server, node, event)
            proved = typed(BLOCKS[0].text, operator, mine | {"EVENT": event})
            assert proved.returncode == 0, proved.stdout + proved.stderr
            assert key not in proved.stdout + proved.stderr
            Bookkeeper(server).open("100.00")
            until_proven(server, node, server.ask(NEWEST)["ledgerEvents"]["edges"][0]["node"]["id"])
            later, earlier = (edge["node"]["id"] for edge in server.ask(HEADS)["anchors"]["edges"])
            grew = typed(BLOCKS[3].text, operator, mine | {"EARLIER": earlier, "LATER": later})
            assert grew.returncode == 0, grew.stdout + grew.stderr
        # Another machine: the proof and the verifier are all that comes along.
        shutil.copy(operator / "proof.json", auditor)
        shutil.copy(operator / "growth.json", auditor)
        shutil.copy(ROOT / "verify_proof.py", auditor)
        (tmp_path / "home").mkdir()
        theirs = {
            "HOME": str(tmp_path / "home"),
            "PATH": f"{auditor}:{os.environ['PATH']}",
            "RPC": node.url,
            "CONTRACT": settings["CHAIN_CONTRACT"],
        }
        checked = typed(BLOCKS[1].text, auditor, theirs)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert checked.stdout.count("HOLDS") == 2
        assert not list((auditor / "empty").glob("lib/*/site-packages/*"))
        grown = typed(BLOCKS[4].text, auditor, theirs)
        assert grown.returncode == 0, grown.stdout + grown.stderr
        assert grown.stdout.endswith("HOLDS\n")
        shrunk = typed(BLOCKS[5].text, auditor, theirs)
        assert shrunk.returncode == 1, shrunk.stdout + shrunk.stderr
        changed = typed(BLOCKS[2].text, auditor, theirs)
        assert changed.returncode == 1
        assert "WRONG   the content does not have this hash" in changed.stdout
