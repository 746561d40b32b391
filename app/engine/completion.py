"""Completes columns of values: plain levels wholly, and for the others what needs no asking; notes what went wrong."""

from collections.abc import Iterable, Sequence
from typing import Any

from graphql import GraphQLError, Undefined, located_error
from graphql.execution.executor import Executor
from graphql.pyutils import inspect

from app.engine.levels import Level
from app.engine.plans import Output, Planned, Selection


class Failure:
    """What a resolver raised, in the place of its value."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Bubble:
    """A null where none may be: whoever holds it becomes null itself."""


BUBBLE = _Bubble()


class Completer:
    """The columns of one execution, its errors, and whether a null has gone up somewhere."""

    def __init__(self, executor: "Executor[Any]") -> None:
        self._executor = executor
        self._bubbled = False
        self.errors: list[GraphQLError] = []

    def plain_objects(self, selection: Selection, objects: list[Any], level: Level) -> list[Any]:
        """The answers of objects whose whole selection is data."""
        columns = [
            self.plain(planned.output, self.read(planned, objects), planned, Level(level, key=planned.key))
            for planned in selection.fields
        ]
        return self.rows(selection, columns, len(objects))

    @staticmethod
    def read(planned: Planned, objects: list[Any]) -> list[Any]:
        """The attribute that a field is, of every object."""
        name = planned.attribute
        if name is None:
            return [planned.typename] * len(objects)
        try:
            return [getattr(source, name) for source in objects]
        except Exception:  # noqa: BLE001 - some object has none: told object by object
            return [_attribute(source, name) for source in objects]

    def plain(self, output: Output, values: Sequence[Any], planned: Planned, level: Level) -> list[Any]:
        """A column of values whose whole output is data, completed."""
        if output.leaf is not None:
            return self.leaves(output, values, planned, level)
        if output.item is not None:
            lists, items, below = self.flatten(output, values, planned, level)
            return self.regroup(output, lists, self.plain(output.item, items, planned, below))
        selection = output.selection
        assert selection is not None, "what is plain has no abstract type"
        places, objects = self.present(output, values, planned, level)
        below = Level(level, rows=places)
        kept = self.judged(selection, objects, planned, below)
        answers = self.plain_objects(selection, [objects[i] for i in kept], Level(below, rows=kept))
        return self.spread(output, [places[i] for i in kept], answers, len(values), set(places))

    def leaves(self, output: Output, values: Sequence[Any], planned: Planned, level: Level) -> list[Any]:
        """A column of scalars or enum values, completed."""
        leaf = output.leaf
        assert leaf is not None, "an output is one of four kinds"
        swift = leaf.swift(values) if values else None
        if swift is not None:
            return swift
        return [self._leaf(output, value, planned, level, place) for place, value in enumerate(values)]

    def _leaf(self, output: Output, value: Any, planned: Planned, level: Level, place: int) -> Any:
        if value is None or value is Undefined or isinstance(value, (Failure, Exception)):
            return self._nothing(output, value, planned, level, place)
        try:
            found = self._executor.complete_leaf_value(_leaf_type(planned), value)
        except Exception as error:  # noqa: BLE001 - a value that its type does not take is its field's error
            return self._nothing(output, Failure(error), planned, level, place)
        return found

    def flatten(
        self, output: Output, values: Sequence[Any], planned: Planned, level: Level
    ) -> tuple[list[int | None], list[Any], Level]:
        """The items of all lists in one column; for each list its length, or None where there is no list."""
        lengths: list[int | None] = []
        items: list[Any] = []
        rows: list[int] = []
        positions: list[int] = []
        for place, value in enumerate(values):
            if value is None or value is Undefined or isinstance(value, (Failure, Exception)):
                lengths.append(self._no_list(output, value, planned, level, place))
                continue
            if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
                words = f"{planned.parent.name}.{planned.name}"
                error = GraphQLError(f"Expected Iterable, but did not find one for field '{words}'.")
                lengths.append(self._no_list(output, Failure(error), planned, level, place))
                continue
            found = list(value)
            lengths.append(len(found))
            items += found
            rows += [place] * len(found)
            positions += range(len(found))
        return lengths, items, Level(level, rows=rows, positions=positions)

    def _no_list(self, output: Output, value: Any, planned: Planned, level: Level, place: int) -> int | None:
        return -1 if self._nothing(output, value, planned, level, place) is BUBBLE else None

    def regroup(self, output: Output, lengths: list[int | None], items: list[Any]) -> list[Any]:
        """The lists that their completed items make."""
        answers: list[Any] = []
        start = 0
        for length in lengths:
            if length is None or length < 0:
                answers.append(None if length is None else BUBBLE)
                continue
            part = items[start : start + length]
            start += length
            if self._bubbled and any(item is BUBBLE for item in part):
                answers.append(BUBBLE if output.non_null else None)
            else:
                answers.append(part)
        return answers

    def present(
        self, output: Output, values: Sequence[Any], planned: Planned, level: Level
    ) -> tuple[list[int], list[Any]]:
        """The places of the objects that are there."""
        places: list[int] = []
        for place, value in enumerate(values):
            if value is None or value is Undefined or isinstance(value, (Failure, Exception)):
                self._nothing(output, value, planned, level, place)
            else:
                places.append(place)
        if len(places) == len(values):
            return places, list(values)
        return places, [values[place] for place in places]

    def judged(self, selection: Selection, objects: list[Any], planned: Planned, level: Level) -> list[int]:
        """The places of the objects that are of the type they should be."""
        is_type_of = selection.type.is_type_of
        if is_type_of is None:
            return list(range(len(objects)))
        kept = []
        for place, value in enumerate(objects):
            if is_type_of(value, None):  # type: ignore[arg-type]
                kept.append(place)
            else:
                words = f"Expected value of type '{selection.type.name}' but got: {inspect(value)}."
                self.note(GraphQLError(words, planned.nodes), planned, level, place)
        return kept

    def spread(
        self, output: Output, places: list[int], answers: list[Any], size: int, present: set[int]
    ) -> list[Any]:
        """A column of objects back in their places; what became null is null or goes further up."""
        missing = BUBBLE if output.non_null else None
        if len(places) == size and not self._bubbled:
            return answers
        column: list[Any] = [missing] * size
        for place, answer in zip(places, answers, strict=True):
            column[place] = missing if answer is BUBBLE else answer
        if missing is BUBBLE:
            self._bubbled = True
        assert present is not None, "the places are known"
        return column

    def rows(self, selection: Selection, columns: list[list[Any]], size: int) -> list[Any]:
        """The objects that completed columns make, in the order of the selection."""
        keys = selection.keys
        if not keys:
            return [{} for _ in range(size)]
        rows: list[Any] = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
        if self._bubbled:
            for column in columns:
                for place, value in enumerate(column):
                    if value is BUBBLE:
                        rows[place] = BUBBLE
        return rows

    def _nothing(self, output: Output, value: Any, planned: Planned, level: Level, place: int) -> Any:
        """No value here: null where that is allowed and nothing went wrong, else an error."""
        if isinstance(value, (Failure, Exception)):
            self.note(value.error if isinstance(value, Failure) else value, planned, level, place)
        elif output.non_null:
            words = f"Cannot return null for non-nullable field {planned.parent.name}.{planned.name}."
            self.note(TypeError(words), planned, level, place)
        if not output.non_null:
            return None
        self._bubbled = True
        return BUBBLE

    def note(self, error: BaseException, planned: Planned, level: Level, place: int) -> None:
        """Keep an error with its place."""
        if not isinstance(error, Exception):
            raise error
        self.errors.append(located_error(error, planned.nodes, level.path(place)))


def _attribute(source: Any, name: str) -> Any:
    try:
        return getattr(source, name)
    except Exception as error:  # noqa: BLE001 - as above
        return Failure(error)


def _leaf_type(planned: Planned) -> Any:
    found: Any = planned.definition.type
    while hasattr(found, "of_type"):
        found = found.of_type
    return found
