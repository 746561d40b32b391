"""Each root field × each role: allowed or FORBIDDEN exactly as the role's scopes say, and a refusal writes nothing."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg

from app.context import may
from app.kit.clock import system_clock
from app.principal import ROLE_SCOPES, Principal, Role, Scope, root

from . import values
from .conftest import Pair
from .probes import Maker
from .test_sweep import footprint

# Written by hand, so that a field which begins to ask for less is noticed.
NEEDS: dict[str, dict[str, Scope | tuple[Scope, ...] | None]] = {
    "query": {
        "accountStatement": Scope.READ,
        "anchorChains": Scope.READ,
        "anchorConsistency": Scope.READ,
        "anchors": Scope.READ,
        "apiKeys": (Scope.KEYS_WRITE, Scope.AUDIT_READ),
        "asset": Scope.READ,
        "assets": Scope.READ,
        "assetTemplate": Scope.READ,
        "assetTemplates": Scope.READ,
        "auditEvents": Scope.AUDIT_READ,
        "currencies": Scope.READ,
        "institution": Scope.READ,
        "institutions": Scope.READ,
        "ledgerEvent": Scope.READ,
        "ledgerEvents": Scope.READ,
        "ledgerHead": Scope.READ,
        "lifecycle": Scope.READ,
        "lifecycles": Scope.READ,
        "node": Scope.READ,
        "policies": Scope.READ,
        "policy": Scope.READ,
        "position": Scope.READ,
        "positions": Scope.READ,
        "positionSummary": Scope.READ,
        # Whoever has a valid key may ask who they are.
        "viewer": None,
        "webhookDeliveries": Scope.READ,
        "webhookDelivery": Scope.READ,
        "webhookEndpoint": Scope.READ,
        "webhookEndpoints": Scope.READ,
    },
    "mutation": {
        "cancelPosition": Scope.POSITIONS_MOVE,
        "createApiKey": Scope.KEYS_WRITE,
        "createAsset": Scope.ASSETS_WRITE,
        "createAssetTemplate": Scope.TEMPLATES_WRITE,
        "createInstitution": Scope.INSTITUTIONS_WRITE,
        "createPosition": Scope.POSITIONS_MOVE,
        "createPositions": Scope.POSITIONS_MOVE,
        "createWebhookEndpoint": Scope.WEBHOOKS_WRITE,
        "deleteWebhookEndpoint": Scope.WEBHOOKS_WRITE,
        "eraseHolder": Scope.HOLDERS_ERASE,
        "expirePosition": Scope.POSITIONS_MOVE,
        "fundPosition": Scope.POSITIONS_MOVE,
        "releasePosition": Scope.POSITIONS_MOVE,
        "replayWebhooks": Scope.WEBHOOKS_WRITE,
        "revokeApiKey": Scope.KEYS_WRITE,
        "rotateApiKey": Scope.KEYS_WRITE,
        "rotateWebhookSecret": Scope.WEBHOOKS_WRITE,
        "sendTestWebhook": Scope.WEBHOOKS_WRITE,
        "setPolicy": Scope.POLICIES_WRITE,
        "transitionPosition": Scope.POSITIONS_MOVE,
        "transitionPositions": Scope.POSITIONS_MOVE,
        "updateWebhookEndpoint": Scope.WEBHOOKS_WRITE,
    },
    "subscription": {
        "anchorChanged": Scope.READ,
        "auditEvents": Scope.AUDIT_READ,
        "ledgerEvents": Scope.READ,
        "positionChanged": Scope.READ,
        "positionsChanged": Scope.READ,
    },
}
# What each role may, once more in full: no change of the table goes unnoticed.
MAY = {
    Role.ROOT: set(Scope),
    Role.ADMIN: set(Scope) - {Scope.INSTITUTIONS_WRITE},
    Role.OPERATOR: {Scope.READ, Scope.POSITIONS_MOVE, Scope.ASSETS_WRITE},
    Role.READ_ONLY: {Scope.READ},
    Role.AUDITOR: {Scope.READ, Scope.AUDIT_READ},
}
SILENCE_SECONDS = 0.3


def roots(pair: Pair) -> dict[str, Any]:
    schema = pair.schema._schema
    found = {
        "query": schema.query_type,
        "mutation": schema.mutation_type,
        "subscription": schema.subscription_type,
    }
    return {root: kind for root, kind in found.items() if kind is not None}


def any_of(needed: Scope | tuple[Scope, ...]) -> tuple[Scope, ...]:
    """One of these will do."""
    return needed if isinstance(needed, tuple) else (needed,)


def askers(pair: Pair) -> dict[str, Principal]:
    """Every role, and each role of a tenant narrowed to each of its scopes."""
    found = {"ROOT": root()}
    for role in (Role.ADMIN, Role.OPERATOR, Role.READ_ONLY, Role.AUDITOR):
        whole = pair.mine.principal(role)
        found[str(role)] = whole
        for scope in sorted(whole.scopes):
            found[f"{role} {scope}"] = replace(whole, scopes=frozenset({scope}))
    found["nothing"] = replace(pair.mine.principal(Role.ADMIN), scopes=frozenset())
    return found


def test_roles_have_the_scopes_written_here() -> None:
    assert {role: set(scopes) for role, scopes in ROLE_SCOPES.items()} == MAY


async def test_every_root_field_is_written_here_and_declares_that(pair: Pair) -> None:
    for name, kind in roots(pair).items():
        assert set(kind.fields) == set(NEEDS[name]), name
        definition = pair.schema.schema_converter.type_map[kind.name].definition
        for field in definition.fields:  # type: ignore[union-attr]
            wanted = NEEDS[name][pair.schema.config.name_converter.get_graphql_name(field)]
            assert field.permission_classes == ([] if wanted is None else [may(*any_of(wanted))]), (
                field.python_name
            )


def document(pair: Pair, made: Maker, root_name: str, name: str) -> str:
    kind = roots(pair)[root_name]
    arguments = made.arguments(kind.name, name, kind.fields[name], {})
    inner = made.selection(kind.fields[name].type, 0, ())
    return f"{root_name} {{ {name}{arguments}{inner} }}"


async def test_queries_and_mutations_are_allowed_as_the_scopes_say(
    pair: Pair, owner: asyncpg.Connection
) -> None:
    made, looked, refused, noted = Maker(pair.schema._schema, values.good(pair.mine, system_clock())), 0, 0, 0
    for root_name in ("query", "mutation"):
        for name, needed in NEEDS[root_name].items():
            text = document(pair, made, root_name, name)
            for who, by in askers(pair).items():
                allowed = needed is None or not by.scopes.isdisjoint(any_of(needed))
                before = None if allowed else await footprint(owner)
                _data, errors = await pair.ask(text, by)
                told = [error["extensions"]["code"] for error in errors]
                looked += 1
                # Once for each field, however often it was asked for.
                noted += len(
                    {error["path"][-1] for error in errors if error["extensions"]["code"] == "FORBIDDEN"}
                )
                if allowed:
                    assert "FORBIDDEN" not in [
                        code for error, code in zip(errors, told, strict=True) if error["path"] == [name]
                    ], (who, name)
                    assert "INTERNAL" not in told, (who, name, errors)
                    continue
                refused += 1
                assert told == ["FORBIDDEN"], (who, name, errors)
                assert errors[0]["path"] == [name]
                assert await footprint(owner) == before, (who, name)
    print(f"\n| root fields × roles and narrowed keys | {looked} looked at | {refused} FORBIDDEN |")
    await pair.services.recorder.flush()
    count = "SELECT count(*) FROM audit_events WHERE action = 'AUTH_FORBIDDEN' AND code = 'FORBIDDEN'"
    assert await owner.fetchval(count) == noted >= refused


async def test_subscriptions_are_allowed_as_the_scopes_say(pair: Pair) -> None:
    made, looked = Maker(pair.schema._schema, values.good(pair.mine, system_clock())), 0
    for name, needed in NEEDS["subscription"].items():
        text = document(pair, made, "subscription", name)
        for who, by in askers(pair).items():
            from app.context import Context, Request

            context = Context(pair.services, by, Request("req_of_the_roles"))
            stream = await pair.schema.stream(text, context_value=context)
            first = asyncio.ensure_future(anext(stream, None))
            done, _ = await asyncio.wait({first}, timeout=SILENCE_SECONDS)
            told = []
            if done:
                result = first.result()
                told = [error.extensions["code"] for error in getattr(result, "errors", None) or ()]
            else:
                first.cancel()
                await asyncio.wait({first})
            await stream.aclose()
            await context.close()
            looked += 1
            assert told == (
                [] if needed is not None and not by.scopes.isdisjoint(any_of(needed)) else ["FORBIDDEN"]
            ), (who, name, told)
    print(f"\n| subscriptions × roles and narrowed keys | {looked} looked at |")
