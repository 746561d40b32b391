"""A file that is no proof is told apart from one that does not hold, in one line that names what is wrong."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import verify_proof
from verify_proof import sha256

VERIFIER = Path(verify_proof.__file__)
LEDGER = "ab" * 16
RIGHT, WRONG, UNKNOWN, MALFORMED = 0, 1, 2, 3
Json = Any


def a_leaf(index: int) -> tuple[dict[str, Json], bytes]:
    """An event and its hash, spelled as a proof tells it."""
    fields: list[Json] = ["x"] * verify_proof.SEQUENCE_PLACE + [index + 1]
    fields[verify_proof.ID_PLACE] = f"evt_{index}"
    content, previous = json.dumps(fields), "00" * 32
    hashed = sha256(verify_proof.EVENT_TAG, bytes.fromhex(previous), content.encode())
    event = {"id": f"evt_{index}", "hash": hashed.hex(), "previousHash": previous, "hashVersion": 1}
    return {**event, "content": content}, hashed


def a_head(root: bytes, size: int) -> dict[str, Json]:
    log = sha256(verify_proof.LOG_TAG, f"{LEDGER}:2:n0".encode())
    anchor = {"id": "anc_1", "chainId": 1, "transaction": "0x01", "contract": "0x02", "block": None}
    return {"epoch": 2, "nonce": "n0", "logId": log.hex(), "anchor": anchor, "size": size, "root": root.hex()}


def proofs() -> dict[str, Json]:
    """Of the only event of a ledger, of the second one of two, and that the ledger grew from one to two."""
    (first, one), (second, two) = a_leaf(0), a_leaf(1)
    leaf_one, leaf_two = sha256(b"\0", one), sha256(b"\0", two)
    root = sha256(b"\1", leaf_one, leaf_two)
    about = {"version": 1, "ledger": LEDGER}

    def of(event: Json, index: int, path: list[str], head: dict[str, Json]) -> dict[str, Json]:
        inclusion = {"index": index, "size": head.pop("size"), "root": head.pop("root"), "path": path}
        return {**about, **head, "event": event, "inclusion": inclusion}

    growth = {
        "from": a_head(leaf_one, 1),
        "to": a_head(root, 2),
        "consistency": [leaf_two.hex()],
    }
    return {
        "alone": of(first, 0, [], a_head(leaf_one, 1)),
        "second": of(second, 1, [leaf_one.hex()], a_head(root, 2)),
        "growth": {**about, **growth},
    }


PROOFS = proofs()


def places(inside: Json, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, the whole of it among them."""
    yield so_far
    if isinstance(inside, dict):
        for name, value in inside.items():
            yield from places(value, (*so_far, name))
    if isinstance(inside, list):
        for place, value in enumerate(inside):
            yield from places(value, (*so_far, place))


def put(inside: Json, place: tuple[Any, ...], value: Json) -> Json:
    changed = copy.deepcopy(inside)
    if not place:
        return value
    where = changed
    for name in place[:-1]:
        where = where[name]
    where[place[-1]] = value
    return changed


def meant(proof: Json) -> str:
    """All that a proof is checked for: not what it says of its anchor, where no chain is asked."""
    if isinstance(proof, dict):
        kept = {name: value for name, value in proof.items() if name != "anchor"}
        return "{" + ",".join(f"{name!r}:{meant(kept[name])}" for name in sorted(kept)) + "}"
    return repr(proof)


