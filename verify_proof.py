#!/usr/bin/env python3
# requires: Python 3.9 or newer, and nothing else
"""Checks that an event is in a ledger whose head was anchored on a chain, without trusting whoever runs the ledger.

    python verify_proof.py proof.json                              is the proof sound in itself, and which root has it?
    python verify_proof.py proof.json --size 8 --root 5dc9…        does it lead to this head?
    python verify_proof.py proof.json --rpc https://… --contract 0x…   is this root anchored on the chain?

Of a proof of consistency it checks that the ledger only grew from one head to a later one; --size and --root are the
later one's then, --from-size and --from-root the earlier one's, and both are looked for on the chain.
Give the contract's address and the ledger's name as you know them from elsewhere: what comes with the proof proves
nothing. Exits with 0 when everything holds (HOLDS), 1 when something does not (WRONG), 2 when it could not be found out
(UNKNOWN) or was asked for wrongly, 3 when the file is no proof at all (MALFORMED).

What is checked (RFC 6962, with SHA-256):
  1. hash  = sha256("escrowgrid.event.1" + previous hash + content): the content is what was hashed;
  2. leaf  = sha256(0x00 + hash), and with the path from the leaf up: root;
  3. log   = sha256("escrowgrid.log.1" + ledger + ":" + epoch), after a restore + ":" + nonce: whose root it is;
  4. the transaction's receipt holds the contract's Anchored(log, previous size, size, root);
  of a proof of consistency, instead of 1 and 2: the path leads to both roots (RFC 9162, section 2.1.4.2).
"""

import argparse
import hashlib
import http.client
import json
import re
import sys
import urllib.request

EVENT_TAG = b"escrowgrid.event.1"
LOG_TAG = b"escrowgrid.log.1"
# keccak256("Anchored(bytes32,uint64,uint64,bytes32)")
ANCHORED = "0x7cd1aecde99af6811cf75335397526e9c32ca8eed27035d2eee23d41062d837d"
# Where the content, a JSON array, has the event's id and its place in the ledger (from 1).
ID_PLACE, SEQUENCE_PLACE = 1, 34
SIZE_MAX = 2**63
# What a proof looks like. A name has nothing in it that a terminal could take for more than text.
HEX, WORD, TEXT = "[0-9a-f]{64}", "[0-9A-Za-z_-]{0,66}", "[^\ud800-\udfff]*"
KINDS = {HEX: "64 lower-case hex digits", WORD: "spelled like one", TEXT: "text", dict: "an object"}
KINDS |= {list: "a list", int: "a whole number from 0 to 2**63", 1: "1, the version known here"}
HEAD, TREE = {"epoch": int, "nonce": WORD, "logId": HEX}, {"size": int, "root": HEX}
EVENT = {"id": WORD, "hash": HEX, "previousHash": HEX, "hashVersion": 1, "content": TEXT}
LEAF = {"event": EVENT, "inclusion": {"index": int, "path": [HEX], **TREE}, **HEAD}
ANY, GROWTH = {"version": 1, "ledger": WORD}, {"consistency": [HEX], "from": HEAD | TREE, "to": HEAD | TREE}
ANCHOR = {"anchor": {"chainId": int, "transaction": WORD, "contract": WORD}}
ENDS = ("HOLDS", "WRONG  ", "UNKNOWN", "MALFORMED")


class Wrong(Exception):
    """The proof does not hold."""


class Malformed(Wrong):
    """It is not spelled like a proof: there is nothing to check."""


class Unknown(Exception):
    """It could not be found out."""


def sha256(*parts):
    """The hash of all parts, one behind the other."""
    return hashlib.sha256(b"".join(parts)).digest()


def once(pairs):
    """An object of JSON, each name of it there once: of two, one reader takes the first and another the last."""
    if len(dict(pairs)) < len(pairs):
        raise Malformed("a name is there twice in one object of the file")
    return dict(pairs)


def require(value, shape, what):
    """That JSON has a shape: an object with those names at least, a list of one shape, a number, or a spelling."""
    is_number = type(value) is int and shape in (int, value) and 0 <= value < SIZE_MAX
    is_text = isinstance(shape, str) and isinstance(value, str) and re.fullmatch(shape, value)
    if isinstance(shape, dict) and isinstance(value, dict):
        for name, inner in shape.items():
            require(value.get(name), inner, f"{what}.{name}")
    elif isinstance(shape, list) and isinstance(value, list):
        for place, one in enumerate(value):
            require(one, shape[0], f"{what}.{place}")
    elif not is_number and not is_text:
        kind = KINDS[type(shape) if isinstance(shape, (dict, list)) else shape]
        raise Malformed(f"{what} is missing" if value is None else f"{what} is not {kind}")


