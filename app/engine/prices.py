"""What an operation costs, estimated before it runs: an object 1, a list its page size times what an item costs.

Plain values are free, and so are the wrappers of a page (connection, edge). A mutation costs a fixed sum for each
item of its input, a subscription one; a field may declare a surcharge: `strawberry.field(metadata={"cost": 50})`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    ArgumentNode,
    BooleanValueNode,
    FieldNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    is_leaf_type,
    is_list_type,
)

from app.engine.measures import Fragments

PAGE_ARGUMENTS = ("first", "last")
SWITCHES = ("skip", "include")
# What a list is taken for that says nothing of its length.
LIST_SIZE = 10
MUTATION_COST = 10
SUBSCRIPTION_COST = 10
INTROSPECTION_COSTS = {"__schema": 500, "__type": 50}
DEFINITION = "strawberry-definition"

Variables = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long lists are here: those that are the rows of a page (None: this is no page), and all others."""

    rows: int | None = None
    plain: int = LIST_SIZE


@dataclass(slots=True)
class Prices:
    """Estimates operations of one valid document; fragments once each, since they may double each other."""

    schema: GraphQLSchema
    fragments: Fragments
    variables: Variables
    page_size_default: int
    _known: dict[tuple[str, Sizes], int] = field(default_factory=dict)

    def of(self, operation: OperationDefinitionNode) -> int:
        """The most that it may cost."""
        root = self.schema.get_root_type(operation.operation)
        found = self._selections(operation.selection_set, root, Sizes())
        return found + (SUBSCRIPTION_COST if operation.operation is OperationType.SUBSCRIPTION else 0)

    def sizes(self, node: FieldNode, parent: Any, definition: GraphQLField, within: Sizes) -> Sizes:
        """How long the lists below a field are."""
        if parent is self.schema.mutation_type:
            return Sizes(plain=max(self.items(node), 2))
        if is_list(definition):
            return Sizes()
        return Sizes(self.page_size(node) if is_paged(definition) else None, within.plain)

    def page_size(self, node: FieldNode) -> int:
        """How many rows a paged field is asked for."""
        asked = [argument for argument in node.arguments or () if argument.name.value in PAGE_ARGUMENTS]
        sizes = [size for size in map(self._number, asked) if size is not None]
        return max(sizes) if sizes else self.page_size_default

    def items(self, node: FieldNode) -> int:
        """How many things a mutation is asked to do: the longest list directly in its input."""
        return max((self._length(argument.value) for argument in node.arguments or ()), default=1)

    def surcharge(self, node: FieldNode, parent: Any, definition: GraphQLField) -> int:
        """What a field costs beside its objects."""
        declared = definition.extensions.get(DEFINITION)
        extra = int(getattr(declared, "metadata", {}).get("cost", 0))
        return extra + (
            MUTATION_COST * max(self.items(node), 1) if parent is self.schema.mutation_type else 0
        )

    def is_included(self, selection: SelectionNode) -> bool:
        """Whether @skip and @include leave it in."""
        for directive in selection.directives or ():
            if directive.name.value in SWITCHES and directive.arguments:
                condition = plain(directive.arguments[0].value, self.variables)
                if condition is (directive.name.value == "skip"):
                    return False
        return True

    def _selections(
        self, selection_set: SelectionSetNode | None, parent: GraphQLNamedType | None, within: Sizes
    ) -> int:
        chosen = selection_set.selections if selection_set is not None else ()
        return sum(self._selection(item, parent, within) for item in chosen if self.is_included(item))

    def _selection(self, selection: SelectionNode, parent: GraphQLNamedType | None, within: Sizes) -> int:
        match selection:
            case FieldNode():
                return self._field(selection, parent, within)
            case InlineFragmentNode():
                condition = selection.type_condition
                inside = self.schema.get_type(condition.name.value) if condition is not None else parent
                return self._selections(selection.selection_set, inside, within)
            case FragmentSpreadNode():
                return self._fragment(selection.name.value, within)
        raise AssertionError("a selection is a field or a fragment")

    def _fragment(self, name: str, within: Sizes) -> int:
        key = (name, within)
        if key not in self._known:
            fragment = self.fragments[name]
            inside = self.schema.get_type(fragment.type_condition.name.value)
            self._known[key] = self._selections(fragment.selection_set, inside, within)
        return self._known[key]

    def _field(self, node: FieldNode, parent: GraphQLNamedType | None, within: Sizes) -> int:
        definition = definition_of(node, parent)
        if definition is None:
            return INTROSPECTION_COSTS.get(node.name.value, 0)
        named = get_named_type(definition.type)
        if is_leaf_type(named):
            return self.surcharge(node, parent, definition)
        sizes = self.sizes(node, parent, definition, within)
        below = self._selections(node.selection_set, named, sizes)
        return self.surcharge(node, parent, definition) + self._objects(node, definition, within, below)

    def _objects(self, node: FieldNode, definition: GraphQLField, within: Sizes, below: int) -> int:
        if is_list(definition):
            if within.rows is not None:
                return within.rows * max(below, 1)
            return (self.page_size(node) if is_paged(definition) else within.plain) * (1 + below)
        # A page whose rows are not looked at is read all the same.
        return max(self.page_size(node), below) if is_paged(definition) else 1 + below

    def _number(self, argument: ArgumentNode) -> int | None:
        value = plain(argument.value, self.variables)
        return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else None

    def _length(self, node: ValueNode) -> int:
        match node:
            case ListValueNode():
                return len(node.values)
            case ObjectValueNode():
                values = (item.value for item in node.fields)
                return max((self._length(v) for v in values if not isinstance(v, ObjectValueNode)), default=1)
            case VariableNode():
                found = self.variables.get(node.name.value, 1)
                return found if isinstance(found, Length) else 1
        return 1


class Length(int):
    """How long the list in a variable is; no number that somebody gave."""


def definition_of(node: FieldNode, parent: Any) -> GraphQLField | None:
    """The field's definition; None for introspection."""
    found: GraphQLField | None = getattr(parent, "fields", {}).get(node.name.value)
    return found


def is_list(definition: GraphQLField) -> bool:
    """Whether the field itself is a list."""
    return is_list_type(get_nullable_type(definition.type))


def is_paged(definition: GraphQLField) -> bool:
    """Whether one can say how many rows are wanted."""
    return any(name in definition.args for name in PAGE_ARGUMENTS)


def plain(node: ValueNode, variables: Variables) -> object:
    """A number or a switch, written out or as a variable; anything else is None: it sizes nothing."""
    match node:
        case VariableNode():
            return variables.get(node.name.value)
        case IntValueNode():
            return int(node.value)
        case BooleanValueNode():
            return node.value
    return None


def sizing_variables(operation: OperationDefinitionNode, variables: Variables) -> dict[str, int]:
    """The variables that can change what an operation costs: numbers, switches (defaults filled in), and lengths."""
    found: dict[str, int] = {}
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        value = variables.get(name)
        if name not in variables and definition.default_value is not None:
            value = plain(definition.default_value, {})
        if isinstance(value, int):
            found[name] = value
        elif isinstance(value, list):
            found[name] = Length(len(value))
        elif isinstance(value, dict):
            lists = [len(item) for item in value.values() if isinstance(item, list)]
            if lists:
                found[name] = Length(max(lists))
    return found
