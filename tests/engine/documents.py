"""Documents over a schema, made by chance: whatever GraphQL allows, with values that the ledger knows or does not.

hypothesis-graphql makes neither variables nor directives nor named fragments, and its ids find nothing; these do. One
seed makes one document, and costs a millisecond: drawing each choice from Hypothesis would cost ten.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_abstract_type,
    is_leaf_type,
    is_required_argument,
    is_required_input_field,
)

T = TypeVar("T")
FIELDS_MAX = 26
DEPTH_MAX = 7
# Where a field leads is mostly what a page is asked for.
FAVOURED = (
    *("edges", "node", "positions", "position", "events", "event", "ledgerEvents", "ledgerEvent", "asset"),
    *("results", "fundPosition", "releasePosition", "createPosition", "transitionPositions"),
)
SIZES = (*(2, 1, 3) * 6, 0, 0, 5, 5, -1, 501)

# How often an argument is given, in so many of a hundred. Most cursors belong to another list and are refused.
GIVEN_IN_100 = 100
GIVEN = {"first": 75, "last": 25, "after": 6, "before": 6, "where": 25}


@dataclass(frozen=True)
class Known:
    """Values that find something, by where they belong: ids, cursors, texts, times."""

    ids: Sequence[str]
    cursors: Sequence[str]
    texts: Sequence[str]
    times: Sequence[str]
    amounts: Sequence[str] = ("1.00", "100.00", "0.01", "7", "100000")


@dataclass(frozen=True)
class Document:
    """One to run: its text, its variables, and which fields it asks for."""

    text: str
    variables: Mapping[str, Any]
    asked: frozenset[tuple[str, str]]


@dataclass
class Author:
    """Writes one document."""

    chance: random.Random
    schema: GraphQLSchema
    known: Known
    # What is not asked for, and what an input is made of where chance would find nothing that is accepted.
    without: frozenset[str] = frozenset()
    inputs: Mapping[str, Callable[["Author"], str]] = field(default_factory=dict)
    _number: int = 0
    _budget: int = FIELDS_MAX
    _declared: list[str] = field(default_factory=list)
    _values: dict[str, Any] = field(default_factory=dict)
    _fragments: dict[str, list[str]] = field(default_factory=dict)
    _texts: list[str] = field(default_factory=list)
    _asked: set[tuple[str, str]] = field(default_factory=set)

    def query(self) -> Document:
        """A query."""
        assert self.schema.query_type is not None
        return self._document("query", self.selection(self.schema.query_type, 1 + self.pick(DEPTH_MAX)))

    def mutation(self) -> Document:
        """A mutation of up to four fields, one after the other."""
        root = self.schema.mutation_type
        assert root is not None
        parts = [self._field(root, 1 + self.pick(4), aliased=True) for _ in range(1 + self.pick(4))]
        return self._document("mutation", f"{{ {' '.join(parts)} }}")

    def pick(self, count: int) -> int:
        """A number below `count`."""
        return self.chance.randrange(count)

    def one(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[self.pick(len(options))]

    def seldom(self, one_in: int) -> bool:
        """Once in so many times."""
        return self.pick(one_in) == 0

    def literal(self, name: str, type_: Any) -> str:
        """A value of an input type."""
        return self._literal(name, type_, 3, plain=True)

    def _document(self, kind: str, selection: str) -> Document:
        name = "" if self.seldom(4) else " Q"
        declared = f"({', '.join(self._declared)})" if self._declared else ""
        if declared and not name:
            name = " Q"
        head = "" if kind == "query" and not name and not declared else f"{kind}{name}{declared} "
        text = "\n".join([f"{head}{selection}", *self._texts])
        return Document(text, dict(self._values), frozenset(self._asked))

    def selection(self, type_: Any, depth: int, *, aliased: bool = False) -> str:
        """What is asked of a type. With `aliased` every key is another one, so that types do not meet in one."""
        parts = [self._part(type_, depth, aliased=aliased) for _ in range(1 + self.pick(4))]
        return f"{{ {' '.join(parts)} }}"

    def _part(self, type_: Any, depth: int, *, aliased: bool) -> str:
        kind = self.pick(24)
        if is_abstract_type(type_) and kind > 8:
            # Favoured: what the ids of the ledger find.
            found = self.one(sorted(t.name for t in self.schema.get_possible_types(type_)))
            inner = self.selection(self.schema.type_map[found], depth, aliased=True)
            return f"... on {found}{self._condition()} {inner}"
        if kind == 23:
            return f"...{self._condition()} {self.selection(type_, depth, aliased=aliased)}"
        if kind == 22:
            return f"... on {type_.name}{self._condition()} {self.selection(type_, depth, aliased=aliased)}"
        if kind == 21 and not aliased and not type_.name.startswith("__"):
            return f"...{self._fragment(type_, depth)}{self._condition()}"
        if kind == 20 and getattr(type_, "interfaces", ()):
            return f"... on {type_.interfaces[0].name}{self._condition()} {{ id }}"
        if kind == 19:
            return self._key("__typename", aliased=aliased or self.seldom(2)) + self._condition()
        return self._field(type_, depth, aliased=aliased)

    def _fragment(self, type_: Any, depth: int) -> str:
        names = self._fragments.setdefault(type_.name, [])
        if names and self.seldom(2):
            return self.one(names)
        self._number += 1
        name = f"F{self._number}"
        inner = self.selection(type_, min(depth, 3))
        self._texts.append(f"fragment {name} on {type_.name} {inner}")
        # Known only now: a fragment must not hold itself.
        names.append(name)
        return name

    def _field(self, type_: Any, depth: int, *, aliased: bool) -> str:
        name = self._name(type_, depth)
        if name == "__typename":
            return self._key(name, aliased=aliased)
        definition: GraphQLField = type_.fields[name] if name in type_.fields else _meta(self.schema, name)
        self._budget -= 1
        self._asked.add((type_.name, name))
        arguments = self._arguments(definition)
        # Two of one key must ask the same; one in a while does so on purpose.
        key = self._key(name, aliased=aliased or bool(arguments) or self.seldom(6))
        named = get_named_type(definition.type)
        # A rule of graphql-core's refuses types of fields of types of fields.
        deep = min(depth - 1, 3) if name.startswith("__") else depth - 1
        if (type_.name, name) == ("Position", "events") and self.pick(3):
            below = self._page_of_data(named)
        else:
            below = "" if is_leaf_type(named) else " " + self.selection(named, deep)
        whole = f"{key}{arguments}{self._condition()}{below}"
        return f"{whole} {whole}" if self.seldom(24) else whole

    def _page_of_data(self, connection: Any) -> str:
        """A page whose rows are nothing but data: what is read without objects."""
        row = get_named_type(get_named_type(connection.fields["edges"].type).fields["node"].type)
        leaves = [name for name, one in row.fields.items() if is_leaf_type(get_named_type(one.type))]
        chosen = [self._key(name, aliased=self.seldom(3)) for name in {self.one(leaves) for _ in range(4)}]
        nested = self.one(
            ("", " actor { id role }", " postings { amount __typename }", " balancesAfter { held }")
        )
        page = self.one(("", " pageInfo { endCursor hasNextPage hasPreviousPage }", " __typename"))
        return f" {{ edges {{ cursor node {{ {' '.join(sorted(chosen))}{nested} }} }}{page} }}"

    def _name(self, type_: Any, depth: int) -> str:
        names = [name for name in type_.fields if f"{type_.name}.{name}" not in self.without]
        if depth <= 1 or self._budget <= 0:
            leaves = [name for name in names if is_leaf_type(get_named_type(type_.fields[name].type))]
            if type_ is self.schema.query_type or type_ is self.schema.mutation_type:
                return self.one(names)
            return self.one(leaves) if leaves else "__typename"
        if type_ is self.schema.query_type and self.seldom(40):
            return self.one(("__type", "__schema"))
        favoured = [name for name in FAVOURED if name in names]
        return self.one(favoured) if favoured and self.pick(3) else self.one(names)

    def _key(self, name: str, *, aliased: bool) -> str:
        if not aliased:
            return name
        self._number += 1
        return f"a{self._number}: {name}"

    def _condition(self) -> str:
        if not self.seldom(12):
            return ""
        directive = self.one(("include", "skip"))
        value = self.one(("true", "false", "variable"))
        if value == "variable":
            value = self._variable("Boolean!", "true", self.one((True, False)))
        return f" @{directive}(if: {value})"

    def _arguments(self, definition: GraphQLField) -> str:
        given = []
        for name, argument in definition.args.items():
            if name == "last" and any(one.startswith("first") for one in given) and self.pick(8):
                continue
            if is_required_argument(argument) or self.pick(GIVEN_IN_100) < GIVEN.get(name, 15):
                given.append(f"{name}: {self._value(name, argument)}")
        return f"({', '.join(given)})" if given else ""

    def _value(self, name: str, given: GraphQLArgument) -> str:
        if self.seldom(4):
            return self._as_variable(name, given.type)
        return self._literal(name, given.type, 3)

    def _as_variable(self, name: str, type_: Any) -> str:
        """A variable of that type: given, left to its default, or left out."""
        literal = self._literal(name, type_, 2, plain=True)
        how = self.pick(4)
        if how == 3 and self._is_plain(type_):
            return self._variable(str(type_), literal, _ABSENT)
        if how == 2 and not isinstance(type_, GraphQLNonNull):
            return self._variable(str(type_), None, self.one((_ABSENT, None)))
        if not self._is_plain(type_):
            return literal
        return self._variable(str(type_), None, ODD if self.seldom(40) else _python(literal))

    @staticmethod
    def _is_plain(type_: Any) -> bool:
        named = get_named_type(type_)
        return is_leaf_type(named) and named.name != "JSONObject"

    def _variable(self, type_: str, default: str | None, value: Any) -> str:
        self._number += 1
        name = f"v{self._number}"
        self._declared.append(f"${name}: {type_}" + ("" if default is None else f" = {default}"))
        if value is not _ABSENT:
            self._values[name] = value
        elif default is None and type_.endswith("!"):
            self._values[name] = None
        return f"${name}"

    def _literal(self, name: str, type_: Any, depth: int, *, plain: bool = False) -> str:
        if isinstance(type_, GraphQLNonNull):
            return self._literal(name, type_.of_type, depth, plain=plain)
        if isinstance(type_, GraphQLList):
            count = self.pick(3)
            items = [self._literal(name, type_.of_type, depth, plain=plain) for _ in range(count)]
            return f"[{', '.join(items)}]"
        if isinstance(type_, GraphQLEnumType):
            return self.one(list(type_.values))
        if isinstance(type_, GraphQLInputObjectType):
            return self._input(type_, depth, plain=plain)
        return self._scalar(name, type_.name)

    def _input(self, type_: GraphQLInputObjectType, depth: int, *, plain: bool) -> str:
        if type_.name in self.inputs and not self.seldom(8):
            return self.inputs[type_.name](self)
        names = list(type_.fields)
        chosen = {self.one(names)} | ({self.one(names)} if self.seldom(3) else set())
        parts = []
        for name, item in type_.fields.items():
            if is_required_input_field(item) or (name in chosen and depth > 0):
                nested = not plain and self._is_plain(item.type) and self.seldom(10)
                value = (
                    self._as_variable(name, item.type)
                    if nested
                    else self._literal(name, item.type, depth - 1, plain=plain)
                )
                parts.append(f"{name}: {value}")
        return "{" + ", ".join(parts) + "}"

    def _scalar(self, name: str, scalar: str) -> str:
        known = self.known
        if scalar == "Int" or scalar == "Long":
            return str(self.one(SIZES))
        if scalar == "Boolean":
            return self.one(("true", "false"))
        if scalar == "Decimal":
            return json.dumps(self.one(known.amounts))
        if scalar == "DateTime":
            return json.dumps(self.one(known.times))
        if scalar == "JSONObject":
            return self.one(("{}", '{a: {b: [1, "2", null]}}'))
        if scalar == "ID" or (name in {"id", "eq", "in"} and self.seldom(2)):
            return json.dumps(self.one(known.ids))
        if name in {"after", "before", "cursor", "atCursor"}:
            return json.dumps(self.one(known.cursors))
        return json.dumps(self.one(known.texts))


# A value that no type takes.
ODD = [{"nothing": "like it"}]
_ABSENT = object()


def _python(literal: str) -> Any:
    """The JSON of a literal without objects: names of enums become text."""
    try:
        return json.loads(literal)
    except ValueError:
        if literal.startswith("["):
            return [_python(part) for part in literal[1:-1].split(", ") if part]
        return literal


def _meta(schema: GraphQLSchema, name: str) -> GraphQLField:
    assert schema.query_type is not None
    found = schema.get_field(schema.query_type, name)
    assert found is not None
    return found


def objects(schema: GraphQLSchema) -> list[GraphQLObjectType]:
    """The object types of the schema that are ours."""
    return [
        t
        for t in schema.type_map.values()
        if isinstance(t, GraphQLObjectType) and not t.name.startswith("__")
    ]


def reachable(schema: GraphQLSchema) -> set[tuple[str, str]]:
    """Every field of ours that a query can ask for, by its type."""
    found: set[tuple[str, str]] = set()
    waiting: list[Any] = [schema.query_type]
    seen: set[str] = set()
    while waiting:
        type_ = waiting.pop()
        if type_.name in seen or not hasattr(type_, "fields"):
            continue
        seen.add(type_.name)
        waiting += schema.get_possible_types(type_) if is_abstract_type(type_) else ()
        for name, definition in type_.fields.items():
            found.add((type_.name, name))
            waiting.append(get_named_type(definition.type))
    return found
