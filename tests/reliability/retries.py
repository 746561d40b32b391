"""Fifty equal commands at once across two servers: one effect, fifty equal answers; never a second one later."""

import asyncio
import json
import uuid
from typing import Any

import asyncpg

from tests.reliability.client import Client, Tenant, connected, document, found_tenant
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Tally, rounds

EQUAL = 50
EVENTS = "SELECT count(*) FROM ledger_events WHERE key_institution_id = $1"
CONFLICT = "IDEMPOTENCY_CONFLICT"
# What is taken away before answers are compared: who is told that it had happened before is the one difference.
REPLAYED = "replayed"


async def equal_commands(tally: Tally, limit: Limit, site: Site) -> None:
    """Every mutation that moves a position, alone and in lists."""
    async with site.serving(2) as servers, connected(*servers) as client, site.connected() as owner:
        tenant = await found_tenant(client, site.root_key, "Retry Trust")
        for _ in rounds(limit, tally):
            for mutation, state, asked, other in _cases(tenant):
                ids = [await _position(client, tenant, state) for _ in range(2)]
                await _fifty(client, tenant, mutation, _filled(asked, ids), _filled(other, ids), owner, tally)
                tally.reached += 1


def _cases(tenant: Tenant) -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """A mutation, the state it starts from, its input, and another input under the same key."""
    terms = {"assetId": tenant.asset_id, "holderReference": "H", "currency": "USD", "amount": "10.00"}
    dearer = {**terms, "amount": "11.00"}
    first, second = {"id": "0"}, {"id": "1"}
    part = {**first, "amount": "1.00"}
    to = "toState"
    return [
        ("createPosition", "", terms, dearer),
        ("createPosition", "", {**terms, "externalReference": f"R-{uuid.uuid4()}"}, dearer),
        ("fundPosition", "CREATED", first, second),
        ("releasePosition", "FUNDED", part, {**first, "amount": "2.00"}),
        ("releasePosition", "FUNDED", first, part),
        ("cancelPosition", "FUNDED", first, {**first, "reason": "another reason"}),
        ("expirePosition", "FUNDED", first, second),
        ("transitionPosition", "FUNDED", {**part, to: "PARTIALLY_RELEASED"}, {**first, to: "CANCELLED"}),
        ("createPositions", "", {"items": [terms, dearer]}, {"items": [dearer, terms]}),
        ("transitionPositions", "CREATED", _both("FUNDED"), _both("CANCELLED")),
        (
            "transitionPositions",
            "CREATED",
            {**_both("FUNDED"), "atomic": True},
            {**_both("CANCELLED"), "atomic": True},
        ),
    ]


def _both(state: str) -> dict[str, Any]:
    return {"items": [{"id": "0", "toState": state}, {"id": "1", "toState": state}]}


async def _fifty(
    client: Client,
    tenant: Tenant,
    mutation: str,
    input: dict[str, Any],
    other: dict[str, Any],
    owner: asyncpg.Connection,
    tally: Tally,
) -> None:
    acts = len(input.get("items", [input]))
    keys = [str(uuid.uuid4()) for _ in range(acts)]
    before = await owner.fetchval(EVENTS, tenant.id)
    answers = await asyncio.gather(
        *(_send(client, tenant, mutation, _keyed(input, keys)) for _ in range(EQUAL))
    )
    answers.append(await _send(client, tenant, mutation, _keyed(input, keys)))
    effects = await owner.fetchval(EVENTS, tenant.id) - before
    if effects != acts:
        tally.double(f"{mutation}: {effects} events instead of {acts}")
    bodies = {json.dumps(_bare(answer), sort_keys=True) for answer in answers}
    tally.require(
        len(bodies) == 1, f"{mutation}: {len(bodies)} different answers, such as {sorted(bodies)[:2]}"
    )
    first = sum(not result[REPLAYED] for answer in answers for result in _each(answer))
    tally.require(first == acts, f"{mutation}: {first} of {acts} answers say that it was not a replay")
    refused = await _send(client, tenant, mutation, _keyed(other, keys))
    codes = [[error["code"] for error in result["userErrors"]] for result in _each(refused) or [refused]]
    tally.require(codes == [[CONFLICT]] * len(codes), f"{mutation} with other input was told {codes}")
    again = await owner.fetchval(EVENTS, tenant.id) - before
    tally.require(again == effects, f"{mutation} with other input had an effect")
    tally.counts["answers"] += len(answers)


async def _send(client: Client, tenant: Tenant, mutation: str, input: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = (await client.ask(tenant.key, document(mutation), {"input": input}))["made"]
    return made


async def _position(client: Client, tenant: Tenant, state: str) -> str:
    """A position in that state; none is needed for an empty one."""
    if not state:
        return ""
    terms = {"assetId": tenant.asset_id, "holderReference": "H", "currency": "USD", "amount": "10.00"}
    position_id: str = (await _send(client, tenant, "createPosition", terms))["position"]["id"]
    if state == "FUNDED":
        await _send(client, tenant, "fundPosition", {"id": position_id})
    return position_id


def _filled(input: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """With real positions where the case says 0 or 1."""
    if "items" in input:
        return {**input, "items": [_filled(item, ids) for item in input["items"]]}
    return {**input, "id": ids[int(input["id"])]} if "id" in input else input


def _keyed(input: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    if "items" not in input:
        return {**input, "idempotencyKey": keys[0]}
    items = [{**item, "idempotencyKey": key} for item, key in zip(input["items"], keys, strict=True)]
    return {**input, "items": items}


def _each(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of a list, or the one."""
    results: list[dict[str, Any]] = answer.get("results", [answer])
    return results


def _bare(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in result.items() if name != REPLAYED} for result in _each(answer)]
