"""What an operation did cost: the same sum as its price, with the lists as long as the answer has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphql import (
    FieldNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    get_named_type,
    is_leaf_type,
)

from app.engine.prices import (
    INTROSPECTION_COSTS,
    SUBSCRIPTION_COST,
    Prices,
    Sizes,
    definition_of,
    is_list,
    is_paged,
)

Path = tuple[str, ...]
Grouped = dict[str, list[tuple[FieldNode, Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class Reckoning:
    """What an object costs with all that is always with it, and the lists below it, each by its path."""

    fixed: int
    lists: "tuple[tuple[Path, Reckoning], ...]" = ()

    @property
    def size(self) -> int:
        """How many lists it knows, itself among them."""
        return 1 + sum(each.size for _, each in self.lists)

    def of(self, data: Any) -> int:
        """The cost of what is there. Looks at lists and the way to them alone, so that it costs little itself."""
        total = self.fixed
        for path, each in self.lists:
            found = data
            for key in path:
                found = found.get(key)
                if found is None:
                    break
            else:
                if each.lists:
                    total += sum(each.of(item) for item in found if isinstance(item, dict))
                else:
                    total += each.fixed * len(found)
        return total


@dataclass(slots=True)
class Reckoner:
    """Makes the reckoning of an operation whose price was found to be within the limit."""

    prices: Prices

    def of(self, operation: OperationDefinitionNode) -> Reckoning:
        """The operation as a whole."""
        root = self.prices.schema.get_root_type(operation.operation)
        found = self._object([operation.selection_set], root, Sizes())
        is_live = operation.operation is OperationType.SUBSCRIPTION
        return Reckoning(found.fixed + (SUBSCRIPTION_COST if is_live else 0), found.lists)

    def _object(
        self, selection_sets: Sequence[SelectionSetNode | None], parent: Any, within: Sizes
    ) -> Reckoning:
        grouped: Grouped = {}
        seen: set[str] = set()
        for selection_set in selection_sets:
            self._collect(selection_set, parent, grouped, seen)
        fixed, lists = 0, []
        for key, fields in grouped.items():
            found = self._field([node for node, _ in fields], fields[0][1], within)
            fixed += found.fixed
            lists += [((key, *path), each) for path, each in found.lists]
        return Reckoning(fixed, tuple(lists))

    def _collect(
        self, selection_set: SelectionSetNode | None, parent: Any, grouped: Grouped, seen: set[str]
    ) -> None:
        """Fields by response key, whatever type they are for; each fragment once, as in execution."""
        schema, fragments = self.prices.schema, self.prices.fragments
        for selection in selection_set.selections if selection_set is not None else ():
            if not self.prices.is_included(selection):
                continue
            match selection:
                case FieldNode():
                    key = (selection.alias or selection.name).value
                    grouped.setdefault(key, []).append((selection, parent))
                case InlineFragmentNode():
                    condition = selection.type_condition
                    inside = schema.get_type(condition.name.value) if condition is not None else parent
                    self._collect(selection.selection_set, inside, grouped, seen)
                case FragmentSpreadNode() if selection.name.value not in seen:
                    seen.add(selection.name.value)
                    fragment = fragments[selection.name.value]
                    inside = schema.get_type(fragment.type_condition.name.value)
                    self._collect(fragment.selection_set, inside, grouped, seen)

    def _field(self, nodes: Sequence[FieldNode], parent: Any, within: Sizes) -> Reckoning:
        node = nodes[0]
        definition = definition_of(node, parent)
        if definition is None:
            return Reckoning(INTROSPECTION_COSTS.get(node.name.value, 0))
        surcharge = self.prices.surcharge(node, parent, definition)
        named = get_named_type(definition.type)
        if is_leaf_type(named):
            return Reckoning(surcharge)
        sizes = self.prices.sizes(node, parent, definition, within)
        below = self._object([item.selection_set for item in nodes], named, sizes)
        if is_list(definition):
            each = max(below.fixed, 1) if within.rows is not None else 1 + below.fixed
            return Reckoning(surcharge, (((), Reckoning(each, below.lists)),))
        if is_paged(definition):
            has_rows = any(len(path) == 1 for path, _ in below.lists)
            unseen = 0 if has_rows else self.prices.page_size(node)
            return Reckoning(surcharge + below.fixed + unseen, below.lists)
        return Reckoning(surcharge + 1 + below.fixed, below.lists)
