"""Two institutions with a row in every table, all of whose texts say whose they are."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

from app.anchoring import tree
from app.anchoring.model import log_id
from app.audit import store as audit
from app.audit.model import Action, AuditEntry, AuditEvent, Outcome
from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.institutions import service as institutions
from app.institutions.model import KeyDraft, Region
from app.kit.canonical import Json
from app.ledger.model import Effect
from app.positions.lifecycle import Intent
from app.positions.model import State
from app.principal import ALL_INSTITUTIONS, ROLE_SCOPES, Principal, Role
from tests import factories

OWNED = """
SELECT c.relname AS name, CASE WHEN c.relname = 'institutions' THEN 'id' ELSE 'institution_id' END AS column
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND (c.relname = 'institutions' OR EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'institution_id' AND NOT attisdropped))
ORDER BY 1
"""
LENGTH_MIN = 5
ENDPOINT = """
mutation ($url: String!, $words: String!) {
  createWebhookEndpoint(input: {url: $url, description: $words}) { endpoint { id } userErrors { code } }
}
"""
TEST = "mutation ($id: ID!) { sendTestWebhook(input: {endpointId: $id}) { userErrors { code } } }"
CONTRACT = "0x" + "ab" * 20


@dataclass
class World:
    """One institution, and what there is of it."""

    tag: str
    institution_id: str
    amount: Decimal
    ids: dict[str, str] = field(default_factory=dict)
    # Everything that is written of it anywhere, as an answer would spell it.
    texts: set[str] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)

    def principal(self, role: Role) -> Principal:
        """Somebody of it."""
        name = f"key_{self.tag.lower()}_{role.lower()}"
        return Principal(name, self.tag, role, self.institution_id, ROLE_SCOPES[role])


async def build(services: Services, schema: Schema, tag: str, amount: str) -> World:
    """An institution with something of everything."""
    owner = await factories.institution(services, f"{tag} Trust", regions=[Region.US, Region.SG])
    world = World(tag, owner.id, Decimal(amount))
    admin = world.principal(Role.ADMIN)
    await _keys(services, world)
    for number in (1, 2):
        least = str(number + Decimal(amount) / 100)
        await factories.policy(services, owner.id, min_amount=Decimal(least), max_amount=Decimal(10) ** 9)
    await factories.policy(services, owner.id, region=Region.SG, allowed_currencies=("USD",))
    await _webhooks(services, schema, world)
    config: dict[str, Json] = {
        "currency": "USD",
        "region": "US",
        "minAmount": f"{Decimal(amount) / 1000:.2f}",
    }
    made_of = await factories.template(services, owner.id, config=config)
    await factories.template(services, owner.id)
    async with factories.working(services, owner.id) as work:
        from app.assets import service as assets

        on = await assets.create_asset(
            work, owner.id, template_id=made_of.id, label=f"{tag} asset", metadata={"plot": f"{tag} plot 7"}
        )
    other = await factories.asset(services, made_of)
    world.ids |= {"tmpl": made_of.id, "ast": on.id}
    for number, state in enumerate(State):
        terms = {
            "holder_reference": f"{tag}-HOLDER-{number}",
            "external_reference": f"{tag}-REF-{number}",
            "by": admin,
            "reason": f"{tag} because {number}",
            "metadata": {"note": f"{tag} note {number}"},
            "idempotency_key": f"{tag}-ONCE-{number}",
            "expires_at": datetime(2050, 1, 1 + number, 1, 2, 3, number + int(world.amount), tzinfo=UTC),
        }
        made = await factories.position(services, on if number else other, amount, state=state, **terms)
        if state is State.FUNDED:
            world.ids["pos"] = made.id
    held = await factories.position(services, on, amount, holder_reference=f"{tag}-HOLDER-X", by=admin)
    move = factories.move(
        services,
        held,
        Intent(effect=Effect.FUND),
        by=admin,
        reason=f"{tag} funds",
        idempotency_key=f"{tag}-FUND",
    )
    await services.writer.submit(move)
    await _audit(services, world)
    return world


async def _keys(services: Services, world: World) -> None:
    for role in (Role.ADMIN, Role.OPERATOR, Role.READ_ONLY, Role.AUDITOR):
        async with factories.working(services, world.institution_id) as work:
            made = await institutions.create_api_key(
                work, world.institution_id, KeyDraft(f"{world.tag} {role} key", role)
            )
        world.secrets.add(made.secret)
        world.ids["key"] = made.key.id
    async with factories.working(services, world.institution_id) as work:
        rotated = await institutions.rotate_api_key(work, world.institution_id, world.ids["key"], 3600)
    world.secrets.add(rotated.secret)


async def _webhooks(services: Services, schema: Schema, world: World) -> None:
    given = {"url": f"https://{world.tag.lower()}.example/hook", "words": f"{world.tag} hook"}
    data = await executed(services, schema, ENDPOINT, given, world.principal(Role.ADMIN))
    world.ids["whe"] = data["createWebhookEndpoint"]["endpoint"]["id"]
    await executed(services, schema, TEST, {"id": world.ids["whe"]}, world.principal(Role.ADMIN))


async def _audit(services: Services, world: World) -> None:
    entry = AuditEntry(
        institution_id=world.institution_id,
        actor_id=f"{world.tag}-actor",
        actor_role="ADMIN",
        operation=f"{world.tag}Operation",
        action=Action.ASSET_CREATED,
        resource_type=f"{world.tag}-thing",
        resource_id=f"{world.tag}-resource",
        outcome=Outcome.FAILURE,
        code="NOT_FOUND",
        request_id=f"{world.tag}-request",
        client_address=f"{world.tag}-address",
        payload={"words": f"{world.tag} words"},
    )
    made = AuditEvent.of(entry, services.ids.new("aud"), services.clock() - timedelta(minutes=1))
    async with services.database.writing(ALL_INSTITUTIONS) as connection:
        await audit.add(connection, [made])


async def executed(
    services: Services, schema: Schema, document: str, variables: dict[str, Any], by: Principal
) -> Any:
    """The data of an answer without errors."""
    context = Context(services, by, Request(services.ids.new("req")))
    try:
        result = await schema.execute(document, variable_values=variables, context_value=context)
    finally:
        await context.close()
    assert not result.errors, result.errors
    return result.data


async def anchor(owner: asyncpg.Connection, id_: str) -> None:
    """All that has happened is on a chain, and every event recorded there; the same for everybody."""
    growth = tree.grown(await tree.read(owner), await tree.hashes(owner, 0, 10_000))
    assert await tree.keep(owner, growth)
    ledger, size = await owner.fetchval("SELECT log_id FROM ledger_head"), growth.tree.size
    await owner.execute(
        "INSERT INTO anchors (id, number, revision, mode, state, chain_id, contract, log_id, epoch, previous_size, "
        "previous_root, size, root, tx_hash, block_number, block_hash, created_at, changed_at, final_at) "
        "SELECT $1, 1, 1, 'ANCHOR', 'FINAL', 1, $2, $3, 1, 0, $4, $5, $6, $4, 1, $4, m, m, m FROM (SELECT now() AS m) n",
        id_, CONTRACT, log_id(ledger, 1, ""), bytes(32), size, growth.tree.root(),
    )  # fmt: skip
    await owner.execute(
        "INSERT INTO anchor_chains (chain_id, contract, account, balance, block_number, checked_at) "
        "VALUES (1, $1, $1, 1, 9, now())",
        CONTRACT,
    )
    await owner.execute(
        "INSERT INTO anchor_records (institution_id, event_id, global_sequence, skipped, noted_at) "
        "SELECT institution_id, id, global_sequence, 'because', now() FROM ledger_events"
    )


async def learn(owner: asyncpg.Connection, world: World, others: Iterable[World]) -> None:
    """Note every text of the world's rows, in every table, that the others have not."""
    world.texts = await _texts(owner, world.institution_id) | world.secrets
    for other in others:
        world.texts -= await _texts(owner, other.institution_id)
    for table, prefix in (("ledger_events", "evt"), ("policies", "pol"), ("audit_events", "aud")):
        found = await owner.fetchval(
            f"SELECT max(id) FROM {table} WHERE institution_id = $1", world.institution_id
        )
        world.ids[prefix] = found
    world.ids["inst"] = world.institution_id
    delivery = "SELECT max(id) FROM webhook_deliveries WHERE institution_id = $1"
    world.ids["whd"] = await owner.fetchval(delivery, world.institution_id)


async def _texts(owner: asyncpg.Connection, institution_id: str) -> set[str]:
    found: set[str] = set()
    for table in await owner.fetch(OWNED):
        rows = await owner.fetch(
            f"SELECT row_to_json(t)::text AS row FROM {table['name']} t WHERE {table['column']} = $1",
            institution_id,
        )
        for row in rows:
            found |= set(_leaves(json.loads(row["row"], parse_float=str)))
    return {text for text in found if len(text) >= LENGTH_MIN}


def _leaves(value: Any) -> Iterable[str]:
    match value:
        case dict():
            for name, item in value.items():
                yield from _leaves(item)
                del name
        case list():
            for item in value:
                yield from _leaves(item)
        case str():
            # As GraphQL spells hashes and times.
            yield value.removeprefix("\\x").removesuffix("+00:00")
