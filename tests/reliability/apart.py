"""Every subscription of the schema, every role, every way to name what is another institution's: nothing of it is told."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLObjectType,
    GraphQLSchema,
    build_schema,
    get_named_type,
    is_leaf_type,
    is_required_argument,
)

from app import schema
from app.settings import Settings
from tests.reliability import sockets
from tests.reliability.client import Client, Tenant, connected, found_tenant
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Tally, rounds

ROLES = ("ADMIN", "OPERATOR", "READ_ONLY", "AUDITOR")
DEEP = 3
OPERATIONS_PER_SOCKET = 40
SECRET = "HOLDER-OF-THE-OTHER"
HEAD = "{ ledgerHead { cursor } }"
SETTLE_SECONDS = 1.0
TOLD_WITHIN_SECONDS = 30
# Of the chain, which is everybody's, and which nothing is anchored on here.
SILENT = frozenset({"anchorChanged"})
# What a refused subscription may say.
REFUSALS = frozenset({"BAD_REQUEST", "CURSOR_INVALID", "NOT_FOUND", "FORBIDDEN"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One subscription as somebody tries it; `plain`, without anything foreign in it."""

    name: str
    document: str
    plain: bool


@dataclass(slots=True)
class Heard:
    """What a subscription was told."""

    attempt: Attempt
    data: list[str] = field(default_factory=list)
    errors: list[Any] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)


async def subscriptions_apart(tally: Tally, limit: Limit, site: Site) -> None:
    """The other's ledger moves, then one's own: of the former nothing is heard, the latter shows that all listen."""
    async with site.serving() as (server,), connected(server) as client:
        for _ in rounds(limit, tally):
            await _once(tally, site, client, server.url)


async def _once(tally: Tally, site: Site, client: Client, url: str) -> None:
    other = await found_tenant(client, site.root_key, f"Other {SECRET}")
    mine = await found_tenant(client, site.root_key, "Mine")
    keys = {role: await _key(client, site, mine, role) for role in ROLES}
    foreign = await _moves(client, other, SECRET)
    foreign |= {"institutionId": other.id, "assetId": other.asset_id}
    cursors = [(await client.ask(key, HEAD))["ledgerHead"]["cursor"] for key in (other.key, site.root_key)]
    attempts = list(attempted(build_schema(schema.build(Settings()).as_str()), foreign, cursors))
    heard: list[Heard] = []
    async with AsyncExitStack() as stack:
        for key in keys.values():
            for start in range(0, len(attempts), OPERATIONS_PER_SOCKET):
                some = attempts[start : start + OPERATIONS_PER_SOCKET]
                heard += await _listen(stack, url, key, some)
        await asyncio.sleep(SETTLE_SECONDS)
        foreign |= await _moves(client, other, SECRET)
        await _moves(client, mine, "MINE")
        await _all_told([one for one in heard if one.attempt.plain and one.attempt.name not in SILENT], tally)
        await asyncio.sleep(SETTLE_SECONDS)
    secrets = {SECRET, other.id, other.asset_id, *foreign.values()}
    for one in heard:
        tally.reached += 1
        _judge(one, secrets, tally)


def attempted(api: GraphQLSchema, foreign: dict[str, str], cursors: list[str]) -> Iterator[Attempt]:
    """Each subscription plain, and with each argument naming something foreign."""
    assert api.subscription_type is not None, "there are subscriptions"
    for name, found in api.subscription_type.fields.items():
        selection = _selection(found, DEEP)
        required = [given for given, argument in found.args.items() if is_required_argument(argument)]
        assert set(required) <= {"id"}, f"{name} wants {required}: say what is foreign there"
        if not required:
            yield Attempt(name, f"subscription {{ {name} {selection} }}", plain=True)
        for arguments in _foreign_arguments(found, foreign, cursors):
            yield Attempt(
                f"{name}({arguments})", f"subscription {{ {name}({arguments}) {selection} }}", plain=False
            )


