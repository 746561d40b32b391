"""Compiles an operation into a plan: for each level, which fields are plain data and which have to be asked.

A plan says what is the same for everybody who sends the document; arguments are read when it runs. It depends on
variables only through @skip and @include, so it is kept by the values of those.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLAbstractType,
    GraphQLError,
    GraphQLField,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    VariableNode,
    Visitor,
    is_abstract_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
    visit,
)
from graphql.execution.collect_fields import FieldDetails, collect_fields, collect_subfields
from graphql.execution.executor import Executor
from strawberry.types.field import StrawberryField

from app.engine.calls import Resolve, call_of, strawberry_field
from app.engine.columns import Column, column_of
from app.engine.direct import Direct, Wanted, direct_of, wanted_of
from app.engine.loaded import Loaded, loaded_of

Details = list[FieldDetails]


@dataclass(slots=True, eq=False)
class Output:
    """How a column of values becomes a column of the answer. Exactly one of the last four is set."""

    non_null: bool
    leaf: Column | None = None
    item: "Output | None" = None
    selection: "Selection | None" = None
    abstract: "Abstract | None" = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing below has to be asked: the whole of it is data at hand."""
        if self.item is not None:
            return self.item.is_plain
        return self.leaf is not None or (self.selection is not None and self.selection.is_plain)


@dataclass(slots=True, eq=False)
class Planned:
    """One field of a level: its response key, and either the attribute it is or the resolver it has."""

    key: str
    name: str
    details: Details
    nodes: list[FieldNode]
    parent: GraphQLObjectType
    definition: GraphQLField
    output: Output
    resolve: Resolve | None = None
    attribute: str | None = None
    typename: str | None = None
    direct: Direct | None = None
    wanted: tuple[Wanted, ...] = ()
    loaded: Loaded | None = None


@dataclass(slots=True, eq=False)
class Selection:
    """The fields asked of objects of one type, in the order of the answer."""

    type: GraphQLObjectType
    fields: tuple[Planned, ...]
    keys: tuple[str, ...]
    is_plain: bool


@dataclass(slots=True, eq=False)
class Abstract:
    """An interface or union: a selection for each type that turns up."""

    type: GraphQLAbstractType
    details: Details
    selections: dict[str, Selection] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Plan:
    """A compiled operation."""

    selection: Selection
    is_serial: bool


class Compiler:
    """Compiles with one request's executor, whose variables say what is skipped."""

    def __init__(self, executor: "Executor[Any]") -> None:
        self._executor = executor
        self._schema: GraphQLSchema = executor.schema
        # How many fields it has planned, of types too that turned up only when a plan ran.
        self.fields = 0

    def plan(self) -> Plan:
        """The plan of the executor's operation."""
        executor = self._executor
        operation = executor.operation
        root = self._schema.get_root_type(operation.operation)
        if root is None:
            raise GraphQLError(
                f"Schema is not configured to execute {operation.operation.value} operation.", operation
            )
        grouped = collect_fields(
            self._schema,
            executor.fragments,
            executor.variable_values,
            root,
            operation,
            executor.hide_suggestions,
        ).grouped_field_set
        return Plan(self._selection(root, grouped), operation.operation is OperationType.MUTATION)

    def selection(self, type_: GraphQLObjectType, details: Details) -> Selection:
        """What `details` ask of objects of that type."""
        executor = self._executor
        grouped = collect_subfields(
            self._schema,
            executor.fragments,
            executor.variable_values,
            executor.operation,
            type_,
            details,
            executor.hide_suggestions,
        ).grouped_field_set
        return self._selection(type_, grouped)

    def _selection(self, type_: GraphQLObjectType, grouped: Mapping[str, Details]) -> Selection:
        fields = tuple(self._fields(type_, grouped))
        self.fields += len(fields)
        plain = all((f.attribute or f.typename) is not None and f.output.is_plain for f in fields)
        return Selection(type_, fields, tuple(f.key for f in fields), plain)

    def _fields(self, type_: GraphQLObjectType, grouped: Mapping[str, Details]) -> Iterator[Planned]:
        for key, details in grouped.items():
            nodes = [detail.node for detail in details]
            name = nodes[0].name.value
            definition = self._schema.get_field(type_, name)
            if definition is None:
                continue
            output = self._output(definition.type, details)
            planned = Planned(key, name, details, nodes, type_, definition, output)
            planned.typename = type_.name if name == "__typename" else None
            planned.attribute = None if planned.typename else attribute_of(self._schema, definition)
            if planned.attribute is None and planned.typename is None:
                planned.resolve = call_of(self._schema, definition)
            field = strawberry_field(definition)
            if field is not None:
                # What is called in Strawberry's own way has something about it that has to see every call.
                usual = planned.resolve is not definition.resolve
                planned.loaded = loaded_of(field) if usual else None
                if output.selection is not None and output.selection.is_plain:
                    planned.direct = direct_of(field)
                    planned.wanted = wanted_of(output.selection) if planned.direct is not None else ()
            yield planned

    def _output(self, type_: GraphQLOutputType, details: Details) -> Output:
        non_null = is_non_null_type(type_)
        inner: Any = type_.of_type if is_non_null_type(type_) else type_
        if is_list_type(inner):
            return Output(non_null, item=self._output(inner.of_type, details))
        if is_leaf_type(inner):
            return Output(non_null, leaf=column_of(inner))
        if is_abstract_type(inner):
            return Output(non_null, abstract=Abstract(inner, details))
        return Output(non_null, selection=self.selection(inner, details))


def attribute_of(schema: GraphQLSchema, definition: GraphQLField) -> str | None:
    """The attribute a field is, when Strawberry itself would only read it.

    That is: no resolver, permission or extension, no field class of its own, and nothing in the schema's configuration
    that stands between an attribute and the answer.
    """
    found = strawberry_field(definition)
    if found is None or not found.is_basic_field or definition.args:
        return None
    if type(found) is not StrawberryField or found.default_resolver is not getattr:
        return None
    strawberrys: Any = getattr(schema, "_strawberry_schema", None)
    if strawberrys is None or strawberrys.exception_handlers:
        return None
    return found.python_name if getattr(definition.resolve, "_is_default", False) else None


class _Conditions(Visitor):
    """Finds the variables that @skip and @include look at."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.others = False

    def enter_directive(self, node: Any, *_: Any) -> None:
        """Any other directive is left to graphql-core."""
        if node.name.value not in ("skip", "include"):
            self.others = True
        self.names |= {
            arg.value.name.value for arg in node.arguments or () if isinstance(arg.value, VariableNode)
        }


def conditions_of(document: DocumentNode) -> tuple[str, ...] | None:
    """The variables a plan of the document depends on; None when it has a directive that plans do not know."""
    found = _Conditions()
    visit(document, found)
    return None if found.others else tuple(sorted(found.names))


def is_planned(operation: OperationDefinitionNode) -> bool:
    """Whether operations of this kind are run by plans; streams are run event by event elsewhere."""
    return operation.operation is not OperationType.SUBSCRIPTION