def verified(text: bytes, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit code, and what was said; whoever raises fails the test."""
    capsys.readouterr()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "proof.json"
        file.write_bytes(text)
        code = verify_proof.main([str(file)])
    said = capsys.readouterr()
    assert not said.err
    return code, said.out.splitlines()


JSON: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -1, 10**4000, 1.0, 0.0, "", "\ud800", "00" * 32, "0" * 64])
    | st.floats()
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", PROOFS)
def test_a_good_proof_holds(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = verified(json.dumps(PROOFS[kind]).encode(), capsys)
    assert (code, said[-1]) == (RIGHT, "HOLDS")


@pytest.mark.parametrize("kind", PROOFS)
def test_a_name_that_is_there_twice_is_no_proof_whichever_of_the_two_is_right(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(PROOFS[kind])
    for first, second in (("other", LEDGER), (LEDGER, "other"), (LEDGER, LEDGER)):
        twice = text.replace(f'"ledger": "{LEDGER}"', f'"ledger": "{first}", "ledger": "{second}"')
        assert twice != text
        code, said = verified(twice.encode(), capsys)
        assert (code, said) == (MALFORMED, ["MALFORMED a name is there twice in one object of the file"])


@pytest.mark.parametrize("kind", PROOFS)
def test_any_value_at_any_place_gives_an_answer_and_never_a_wrong_one(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = PROOFS[kind]

    @settings(max_examples=1500, deadline=None)
    @given(st.sampled_from(list(places(proof))), JSON)
    def check(place: tuple[Any, ...], value: Json) -> None:
        changed = put(proof, place, value)
        code, said = verified(json.dumps(changed).encode(), capsys)
        assert code in {RIGHT, WRONG, MALFORMED}
        assert said[-1].split(" ")[0] == ("HOLDS", "WRONG", "UNKNOWN", "MALFORMED")[code]
        assert all(re.fullmatch("[ -~]*", line) for line in said), "plain letters"
        if code == RIGHT:
            assert meant(changed) == meant(proof)

    check()


@pytest.mark.parametrize("kind", PROOFS)
def test_a_name_that_is_missing_is_named(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for place in places(PROOFS[kind]):
        if not place or isinstance(place[-1], int) or "anchor" in place:
            continue
        changed = copy.deepcopy(PROOFS[kind])
        where = changed
        for name in place[:-1]:
            where = where[name]
        del where[place[-1]]
        code, said = verified(json.dumps(changed).encode(), capsys)
        assert code == MALFORMED
        if place != ("consistency",):  # else it is read as a proof of an event
            assert said[-1] == f"MALFORMED the proof.{'.'.join(place)} is missing"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "the file cannot be read: Expecting value"),
        (b"{", "the file cannot be read: Expecting property name"),
        (b"\xff\xfe", "the file cannot be read: "),
        (b"[" * 200_000, "the file cannot be read: "),
        (b"1" * 10_000, "the file cannot be read: Exceeds the limit"),
        (b"NaN", "the proof is not an object"),
        (b"[]", "the proof is not an object"),
        (b"null", "the proof is missing"),
        (b"{}", "the proof.version is missing"),
        (b'{"version": NaN}', "the proof.version is not 1, the version known here"),
        (b'{"version": 2}', "the proof.version is not 1, the version known here"),
        (b'{"version": 1, "ledger": "\\u001b[2J"}', "the proof.ledger is not spelled like one"),
    ],
    ids=lambda one: one[:30] if isinstance(one, bytes) else "",
)
def test_what_is_malformed_is_told_in_one_line(
    text: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (line,) = verified(text, capsys)
    assert code == MALFORMED
    assert line.startswith(f"MALFORMED {told}")


def alone(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-I", VERIFIER, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONIOENCODING": "ascii"},
    )


def test_a_file_that_is_not_there_is_no_malformed_proof(tmp_path: Path) -> None:
    done = alone(str(tmp_path / "nöne.json"))
    assert (done.returncode, done.stderr) == (UNKNOWN, "")
    assert done.stdout.startswith("UNKNOWN the file cannot be read")


def test_an_address_that_is_none_is_not_blamed_on_the_proof(tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(PROOFS["second"]))
    done = alone(str(file), "--rpc", "no address")
    assert (done.returncode, done.stderr) == (UNKNOWN, "")
    assert "UNKNOWN the node does not answer" in done.stdout


def test_the_help_names_every_exit_code() -> None:
    told = " ".join(alone("--help").stdout.split())
    for code, name in enumerate(("HOLDS", "WRONG", "UNKNOWN", "MALFORMED")):
        assert re.search(rf"\b{code} when [^,]*\({name}\)", told), name
