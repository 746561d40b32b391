"""The journal of the clients against the database: nothing acknowledged is missing, nothing happened twice."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import asyncpg

from tests.reliability.client import Journal
from tests.reliability.tally import Tally

EVENTS = """
SELECT id, key_institution_id, idempotency_key, institution_id, sequence, position_id, position_version, new_state,
       amount_moved, funded, released, refunded, held, encode(hash, 'hex') AS hash, postings::text AS postings
FROM ledger_events
"""
# Every state has the event that made it, and every move of money its two legs.
WITHOUT_EVENT = """
SELECT p.id FROM positions p LEFT JOIN ledger_events e ON e.position_id = p.id AND e.position_version = p.version
WHERE e.id IS NULL OR (e.new_state, e.funded, e.released, e.refunded, e.held)
                      IS DISTINCT FROM (p.state, p.funded, p.released, p.refunded, p.held)
"""
WITHOUT_POSITION = """
SELECT e.id FROM ledger_events e LEFT JOIN positions p ON p.id = e.position_id AND p.version >= e.position_version
WHERE p.id IS NULL
"""
WITHOUT_POSTINGS = """
SELECT id FROM ledger_events WHERE (effect = 'NONE') <> (jsonb_array_length(postings) = 0)
   OR (SELECT coalesce(sum((leg ->> 1)::numeric), 0) FROM jsonb_array_elements(postings) leg) <> 0
"""
WITHOUT_AUDIT = """
SELECT a.id FROM assets a WHERE 1 <> (
  SELECT count(*) FROM audit_events u WHERE u.resource_id = a.id AND u.action = 'ASSET_CREATED' AND u.outcome = 'SUCCESS')
"""
AUDIT_WITHOUT_ASSET = """
SELECT u.resource_id FROM audit_events u LEFT JOIN assets a ON a.id = u.resource_id
WHERE u.action = 'ASSET_CREATED' AND u.outcome = 'SUCCESS' AND a.id IS NULL
"""
RULES = {
    "a state without its event": WITHOUT_EVENT,
    "an event without its state": WITHOUT_POSITION,
    "an event without its balanced postings": WITHOUT_POSTINGS,
    "an asset without its one audit row": WITHOUT_AUDIT,
    "an audit row without its asset": AUDIT_WITHOUT_ASSET,
}


async def judge(journal: Journal, owner: asyncpg.Connection, assets: Sequence[str], tally: Tally) -> None:
    """Compare everything that was answered with everything that is there."""
    events = {(row["key_institution_id"], row["idempotency_key"]): row for row in await owner.fetch(EVENTS)}
    asked: set[tuple[str, str]] = set()
    tenants = set()
    for entry in journal.read():
        tenants.add(entry["institution"])
        keys = [(entry["institution"], key) for key in entry["keys"]]
        asked |= set(keys)
        if entry["results"] is None:
            tally.violate(f"the outcome of {entry['mutation']} {entry['keys']} was never learned")
            continue
        for key, result in zip(keys, entry["results"], strict=True):
            tally.counts["commands"] += 1
            _judge_one(key[1], result, events.get(key), tally)
    for key, event in events.items():
        if key not in asked and key[0] in tenants:
            tally.double(f"event {event['id']} under the key {key[1]}, which nobody sent")
    for name, query in RULES.items():
        for row in await owner.fetch(query):
            tally.violate(f"{name}: {row[0]}")
    there = {row["id"] for row in await owner.fetch("SELECT id FROM assets")}
    for asset in assets:
        if asset not in there:
            tally.lose(f"asset {asset}")


def _judge_one(key: str, result: dict[str, Any], event: asyncpg.Record | None, tally: Tally) -> None:
    if result["userErrors"]:
        tally.counts["refused"] += 1
        tally.require(event is None, f"{key} was refused and is in the ledger")
        return
    if event is None:
        tally.lose(f"{key}, acknowledged as {result['event']['id']}")
        return
    told, position = result["event"], result["position"]
    if told["id"] != event["id"]:
        tally.double(f"{key} is the event {event['id']}, and was answered with {told['id']}")
    pairs: dict[str, tuple[Any, Any]] = {
        "sequence": (told["sequence"], event["sequence"]),
        "hash": (told["hash"], event["hash"]),
        "position": (told["positionId"], event["position_id"]),
        "version": (position["version"], event["position_version"]),
        "state": (position["state"], event["new_state"]),
        **{
            name: (Decimal(position[name]), event[name])
            for name in ("funded", "released", "refunded", "held")
        },
        "legs": (sum(Decimal(leg["amount"]) for leg in told["postings"]), 0),
    }
    for name, (said, there) in pairs.items():
        if str(said) != str(there) and said != there:
            tally.violate(f"{key}: {name} was told as {said} and is {there}")
