"""The schema extension that runs queries and mutations by compiled plans, and leaves the rest to graphql-core."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import strawberry
from graphql import DocumentNode, ExecutionResult, GraphQLError
from graphql.execution.executor import Executor
from strawberry.extensions import SchemaExtension
from strawberry.extensions.directives import DirectivesExtension

from app.engine.breadth import Breadth
from app.engine.documents import CHARACTERS_MAX
from app.engine.plans import Compiler, Plan, conditions_of, is_planned

# A planned field takes about as much memory as this many characters of a document; and what is kept of one, too.
FIELD_CHARACTERS = 8
ENTRY_CHARACTERS = 4


@dataclass(slots=True)
class _Kept:
    """A document, kept so that its id is never another's; what its plans depend on; and its plans."""

    document: DocumentNode
    # None when plans cannot run it.
    conditions: tuple[str, ...] | None
    size: int
    plans: dict[Hashable, Plan] = field(default_factory=dict)


class Plans:
    """The plans used last, within a bound of characters as for documents; and how often there was none to use."""

    def __init__(self, characters_max: int = CHARACTERS_MAX) -> None:
        self._characters_max = characters_max
        self._characters = 0
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        # The extensions that were looked at, and whether one of them wants to see every field being resolved.
        self._extensions: Iterable[object] | None = None
        self._hooked = False
        self.compiled = 0
        self.used = 0
        self.fallbacks = 0

    def __len__(self) -> int:
        return sum(len(kept.plans) for kept in self._kept.values())

    @property
    def characters(self) -> int:
        """What they come to, with the documents that they are of."""
        return self._characters

    def conditions(self, document: DocumentNode) -> tuple[str, ...] | None:
        """What a plan of the document depends on; None when plans cannot run it."""
        return self._of(document).conditions

    def hooked(self, schema: strawberry.Schema) -> bool:
        """Whether an extension of the schema wants to see every field being resolved: plans would pass it by."""
        if self._extensions is not schema.extensions:
            extensions = [one for one in schema.get_extensions() if not isinstance(one, DirectivesExtension)]
            self._hooked = any(one._implements_resolve() for one in extensions)
            self._extensions = schema.extensions
        return self._hooked

    def plan(self, document: DocumentNode, key: Hashable, compiler: Compiler) -> Plan:
        """The document's plan kept under `key`, compiled when there is none."""
        kept = self._of(document)
        found = kept.plans.get(key)
        if found is None:
            found = kept.plans[key] = compiler.plan()
            self.compiled += 1
        self.used += 1
        return found

    def weigh(self, document: DocumentNode, fields: int) -> None:
        """So many fields were planned for the document: the documents used longest ago make room."""
        kept = self._kept.get(id(document)) if fields else None
        if kept is not None:
            self._grow(kept, fields * FIELD_CHARACTERS)

    def _of(self, document: DocumentNode) -> _Kept:
        kept = self._kept.get(id(document))
        if kept is None:
            kept = self._kept[id(document)] = _Kept(document, conditions_of(document), 0)
            length = len(document.loc.source.body) if document.loc is not None else 0
            self._grow(kept, length + ENTRY_CHARACTERS)
        else:
            self._kept.move_to_end(id(document))
        return kept

    def _grow(self, kept: _Kept, more: int) -> None:
        kept.size += more
        self._characters += more
        while self._characters > self._characters_max:
            _, oldest = self._kept.popitem(last=False)
            self._characters -= oldest.size


class Compiled(SchemaExtension):
    """Executes instead of graphql-core where it can; the answer is the same."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans

    async def on_execute(self) -> AsyncIterator[None]:
        """Set the result before graphql-core would be asked for it."""
        context = self.execution_context
        document = context.graphql_document
        if document is not None and context.result is None:
            result = await self._executed(document)
            if result is not None:
                context.result = result
        yield

    async def _executed(self, document: DocumentNode) -> ExecutionResult | None:
        context, plans = self.execution_context, self._plans
        conditions = plans.conditions(document)
        if conditions is None or plans.hooked(context.schema):
            plans.fallbacks += 1
            return None
        executor = Executor.build(
            context.schema._schema,
            document,
            context.root_value,
            context.context,
            context.variables,
            context.operation_name,
        )
        if isinstance(executor, list):
            return ExecutionResult(None, executor)
        if not is_planned(executor.operation):
            return None
        return await self._run(executor, document, conditions)

    async def _run(
        self, executor: "Executor[Any]", document: DocumentNode, conditions: tuple[str, ...]
    ) -> ExecutionResult:
        variables: Mapping[str, Any] = executor.variable_values.coerced
        key = (id(executor.operation), *(variables.get(name) for name in conditions))
        compiler = Compiler(executor)
        try:
            plan = self._plans.plan(document, key, compiler)
        except GraphQLError as error:
            return ExecutionResult(None, [error])
        breadth = Breadth(executor, compiler)
        try:
            data = await breadth.run(plan)
        finally:
            self._plans.weigh(document, compiler.fields)
        return ExecutionResult(data, breadth.errors or None)
