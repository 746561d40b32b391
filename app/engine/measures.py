"""How large a document is before it runs: how deep, how many aliases, how many list items it may ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    ArgumentNode,
    BooleanValueNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
)

PAGE_ARGUMENTS = ("first", "last")
SWITCHES = ("skip", "include")
INTROSPECTION = "__"

Variables = Mapping[str, Any]
Fragments = Mapping[str, FragmentDefinitionNode]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a selection costs whatever its variables are."""

    depth: int
    aliases: int
    fields: int


def fragments_of(document: DocumentNode) -> Fragments:
    """The fragments of a document by name."""
    found = (node for node in document.definitions if isinstance(node, FragmentDefinitionNode))
    return {node.name.value: node for node in found}


def operations_of(document: DocumentNode) -> tuple[OperationDefinitionNode, ...]:
    """The operations of a document, in its order."""
    return tuple(node for node in document.definitions if isinstance(node, OperationDefinitionNode))


@dataclass(slots=True)
class Shapes:
    """Measures selections of one document, fragments once each: a document may not even be valid yet."""

    fragments: Fragments
    _known: dict[str, Shape] = field(default_factory=dict)

    def of(self, selection_set: SelectionSetNode | None) -> Shape:
        """How deep it goes (introspection apart), its aliases, its own fields; fragments are spread out."""
        depth = aliases = fields = 0
        for selection in selection_set.selections if selection_set is not None else ():
            inner = self._selection(selection)
            depth = max(depth, inner.depth)
            aliases += inner.aliases
            fields += inner.fields
        return Shape(depth, aliases, fields)

    def _selection(self, selection: SelectionNode) -> Shape:
        match selection:
            case FieldNode():
                inner = self.of(selection.selection_set)
                hidden = selection.name.value.startswith(INTROSPECTION)
                aliased = selection.alias is not None
                return Shape(0 if hidden else inner.depth + 1, inner.aliases + aliased, 1)
            case InlineFragmentNode():
                return self.of(selection.selection_set)
            case FragmentSpreadNode():
                return self._fragment(selection.name.value)
        raise AssertionError("a selection is a field or a fragment")

    def _fragment(self, name: str) -> Shape:
        if name not in self._known:
            self._known[name] = Shape(0, 0, 0)  # what a fragment inside itself counts: validation refuses it
            fragment = self.fragments.get(name)
            if fragment is not None:
                self._known[name] = self.of(fragment.selection_set)
        return self._known[name]


@dataclass(slots=True)
class Nodes:
    """Counts the list items that one operation of a valid document may ask for."""

    schema: GraphQLSchema
    fragments: Fragments
    variables: Variables
    page_size_default: int
    _known: dict[str, int] = field(default_factory=dict)

    def of(self, operation: OperationDefinitionNode) -> int:
        """The items of every page, times the pages it is asked for in."""
        root = self.schema.get_root_type(operation.operation)
        return self._selections(operation.selection_set, root)

    def _selections(self, selection_set: SelectionSetNode | None, parent: GraphQLNamedType | None) -> int:
        if selection_set is None:
            return 0
        return sum(self._selection(item, parent) for item in selection_set.selections if self._included(item))

    def _selection(self, selection: SelectionNode, parent: GraphQLNamedType | None) -> int:
        match selection:
            case FieldNode():
                return self._field(selection, parent)
            case InlineFragmentNode():
                condition = selection.type_condition
                inside = self.schema.get_type(condition.name.value) if condition is not None else parent
                return self._selections(selection.selection_set, inside)
            case FragmentSpreadNode():
                return self._fragment(selection.name.value)
        raise AssertionError("a selection is a field or a fragment")

    def _fragment(self, name: str) -> int:
        if name not in self._known:
            fragment = self.fragments[name]
            inside = self.schema.get_type(fragment.type_condition.name.value)
            self._known[name] = self._selections(fragment.selection_set, inside)
        return self._known[name]

    def _field(self, node: FieldNode, parent: GraphQLNamedType | None) -> int:
        definition = getattr(parent, "fields", {}).get(node.name.value)
        if definition is None:
            return 0
        below = self._selections(node.selection_set, get_named_type(definition.type))
        if not any(name in definition.args for name in PAGE_ARGUMENTS):
            return below
        return self._page_size(node) * (1 + below)

    def _page_size(self, node: FieldNode) -> int:
        asked = [argument for argument in node.arguments or () if argument.name.value in PAGE_ARGUMENTS]
        sizes = [size for size in map(self._number, asked) if size is not None]
        return max(sizes) if sizes else self.page_size_default

    def _number(self, argument: ArgumentNode) -> int | None:
        value = plain(argument.value, self.variables)
        return max(value, 0) if isinstance(value, int) and not isinstance(value, bool) else None

    def _included(self, selection: SelectionNode) -> bool:
        for directive in selection.directives or ():
            if directive.name.value in SWITCHES and directive.arguments:
                condition = plain(directive.arguments[0].value, self.variables)
                if condition is (directive.name.value == "skip"):
                    return False
        return True


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
    """The variables that can change what an operation asks for (numbers and switches), defaults filled in."""
    found: dict[str, int] = {}
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        value = variables.get(name)
        if name not in variables and definition.default_value is not None:
            value = plain(definition.default_value, {})
        if isinstance(value, int):
            found[name] = value
    return found
