"""Reads a schema and makes the documents of the sweep: for every place where a value can be given, one that gives it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
)

PAGE = "first: 2"
HOPS_MAX = 3
WHOLE_HOPS_MAX = 5
INPUT_HOPS_MAX = 4
Composite = GraphQLObjectType | GraphQLInterfaceType


@dataclass(frozen=True)
class Slot:
    """A place for a value: in which field of which type, by which arguments, and of what type it is."""

    root: str
    field_path: tuple[str, ...]
    argument_path: tuple[str, ...]
    type: str
    # The document, with {{value}} where the value goes.
    document: str

    @property
    def name(self) -> str:
        return f"{self.root} {'.'.join(self.field_path)}({'.'.join(self.argument_path)})"


class Maker:
    """Makes documents over a schema; `good` gives values for what has to be given."""

    def __init__(self, schema: GraphQLSchema, good: dict[str, str]) -> None:
        self.schema = schema
        self.good = good

    def whole(self) -> Iterator[tuple[str, str]]:
        """One document for each root field of queries, with everything that can be selected, deep."""
        assert self.schema.query_type is not None
        for name, field in self.schema.query_type.fields.items():
            arguments = self.arguments("Query", name, field, {})
            yield name, f"query {{ {name}{arguments}{self.selection(field.type, WHOLE_HOPS_MAX, ())} }}"

    def reached(self) -> set[tuple[str, str]]:
        """Every (type, field) that those documents select."""
        seen: set[tuple[str, str]] = set()
        assert self.schema.query_type is not None
        for name, field in self.schema.query_type.fields.items():
            seen.add(("Query", name))
            self._note(field.type, WHOLE_HOPS_MAX, (), seen)
        return seen

    def slots(self, root: str) -> Iterator[Slot]:
        """Every place for a value, at the shortest path to each field that has arguments."""
        kind = {
            "query": self.schema.query_type,
            "mutation": self.schema.mutation_type,
            "subscription": self.schema.subscription_type,
        }[root]
        assert kind is not None
        for path, parents in self._paths(kind, nested=root == "query"):
            parent, name = parents[-1]
            field = parent.fields[name]
            for argument, definition in field.args.items():
                for inner, type_ in self._places(definition.type, (argument,)):
                    yield Slot(root, path, inner, type_, self._document(root, parents, inner))

    def _paths(
        self, kind: GraphQLObjectType, *, nested: bool
    ) -> Iterator[tuple[tuple[str, ...], list[tuple[Composite, str]]]]:
        """The shortest path to each field of each type, breadth first."""
        queue: list[tuple[tuple[str, ...], list[tuple[Composite, str]]]] = [((), [])]
        level: list[tuple[Composite, tuple[str, ...], list[tuple[Composite, str]]]] = [(kind, (), [])]
        seen: set[str] = {kind.name}
        del queue
        while level:
            following: list[tuple[Composite, tuple[str, ...], list[tuple[Composite, str]]]] = []
            for parent, path, parents in level:
                for name, field in parent.fields.items():
                    here, steps = (*path, name), [*parents, (parent, name)]
                    if field.args:
                        yield here, steps
                    target = get_named_type(field.type)
                    if nested and isinstance(target, GraphQLObjectType) and target.name not in seen:
                        seen.add(target.name)
                        following.append((target, here, steps))
            level = following

    def _places(
        self, type_: Any, path: tuple[str, ...], hops: int = INPUT_HOPS_MAX
    ) -> Iterator[tuple[tuple[str, ...], str]]:
        found = get_named_type(type_)
        if isinstance(found, GraphQLInputObjectType):
            if hops:
                for name, item in found.fields.items():
                    yield from self._places(item.type, (*path, name), hops - 1)
            return
        yield path, found.name

    def _document(self, root: str, parents: list[tuple[Composite, str]], inner: tuple[str, ...]) -> str:
        """The path down to the field, the value at its place, and what can be selected below."""
        parent, name = parents[-1]
        field = parent.fields[name]
        arguments = self.arguments(parent.name, name, field, {inner: "{{value}}"})
        text = f"{name}{arguments}{self.selection(field.type, HOPS_MAX, ())}"
        for outer, step in reversed(parents[:-1]):
            given = self.arguments(outer.name, step, outer.fields[step], {})
            text = f"{step}{given} {{ {text} }}"
        return f"{root} {{ {text} }}"

    def arguments(self, parent: str, name: str, field: Any, given: dict[tuple[str, ...], str]) -> str:
        """The field's arguments: those given, those that have to be, and small pages."""
        parts: dict[str, str] = {}
        for argument, definition in field.args.items():
            wanted = {path[1:]: value for path, value in given.items() if path[0] == argument}
            preset = self.good.get(f"{parent}.{name}.{argument}")
            if wanted or is_required_argument(definition):
                parts[argument] = self.literal(definition.type, wanted, f"{parent}.{name}.{argument}")
            elif preset is not None:
                parts[argument] = preset
        if {"first", "last"} <= set(field.args) and not {"first", "last"} & set(parts):
            parts["first"] = "2"
        return f"({', '.join(f'{key}: {value}' for key, value in parts.items())})" if parts else ""

    def literal(self, type_: Any, given: dict[tuple[str, ...], str], where: str) -> str:
        """A value of that type with those given inside."""
        if () in given:
            return given[()] if not _is_list(type_) else f"[{given[()]}]"
        if isinstance(type_, GraphQLNonNull):
            return self.literal(type_.of_type, given, where)
        if isinstance(type_, GraphQLList):
            return f"[{self.literal(type_.of_type, given, where)}]"
        if isinstance(type_, GraphQLInputObjectType):
            parts = []
            for name, item in type_.fields.items():
                inner = {path[1:]: value for path, value in given.items() if path[0] == name}
                preset = self.good.get(f"{type_.name}.{name}") or self.good.get(f"{where}.{name}")
                if inner or is_required_input_field(item):
                    parts.append(f"{name}: {self.literal(item.type, inner, f'{type_.name}.{name}')}")
                elif preset is not None:
                    parts.append(f"{name}: {preset}")
            return "{" + ", ".join(parts) + "}"
        if where in self.good:
            return self.good[where]
        if isinstance(type_, GraphQLEnumType):
            return next(iter(type_.values))
        return self.good[type_.name]

    def selection(self, type_: Any, hops: int, above: tuple[str, ...], alias: str = "") -> str:
        """Everything below, not through a type that is above already, and only so deep."""
        found: GraphQLNamedType = get_named_type(type_)
        if is_leaf_type(found):
            return ""
        if isinstance(found, GraphQLInterfaceType):
            kinds = self.schema.get_possible_types(found)
            # Fields of one name have different types: each kind has names of its own.
            inner = " ".join(
                f"... on {kind.name}{self.selection(kind, hops, above, f'{kind.name}_')}" for kind in kinds
            )
            return f" {{ __typename id {inner} }}"
        assert isinstance(found, GraphQLObjectType)
        parts = ["__typename"]
        for name, field in found.fields.items():
            target = get_named_type(field.type)
            if not is_leaf_type(target) and not self._goes_on(target, hops, above):
                continue
            left = hops if _is_wrapper(target) else hops - 1
            below = above if _is_wrapper(found) else (*above, found.name)
            given = self.arguments(found.name, name, field, {})
            named = f"{alias}{name}: {name}" if alias else name
            parts.append(f"{named}{given}{self.selection(target, left, below)}")
        return " { " + " ".join(parts) + " }"

    def _goes_on(self, target: GraphQLNamedType, hops: int, above: tuple[str, ...]) -> bool:
        return target.name not in above and (hops > 0 or _is_wrapper(target))

    def _note(self, type_: Any, hops: int, above: tuple[str, ...], seen: set[tuple[str, str]]) -> None:
        found = get_named_type(type_)
        kinds = self.schema.get_possible_types(found) if isinstance(found, GraphQLInterfaceType) else [found]
        for kind in kinds:
            if not isinstance(kind, GraphQLObjectType):
                continue
            for name, field in kind.fields.items():
                target = get_named_type(field.type)
                if is_leaf_type(target):
                    seen.add((kind.name, name))
                elif self._goes_on(target, hops, above):
                    seen.add((kind.name, name))
                    left = hops if _is_wrapper(target) else hops - 1
                    below = above if _is_wrapper(kind) else (*above, kind.name)
                    self._note(target, left, below, seen)


def _is_wrapper(type_: GraphQLNamedType) -> bool:
    return type_.name.endswith(("Connection", "Edge"))


def _is_list(type_: Any) -> bool:
    while isinstance(type_, GraphQLNonNull):
        type_ = type_.of_type
    return isinstance(type_, GraphQLList)