def _foreign_arguments(found: GraphQLField, foreign: dict[str, str], cursors: list[str]) -> Iterator[str]:
    position = json.dumps(foreign["id"])
    if "id" in found.args:
        yield f"id: {position}"
        return
    if "after" in found.args:
        yield from (f"after: {json.dumps(cursor)}" for cursor in cursors)
    where = get_named_type(found.args["where"].type) if "where" in found.args else None
    if isinstance(where, GraphQLInputObjectType):
        for name, test in where.fields.items():
            if get_named_type(test.type).name == "IDFilter":
                value = foreign.get(name, foreign["id"])
                yield f"where: {{ {name}: {{ in: [{json.dumps(value)}] }} }}"


def _selection(found: GraphQLField, deep: int) -> str:
    kind = get_named_type(found.type)
    if is_leaf_type(kind):
        return ""
    assert isinstance(kind, GraphQLObjectType), f"{kind} is selected by its fields"
    inside = []
    for name, child in kind.fields.items():
        if any(is_required_argument(argument) for argument in child.args.values()):
            continue
        inner = get_named_type(child.type)
        if is_leaf_type(inner):
            inside.append(name)
        elif deep > 1 and isinstance(inner, GraphQLObjectType) and not child.args:
            inside.append(f"{name} {_selection(child, deep - 1)}")
    return "{ " + " ".join(inside or ["__typename"]) + " }"


async def _listen(stack: AsyncExitStack, url: str, key: str, attempts: list[Attempt]) -> list[Heard]:
    socket = await stack.enter_async_context(sockets.opened(url, key))
    heard = [Heard(attempt) for attempt in attempts]
    for number, attempt in enumerate(attempts):
        await socket.subscribe(str(number), attempt.document)

    async def listen() -> None:
        async for operation, kind, payload in socket.frames():
            one = heard[int(operation)]
            one.told.set()
            if kind == "next" and not payload.get("errors"):
                one.data.append(json.dumps(payload["data"]))
            elif kind != "complete":
                one.errors += payload if isinstance(payload, list) else payload["errors"]

    task = asyncio.create_task(listen())
    stack.callback(task.cancel)
    return heard


async def _all_told(heard: list[Heard], tally: Tally) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(TOLD_WITHIN_SECONDS):
            for one in heard:
                await one.told.wait()
    for one in heard:
        forbidden = [error.get("extensions", {}).get("code") for error in one.errors] == ["FORBIDDEN"]
        tally.require(one.data or forbidden, f"{one.attempt.name} heard nothing of its own: {one.errors}")


def _judge(one: Heard, secrets: set[str], tally: Tally) -> None:
    for told in one.data:
        tally.counts["messages"] += 1
        leaked = [secret for secret in secrets if secret in told]
        tally.require(not leaked, f"{one.attempt.name} told {leaked}")
    if not one.attempt.plain and "after" not in one.attempt.name:
        tally.require(not one.data, f"{one.attempt.name} told something: {one.data[:1]}")
    for error in one.errors:
        tally.counts["refusals"] += 1
        code = error.get("extensions", {}).get("code")
        tally.require(code in REFUSALS, f"{one.attempt.name} was refused with {error}")
        tally.require(SECRET not in json.dumps(error), f"{one.attempt.name} was refused with {error}")


async def _moves(client: Client, tenant: Tenant, holder: str) -> dict[str, str]:
    """A position opened and funded; what is secret of it."""
    keys = [str(uuid.uuid4()) for _ in range(2)]
    terms = {"assetId": tenant.asset_id, "holderReference": holder, "currency": "USD", "amount": "77.00"}
    (made,) = await client.command(tenant, "createPosition", keys[:1], idempotencyKey=keys[0], **terms)
    position_id = made["position"]["id"]
    (moved,) = await client.command(tenant, "fundPosition", keys[1:], idempotencyKey=keys[1], id=position_id)
    return {"id": position_id, "positionId": position_id, "event": moved["event"]["id"], "key": keys[0]}


async def _key(client: Client, site: Site, tenant: Tenant, role: str) -> str:
    text = "mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret userErrors { message } } }"
    wanted = {"institutionId": tenant.id, "label": role, "role": role}
    made: str = (await client.ask(site.root_key, text, {"input": wanted}))["createApiKey"]["secret"]
    return made
