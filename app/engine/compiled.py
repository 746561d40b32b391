"""The schema extension that runs queries and mutations by compiled plans, and leaves the rest to graphql-core."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping
from typing import Any

import strawberry
from graphql import DocumentNode, ExecutionResult, GraphQLError
from graphql.execution.executor import Executor
from strawberry.extensions import SchemaExtension
from strawberry.extensions.directives import DirectivesExtension

from app.engine.breadth import Breadth
from app.engine.plans import Compiler, Plan, conditions_of, is_planned

PLANS_MAX = 512


class Plans:
    """The plans used last, and how often there was none to use."""

    def __init__(self, plans_max: int = PLANS_MAX) -> None:
        self._plans_max = plans_max
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()
        # Documents are kept beside what was found of them, so that an id is never another document's.
        self._conditions: OrderedDict[int, tuple[DocumentNode, tuple[str, ...] | None]] = OrderedDict()
        # The extensions that were looked at, and whether one of them wants to see every field being resolved.
        self._extensions: Iterable[object] | None = None
        self._hooked = False
        self.compiled = 0
        self.used = 0
        self.fallbacks = 0

    def conditions(self, document: DocumentNode) -> tuple[str, ...] | None:
        """What a plan of the document depends on; None when plans cannot run it."""
        known = self._conditions.get(id(document))
        if known is None or known[0] is not document:
            known = (document, conditions_of(document))
            self._conditions[id(document)] = known
            if len(self._conditions) > self._plans_max:
                self._conditions.popitem(last=False)
        return known[1]

    def hooked(self, schema: strawberry.Schema) -> bool:
        """Whether an extension of the schema wants to see every field being resolved: plans would pass it by."""
        if self._extensions is not schema.extensions:
            extensions = [one for one in schema.get_extensions() if not isinstance(one, DirectivesExtension)]
            self._hooked = any(one._implements_resolve() for one in extensions)
            self._extensions = schema.extensions
        return self._hooked

    def plan(self, key: Hashable, compile_: Callable[[], Plan]) -> Plan:
        """The plan kept under `key`, compiled when there is none."""
        found = self._plans.get(key)
        if found is None:
            found = compile_()
            self.compiled += 1
            self._plans[key] = found
            if len(self._plans) > self._plans_max:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key)
        self.used += 1
        return found


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
        key = (id(document), id(executor.operation), *(variables.get(name) for name in conditions))
        compiler = Compiler(executor)
        try:
            plan = self._plans.plan(key, compiler.plan)
        except GraphQLError as error:
            return ExecutionResult(None, [error])
        breadth = Breadth(executor, compiler)
        data = await breadth.run(plan)
        return ExecutionResult(data, breadth.errors or None)
