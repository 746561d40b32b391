"""A ledger with something of everything in it, and one document executed twice: by graphql-core and by plans."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from graphql import DocumentNode, parse, print_ast, validate
from graphql.execution import ExecutionResult
from strawberry.extensions import SchemaExtension

from app import schema
from app.context import Context, Request, Services
from app.engine.compiled import Compiled, Plans
from app.engine.masking import Schema
from app.positions.model import State
from app.principal import Principal, Role, root
from app.settings import Settings
from tests import factories
from tests.engine.documents import Known

TEXTS = ("USD", "HOLDER-1", "CONSTR_ESCROW", "escrow", "UTC", "Europe/Berlin", "Position", "nonsense", "")
CURSOR = re.compile(r'"(?:cursor|startCursor|endCursor)": "([^"]+)"')
ID = re.compile(r'"((?:inst|key|tmpl|ast|pos|pol|aud|evt|whe|whd)_[0-9a-z]{26})"')
TIME = re.compile(r'"(\d{4}-\d\d-\d\dT[^"]+Z)"')
LISTS = {
    "ledgerEvents": "recordedAt",
    **dict.fromkeys(
        ("positions", "assets", "assetTemplates", "policies", "institutions", "apiKeys"), "createdAt"
    ),
}
PAGES = [
    *(f"{name}(first: 40) {{ edges {{ cursor node {{ id {time} }} }} }}" for name, time in LISTS.items()),
    "auditEvents(first: 20) { edges { cursor node { id } } }",
    "webhookEndpoints { edges { node { id } } }",
]
EVERYTHING = f"{{ {' '.join(PAGES)} }}"
ENDPOINT = (
    'mutation($i: ID!) { createWebhookEndpoint(input: {institutionId: $i, url: "https://example.com/hook", '
    'description: "d"}) { userErrors { code message } } }'
)


@dataclass(frozen=True, repr=False)
class World:
    """Who asks, what there is to ask for, and what two of them were told of it when nothing had been asked yet."""

    services: Services
    askers: Sequence[Principal]
    known: Known
    said: str


class _Parsed(SchemaExtension):
    """Takes the document that was parsed and validated already: both executors are given the same one."""

    document: DocumentNode

    def on_operation(self) -> Any:
        self.execution_context.graphql_document = self.document
        self.execution_context.validation_rules = ()
        yield


@dataclass(repr=False)
class Both:
    """The real schema twice: executed by graphql-core, and by plans that are counted."""

    plans: Plans = field(default_factory=Plans)
    slow: Schema = field(default_factory=lambda: schema.build(Settings()))
    fast: Schema = field(default_factory=lambda: schema.build(Settings()))

    def parsed(self, text: str) -> DocumentNode:
        """The document; fails when it is not valid."""
        document = parse(text)
        self.validate(document)
        return document

    def validate(self, document: DocumentNode) -> None:
        """Fails when it is not valid."""
        mistakes = validate(self.slow._schema, document)
        assert not mistakes, f"{mistakes[0]}\n{print_ast(document)}"

    async def by_core(
        self, services: Services, document: DocumentNode, variables: Mapping[str, Any], by: Principal
    ) -> Any:
        """graphql-core's answer."""
        return await self._run(self.slow, [], services, document, variables, by)

    async def by_plans(
        self, services: Services, document: DocumentNode, variables: Mapping[str, Any], by: Principal
    ) -> Any:
        """The plans' answer."""
        return await self._run(self.fast, [lambda: Compiled(self.plans)], services, document, variables, by)

    @staticmethod
    async def _run(
        on: Schema,
        extensions: list[Any],
        services: Services,
        document: DocumentNode,
        variables: Any,
        by: Principal,
    ) -> Any:
        handed = _Parsed()
        handed.document = document
        on.extensions = [handed, *extensions]
        context = Context(services, by, Request("req_1"))
        try:
            return await on.execute(None, variable_values=dict(variables), context_value=context)
        finally:
            await context.close()


def answer_of(result: ExecutionResult) -> tuple[str, frozenset[tuple[str, ...]]]:
    """The data as text, so that the order of keys counts, and the set of errors.

    Where a null has removed a parent, any one of the errors below it tells why: which of two failing siblings reports
    first is timing, in graphql-core too.
    """
    errors = set()
    for error in result.errors or ():
        path = list(error.path or ())
        removed = _removed(result.data, path)
        if removed is None:
            errors.add((str(path), error.message, str(error.locations)))
        else:
            errors.add((str(removed), "removed"))
    return json.dumps(result.data, default=str), frozenset(errors)


def _removed(data: Any, path: list[str | int]) -> list[str | int] | None:
    """The place of the null above the place of an error; None where the error is the null's own."""
    for depth, key in enumerate(path):
        if data is None:
            return path[:depth]
        data = data[key]
    return None


async def patiently(*awaitables: Awaitable[Any]) -> list[Any]:
    """For graphql-core's gather_with_cancel: lets the others end before it tells what failed first.

    Cancelled in the midst of a statement, one field would take the operation's connection from all the others.
    """
    found = await asyncio.gather(*awaitables, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


@asynccontextmanager
async def world(admin_url: str, template: str) -> AsyncIterator[World]:
    """A server with two institutions: every state, every kind of thing, some of it refused."""
    async with factories.served(admin_url, template, audit_seal_seconds=3600.0) as (parts, _owner):
        yield await filled(parts.services)


async def filled(services: Services) -> World:
    """What is in it."""
    places = [
        await factories.place(services),
        await factories.place(services, name="Bond & Co", currency="EUR"),
    ]
    for number, place in enumerate(places):
        await factories.policy(services, place.institution.id, allowed_currencies=["USD", "EUR"])
        await factories.key(services, place.institution.id, Role.OPERATOR)
        await factories.template(services, place.institution.id)
        for count, state in enumerate((*State, *State)[: 9 - 4 * number]):
            await factories.position(
                services,
                place.asset,
                f"{100 + count}.00",
                state=state,
                reason=f"reason {count}" if count % 2 else None,
                metadata={"n": count},
                holder_reference=f"HOLDER-{count % 3}",
                external_reference=f"ref {count}" if count % 3 else None,
            )
    owner = places[0].institution.id
    askers = (
        root(),
        places[0].admin,
        factories.principal(owner, Role.READ_ONLY),
        factories.principal(owner, Role.AUDITOR),
    )
    both = Both()
    known_of = []
    for asker in askers[:2]:
        if asker.institution_id is not None:
            made = await both.by_core(services, both.parsed(ENDPOINT), {"i": owner}, asker)
            assert made.data["createWebhookEndpoint"]["userErrors"] == [], made
        found = await both.by_core(services, both.parsed(EVERYTHING), {}, asker)
        assert not found.errors, found.errors
        known_of.append(json.dumps(found.data))
    said = "".join(known_of)
    known = Known(
        ids=[*_some(ID.findall(said), 60), "nonsense", "pos_" + "0" * 26],
        cursors=[*_some(CURSOR.findall(said), 60), "nonsense"],
        texts=TEXTS,
        times=[*_some(TIME.findall(said), 10), "2020-01-01T00:00:00Z"],
    )
    await services.recorder.flush()
    return World(services, askers, known, said)


def _some(found: Sequence[str], most: int) -> list[str]:
    """Some of each kind, in one order."""
    each = list(dict.fromkeys(found))
    return each[:: max(1, len(each) // most)][:most]
