"""What is given at the places of the sweep: what is theirs, what is nobody's, and what is right."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from graphql import GraphQLEnumType, GraphQLSchema

from .probes import Slot
from .worlds import World

WORDS = (
    "{tag} Trust",
    "{tag} asset",
    "{tag}-HOLDER-1",
    "{tag}-REF-1",
    "{tag}-ONCE-1",
    "{tag}-FUND",
    "{tag}-HOLDER-",
    "{tag} ADMIN key",
    "held:{pos}",
    "https://{low}.example/hook",
    "{pos}",
    "{inst}",
)
# Nobody's, and spelled as long as theirs.
NOBODY = "Nobdy"


@dataclass(frozen=True)
class Twins:
    """A value of theirs and, where answers must be equal, one that nobody has."""

    theirs: str
    nobodys: str | None


def literal(value: str) -> str:
    """As a document spells a string."""
    return json.dumps(value)


def twins(
    slot: Slot, schema: GraphQLSchema, theirs: World, nobody: Mapping[str, str], moment: datetime
) -> Iterator[Twins]:
    """Everything that is given at a place."""
    exact = slot.argument_path[-1] in ("eq", "in")
    if slot.type == "ID":
        for prefix, id_ in sorted(theirs.ids.items()):
            yield Twins(literal(id_), literal(nobody[prefix]))
    elif slot.type == "String" and slot.argument_path[-1] not in ("after", "before"):
        for word in WORDS:
            yield Twins(
                literal(word.format(tag=theirs.tag, low=theirs.tag.lower(), **theirs.ids)),
                literal(word.format(tag=NOBODY, low=NOBODY.lower(), **nobody)),
            )
    elif slot.type == "DateTime":
        later = moment + timedelta(microseconds=1)
        yield Twins(literal(moment.isoformat()), literal(later.isoformat()) if exact else None)
    elif slot.type == "Decimal":
        yield Twins(
            literal(str(theirs.amount)), literal(str(theirs.amount + Decimal("0.01"))) if exact else None
        )
    elif slot.type == "JSONObject":
        yield Twins("{note: " + literal(f"{theirs.tag} note 1") + "}", None)
    elif isinstance(kind := schema.type_map[slot.type], GraphQLEnumType):
        for name in kind.values:
            yield Twins(name, None)
    else:
        yield Twins({"Boolean": "true", "Int": "2", "Long": "3"}.get(slot.type, '"x"'), None)


def good(mine: World, moment: datetime) -> dict[str, str]:
    """Values of one's own, by the place or else by the type."""
    ids = {prefix: literal(id_) for prefix, id_ in mine.ids.items()}
    by_field = {
        "asset": "ast",
        "assetTemplate": "tmpl",
        "position": "pos",
        "policy": "pol",
        "ledgerEvent": "evt",
        "institution": "inst",
        "webhookEndpoint": "whe",
        "webhookDelivery": "whd",
        "node": "pos",
    }
    before = f'{{lte: "{moment.isoformat()}"}}'
    return {
        "ID": ids["pos"],
        "String": '"words"',
        "Int": "1",
        "Long": "1",
        "Boolean": "false",
        "Decimal": '"1500.00"',
        "DateTime": '"2049-01-01T00:00:00Z"',
        "JSONObject": "{}",
        **{f"Query.{field}.id": ids[prefix] for field, prefix in by_field.items()},
        "Query.accountStatement.account": literal(f"held:{mine.ids['pos']}"),
        "Query.accountStatement.currency": '"USD"',
        "Query.lifecycle.name": '"escrow"',
        "Query.positionSummary.timeZone": '"UTC"',
        "Query.auditEvents.where": f"{{occurredAt: {before}}}",
        "AuditEventWhere.occurredAt": before,
        "Subscription.positionChanged.id": ids["pos"],
        "CreatePositionInput.assetId": ids["ast"],
        "CreatePositionInput.currency": '"USD"',
        "CreateAssetTemplateInput.code": '"CONSTR_ESCROW"',
        "CreateAssetTemplateInput.region": "US",
        "CreateAssetTemplateInput.config": '{currency: "USD", region: "US"}',
        "CreateAssetInput.templateId": ids["tmpl"],
        "CreateApiKeyInput.role": "READ_ONLY",
        "CreateWebhookEndpointInput.url": '"https://mine.example/other"',
        "TransitionPositionInput.toState": "FUNDED",
        "RotateApiKeyInput.id": ids["key"],
        "RevokeApiKeyInput.id": literal("key_" + "0" * 26),
        "UpdateWebhookEndpointInput.id": ids["whe"],
        "DeleteWebhookEndpointInput.id": literal("whe_" + "0" * 26),
        "RotateWebhookSecretInput.endpointId": ids["whe"],
        "SendTestWebhookInput.endpointId": ids["whe"],
        "ReplayWebhooksInput.endpointId": ids["whe"],
    }


def spelled(data: Any, errors: list[Any], given: str) -> str:
    """A whole answer as text, up to the value that was given."""
    text = json.dumps({"data": data, "errors": errors}, sort_keys=True, default=str)
    return (
        text.replace(json.loads(given), "<given>")
        if given.startswith('"')
        else text.replace(given, "<given>")
    )


def outcome(data: Any, errors: list[Any], given: str) -> str:
    """What became of a mutation, up to the value given: what was refused and why, or which things were made."""
    found: dict[str, Any] = {"errors": _sorted(errors)}
    for name, payload in (data or {}).items():
        found[name] = _told(payload)
    text = json.dumps(found, sort_keys=True, default=str)
    return text.replace(json.loads(given), "<given>") if given.startswith('"') else text


def _sorted(errors: list[Any]) -> list[Any]:
    """What runs at once fails in any order."""
    return sorted(errors, key=lambda error: json.dumps(error, sort_keys=True, default=str))


def _told(payload: Any) -> Any:
    match payload:
        case {"userErrors": errors, **rest}:
            return {"userErrors": errors} | {key: _told(value) for key, value in rest.items()}
        case list():
            return [_told(item) for item in payload]
        case None:
            return None
    return "something"


def codes(data: Any, errors: list[Any]) -> list[str]:
    """The codes of every error of an answer, wherever it is."""
    found = [error["extensions"]["code"] for error in errors]
    return found + re.findall(r'"code": "([A-Z_]+)"', json.dumps(_errors_in(data)))


def _errors_in(value: Any) -> list[Any]:
    match value:
        case {"userErrors": errors, **rest}:
            return [*errors, *_errors_in(list(rest.values()))]
        case dict():
            return _errors_in(list(value.values()))
        case list():
            return [error for item in value for error in _errors_in(item)]
    return []
