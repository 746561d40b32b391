"""How large a document is before it runs, whatever its variables: how deep, how many aliases and directives."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
)

INTROSPECTION = "__"

Fragments = Mapping[str, FragmentDefinitionNode]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a selection costs whatever its variables are."""

    depth: int
    aliases: int
    fields: int
    directives: int


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

    def of_operation(self, operation: OperationDefinitionNode) -> Shape:
        """The whole of an operation."""
        shape = self.of(operation.selection_set)
        beside = len(operation.directives or ())
        beside += sum(len(definition.directives or ()) for definition in operation.variable_definitions or ())
        return Shape(shape.depth, shape.aliases, shape.fields, shape.directives + beside)

    def of(self, selection_set: SelectionSetNode | None) -> Shape:
        """How deep it goes (introspection apart), its aliases, its own fields; fragments are spread out."""
        depth = aliases = fields = directives = 0
        for selection in selection_set.selections if selection_set is not None else ():
            inner = self._selection(selection)
            depth = max(depth, inner.depth)
            aliases += inner.aliases
            fields += inner.fields
            directives += inner.directives + len(selection.directives or ())
        return Shape(depth, aliases, fields, directives)

    def _selection(self, selection: SelectionNode) -> Shape:
        match selection:
            case FieldNode():
                inner = self.of(selection.selection_set)
                hidden = selection.name.value.startswith(INTROSPECTION)
                aliased = selection.alias is not None
                return Shape(0 if hidden else inner.depth + 1, inner.aliases + aliased, 1, inner.directives)
            case InlineFragmentNode():
                return self.of(selection.selection_set)
            case FragmentSpreadNode():
                return self._fragment(selection.name.value)
        raise AssertionError("a selection is a field or a fragment")

    def _fragment(self, name: str) -> Shape:
        if name not in self._known:
            # What a fragment inside itself counts: validation refuses it.
            self._known[name] = Shape(0, 0, 0, 0)
            fragment = self.fragments.get(name)
            if fragment is not None:
                shape = self.of(fragment.selection_set)
                self._known[name] = replace(
                    shape, directives=shape.directives + len(fragment.directives or ())
                )
        return self._known[name]


@dataclass(slots=True)
class RootFields:
    """Counts the root fields of a valid document by name, fragments once each: they may double each other."""

    fragments: Fragments
    _known: dict[str, Counter[str]] = field(default_factory=dict)

    def of(self, selection_set: SelectionSetNode | None) -> Counter[str]:
        """How often each is asked for."""
        found: Counter[str] = Counter()
        for selection in selection_set.selections if selection_set is not None else ():
            match selection:
                case FieldNode():
                    found[selection.name.value] += 1
                case InlineFragmentNode():
                    found += self.of(selection.selection_set)
                case FragmentSpreadNode():
                    name = selection.name.value
                    if name not in self._known:
                        self._known[name] = self.of(self.fragments[name].selection_set)
                    found += self._known[name]
        return found