def root_of(leaf, index, size, path):
    """The root that an inclusion proof leads to: RFC 9162, section 2.1.3.2."""
    if index >= size:
        raise Wrong("the leaf is beyond the end of the tree")
    here, last, found = index, size - 1, sha256(b"\x00", leaf)
    for sibling in path:
        if last == 0:
            raise Wrong("the path is too long")
        if here & 1 or here == last:
            found = sha256(b"\x01", sibling, found)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            found = sha256(b"\x01", found, sibling)
        here, last = here >> 1, last >> 1
    if last:
        raise Wrong("the path is too short")
    return found


def check_event(proof):
    """That the content was hashed, and sits where the proof says; returns the hash."""
    event, content = proof["event"], proof["event"]["content"]
    found = sha256(EVENT_TAG, bytes.fromhex(event["previousHash"]), content.encode())
    if found.hex() != event["hash"]:
        raise Wrong("the content does not have this hash")
    fields = json.loads(content)
    if not isinstance(fields, list) or fields[ID_PLACE : ID_PLACE + 1] != [event["id"]]:
        raise Wrong("the content is of another event")
    if repr(fields[SEQUENCE_PLACE : SEQUENCE_PLACE + 1]) != repr([proof["inclusion"]["index"] + 1]):
        raise Wrong("the content has another place in the ledger")
    return found


def roots_of(first, first_root, size, path):
    """The roots of the first leaves and of all that a consistency proof leads to: RFC 9162, section 2.1.4.2."""
    hashes = list(path) if first & (first - 1) else [first_root, *path]
    if not hashes:
        raise Wrong("the path is too short")
    here, last = first - 1, size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise Wrong("the path is too long")
        if here & 1 or here == last:
            before, after = sha256(b"\x01", sibling, before), sha256(b"\x01", sibling, after)
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            after = sha256(b"\x01", after, sibling)
        here, last = here >> 1, last >> 1
    if last:
        raise Wrong("the path is too short")
    return before, after


def check_consistency(older, newer, path):
    """That the newer head is of all that the older one has, and more behind it."""
    first, size = older["size"], newer["size"]
    first_root, root = bytes.fromhex(older["root"]), bytes.fromhex(newer["root"])
    if not 0 < first <= size:
        raise Wrong("the earlier head is empty, or larger than the later one")
    alike = first == size and not path and (first_root, first_root)
    if (first_root, root) != (alike if first == size else roots_of(first, first_root, size, path)):
        raise Wrong("the path leads to other roots")


def check_log(ledger, head):
    """That the log's name is that of the ledger."""
    nonce = head["nonce"] and f":{head['nonce']}"
    if sha256(LOG_TAG, f"{ledger}:{head['epoch']}{nonce}".encode()).hex() != head["logId"]:
        raise Wrong("the log is not that of the ledger")


def ask(url, method, *params):
    """One JSON-RPC call."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = json.load(answer)
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise Unknown(f"the node does not answer: {error!r}") from None
    if not isinstance(told, dict) or "result" not in told:
        raise Unknown(f"the node answers: {told!r:.300}")
    return told["result"]


def check_chain(head, url, contract, confirmations):
    """That the contract, on that chain, was told this head of the log; returns the block and how many attest it."""
    chain_id, transaction = head["anchor"]["chainId"], head["anchor"]["transaction"]
    try:
        if int(ask(url, "eth_chainId"), 16) != chain_id:
            raise Wrong(f"the node is not on chain {chain_id}, where the anchor is")
        receipt = ask(url, "eth_getTransactionReceipt", transaction)
        if receipt is None:
            raise Wrong("the chain does not have the transaction, it may have been replaced: prove anew")
        if int(receipt["status"], 16) != 1:
            raise Wrong("the transaction was reverted")
        wanted = (contract.lower(), [ANCHORED, "0x" + head["logId"]], head["size"], head["root"])
        for log in receipt["logs"]:
            data = bytes.fromhex(log["data"][2:])
            told = (log["address"].lower(), [topic.lower() for topic in log["topics"]])
            if (*told, int.from_bytes(data[32:64], "big"), data[64:96].hex()) == wanted:
                break
        else:
            raise Wrong("the transaction does not anchor this root at this contract")
        block = int(receipt["blockNumber"], 16)
        require(block, int, "the block")
        deep = min(int(ask(url, "eth_blockNumber"), 16) - block + 1, SIZE_MAX)
    except (Malformed, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Unknown(f"the node's answer cannot be read: {error!r}") from None
    if deep < confirmations:
        raise Wrong(f"only {deep} blocks attest it")
    return block, deep


def check(proof, head=None, rpc=None, contract=None, confirmations=1, say=print, older=None, ledger=None):
    """Everything that was asked for; raises Wrong or Unknown."""
    require(proof, ANY, "the proof")
    if ledger not in (None, proof["ledger"]):
        raise Wrong(f"the proof is of the ledger {proof['ledger']}")
    if "consistency" in proof:
        earlier, later = check_growth(proof, say)
        heads = [(earlier, older), (later, head)]
    elif older is not None:
        raise Wrong("only a proof of consistency has an earlier head")
    else:
        heads = [(check_leaf(proof, say), head)]
    for one, known in heads:
        check_log(proof["ledger"], one)
        say(f"log     {one['logId']} is that of ledger {proof['ledger']}, epoch {one['epoch']}")
        if known is not None and (one["size"], one["root"]) != known:
            raise Wrong(f"the head is not {known[0]} leaves with the root {known[1]}")
        if rpc is not None:
            require(one, ANCHOR, "the proof")
            address = contract or one["anchor"]["contract"]
            block, deep = check_chain(one, rpc, address, confirmations)
            say(f"anchor  block {block} holds {one['size']} leaves, attested by {deep} blocks")
        elif known is None:
            say("BUT     nothing says yet that it was anchored: give size and root, or --rpc, --contract")
    if rpc and not contract:
        say(f"BUT     the contract's address, {address}, is the proof's own: compare it, or give --contract")
    if rpc and not ledger:
        say("BUT     whose ledger this is says the proof alone: compare its name, or give --ledger")


def check_leaf(proof, say):
    """A proof of one event; returns the head that it leads to."""
    require(proof, LEAF, "the proof")
    leaf = check_event(proof)
    say(f"event   {proof['event']['id']} has the hash {leaf.hex()}")
    part = proof["inclusion"]
    found = root_of(leaf, part["index"], part["size"], map(bytes.fromhex, part["path"]))
    if found.hex() != part["root"]:
        raise Wrong("the path leads to another root")
    say(f"leaf    {part['index']} of {part['size']} leads to the root {found.hex()}")
    return {**proof, "size": part["size"], "root": part["root"]}


def check_growth(proof, say):
    """A proof of consistency; returns both heads."""
    require(proof, GROWTH, "the proof")
    older, newer = proof["from"], proof["to"]
    check_consistency(older, newer, [bytes.fromhex(step) for step in proof["consistency"]])
    say(f"growth  of {newer['size']} leaves with the root {newer['root']}")
    say(f"        the first {older['size']} have the root {older['root']}")
    return older, newer


def head_of(parser, size, root):
    """A head from the command line, or None."""
    if (size is None) != (root is None):
        parser.error("a head is its size and its root: trees of different sizes may share a path")
    return None if root is None else (size, root.lower().removeprefix("0x"))


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("proof", help="what `escrowgrid prove`, `anchor consistency` or GraphQL told")
    parser.add_argument("--size", type=int, help="with --root: a head that you know was anchored")
    parser.add_argument("--root", help="its root, in hex")
    parser.add_argument("--from-size", type=int, help="with --from-root: the same of an earlier head")
    parser.add_argument("--from-root", help="its root, in hex")
    parser.add_argument("--rpc", help="JSON-RPC address of a node that you trust")
    parser.add_argument("--contract", help="the address of the contract, as you know it from elsewhere")
    parser.add_argument("--ledger", help="the ledger's name, as you know it from elsewhere")
    parser.add_argument("--confirmations", type=int, default=1, help="how many blocks have to attest it")
    given = parser.parse_args(arguments)
    if given.confirmations < 1 or not re.fullmatch("None|0x[0-9a-fA-F]{40}", str(given.contract)):
        parser.error("confirmations are 1 or more, and a contract's address is 0x and 40 hex digits")
    head = head_of(parser, given.size, given.root)
    older = head_of(parser, given.from_size, given.from_root)
    try:
        with open(given.proof, "rb") as file:
            proof = json.loads(file.read(2**24), object_pairs_hook=once)
        check(proof, head, given.rpc, given.contract, given.confirmations, older=older, ledger=given.ledger)
    except (Wrong, Unknown, OSError, ValueError, RecursionError) as error:
        unread = "" if isinstance(error, (Wrong, Unknown)) else "the file cannot be read: "
        code = 2 if isinstance(error, (Unknown, OSError)) else 1 if type(error) is Wrong else 3
        # In plain letters, whatever the file or the node has put into it.
        print(ENDS[code], f"{unread}{error}".encode("ascii", "backslashreplace").decode())
        return code
    print("HOLDS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
