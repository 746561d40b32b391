"""Runs a plan breadth-first: a level at once, plain data in columns, loaders asked for all their keys together."""

import asyncio
import inspect
from collections.abc import AsyncIterable, Awaitable, Sequence
from typing import Any

from graphql import GraphQLError
from graphql.execution.executor import Executor
from graphql.execution.values import get_argument_values
from graphql.pyutils import Path

from app.engine.completion import BUBBLE, Completer, Failure
from app.engine.levels import Level
from app.engine.plans import Compiler, Output, Plan, Planned, Selection


class Answered:
    """A column that is part of the answer as it is."""

    __slots__ = ("column",)

    def __init__(self, column: list[Any]) -> None:
        self.column = column


class Read:
    """A column of values, read for all objects at once."""

    __slots__ = ("column",)

    def __init__(self, column: list[Any]) -> None:
        self.column = column


class Breadth:
    """One execution of a plan."""

    def __init__(self, executor: "Executor[Any]", compiler: Compiler) -> None:
        self._executor = executor
        self._compiler = compiler
        self._columns = Completer(executor)

    @property
    def errors(self) -> list[GraphQLError]:
        """What went wrong, in no particular order."""
        return self._columns.errors

    async def run(self, plan: Plan) -> dict[str, Any] | None:
        """The `data` of the answer; `errors` holds what went wrong."""
        root = Level()
        objects = [self._executor.root_value]
        if plan.is_serial:
            answer = await self._serially(plan.selection, objects, root)
        else:
            (answer,) = await self._objects(plan.selection, objects, root)
        return None if answer is BUBBLE else answer

    async def _serially(self, selection: Selection, objects: list[Any], level: Level) -> Any:
        """Each root field wholly before the next one begins."""
        answer: dict[str, Any] = {}
        for planned in selection.fields:
            part = Selection(selection.type, (planned,), (planned.key,), is_plain=False)
            (one,) = await self._objects(part, objects, level)
            if one is BUBBLE:
                return BUBBLE
            answer.update(one)
        return answer

    async def _objects(self, selection: Selection, objects: list[Any], level: Level) -> list[Any]:
        if not objects:
            return []
        if selection.is_plain:
            return self._columns.plain_objects(selection, objects, level)
        columns = await self._resolve(selection, objects, level)
        done: list[Any] = [None] * len(columns)
        later: list[Awaitable[None]] = []
        for place, (planned, values) in enumerate(zip(selection.fields, columns, strict=True)):
            below = Level(level, key=planned.key)
            if isinstance(values, Answered):
                done[place] = values.column
            elif planned.output.is_plain:
                done[place] = self._columns.plain(planned.output, values, planned, below)
            else:
                later.append(self._into(done, place, planned, values, below))
        if len(later) == 1:
            await later[0]
        elif later:
            # Side by side, so that loaders of sibling branches are asked together.
            await asyncio.gather(*later)
        return self._columns.rows(selection, done, len(objects))

    async def _into(
        self, done: list[Any], place: int, planned: Planned, values: list[Any], below: Level
    ) -> None:
        done[place] = await self._complete(planned.output, values, planned, below)

    async def _resolve(self, selection: Selection, objects: list[Any], level: Level) -> list[Any]:
        """A column for each field: attributes read, resolvers called, all that has to be awaited awaited at once."""
        columns: list[Any] = []
        waiting: list[tuple[list[Any], int]] = []
        for planned in selection.fields:
            if planned.attribute is not None or planned.typename is not None:
                columns.append(self._columns.read(planned, objects))
                continue
            column = self._ask(planned, objects, level)
            columns.append(column)
            waiting += [(column, place) for place, value in enumerate(column) if inspect.isawaitable(value)]
        if len(waiting) == 1:
            column, place = waiting[0]
            try:
                column[place] = await column[place]
            except Exception as error:  # noqa: BLE001 - whatever a resolver raises is its field's error
                column[place] = Failure(error)
        elif waiting:
            found = await asyncio.gather(
                *(column[place] for column, place in waiting), return_exceptions=True
            )
            for (column, place), value in zip(waiting, found, strict=True):
                column[place] = Failure(value) if isinstance(value, BaseException) else value
        return [self._direct_or_not(column, len(objects)) for column in columns]

    def _ask(self, planned: Planned, objects: list[Any], level: Level) -> list[Any]:
        """A value, an awaitable or a failure for each object; one awaitable for all where a level is read directly."""
        try:
            arguments = self._arguments(planned)
        except Exception as error:  # noqa: BLE001 - as above
            return [Failure(error)] * len(objects)
        if planned.direct is not None and planned.direct.takes(arguments, planned.wanted):
            context = self._executor.context_value
            return [_directly(planned.direct.read(context, objects, arguments, planned.wanted))]
        if planned.loaded is not None and planned.loaded.takes():
            return [_read(planned.loaded.read(self._executor.context_value, objects))]
        return self._call(planned, objects, level, arguments)

    def _arguments(self, planned: Planned) -> dict[str, Any]:
        executor, first = self._executor, planned.details[0]
        if not planned.definition.args and not first.node.arguments:
            return {}
        return get_argument_values(
            planned.definition,
            first.node,
            executor.variable_values,
            first.fragment_variable_values,
            executor.hide_suggestions,
        )

    @staticmethod
    def _direct_or_not(column: list[Any], size: int) -> Any:
        """What was read directly is part of the answer already; a failure of it is every object's."""
        if len(column) == 1 and isinstance(column[0], Answered):
            return column[0]
        if len(column) == 1 and isinstance(column[0], Read):
            return column[0].column
        return column * size if len(column) == 1 < size and isinstance(column[0], Failure) else column

    def _call(
        self, planned: Planned, objects: list[Any], level: Level, arguments: dict[str, Any]
    ) -> list[Any]:
        info = self._executor.build_resolve_info(
            planned.definition, planned.nodes, planned.parent, self._path(level, planned)
        )
        resolve = planned.resolve
        assert resolve is not None, "a field that is not read has a resolver"
        column: list[Any] = []
        for source in objects:
            try:
                column.append(resolve(source, info, **arguments))
            except Exception as error:  # noqa: BLE001 - as above
                column.append(Failure(error))
        return column

    @staticmethod
    def _path(level: Level, planned: Planned) -> Path:
        """The path of the level's first object: resolvers of a level are told one path."""
        path: Path | None = None
        for key in level.path(0):
            path = Path(path, key, None)
        return Path(path, planned.key, planned.parent.name)

    async def _complete(
        self, output: Output, values: Sequence[Any], planned: Planned, level: Level
    ) -> list[Any]:
        if output.leaf is not None:
            return self._columns.leaves(output, values, planned, level)
        if output.item is not None:
            values = await _gathered(values)
            lists, items, below = self._columns.flatten(output, values, planned, level)
            return self._columns.regroup(
                output, lists, await self._complete(output.item, items, planned, below)
            )
        places, objects = self._columns.present(output, values, planned, level)
        below = Level(level, rows=places)
        if output.selection is not None:
            kept = self._columns.judged(output.selection, objects, planned, below)
            answers = await self._objects(
                output.selection, [objects[i] for i in kept], Level(below, rows=kept)
            )
        else:
            kept, answers = await self._abstract(output, objects, planned, below)
        return self._columns.spread(output, [places[i] for i in kept], answers, len(values), set(places))

    async def _abstract(
        self, output: Output, objects: list[Any], planned: Planned, level: Level
    ) -> tuple[list[int], list[Any]]:
        abstract = output.abstract
        assert abstract is not None, "an output is one of four kinds"
        groups: dict[str, list[int]] = {}
        for place, value in enumerate(objects):
            try:
                groups.setdefault(await self._type_name(abstract.type, value, planned, level), []).append(
                    place
                )
            except Exception as error:  # noqa: BLE001 - as above
                self._columns.note(error, planned, level, place)
        answers: dict[int, Any] = {}
        for name, places in groups.items():
            selection = abstract.selections.get(name)
            if selection is None:
                selection = self._compiler.selection(self._executor.schema.type_map[name], abstract.details)  # type: ignore[arg-type]
                abstract.selections[name] = selection
            below = Level(level, rows=places)
            found = await self._objects(selection, [objects[i] for i in places], below)
            answers.update(zip(places, found, strict=True))
        kept = sorted(answers)
        return kept, [answers[place] for place in kept]

    async def _type_name(self, type_: Any, value: Any, planned: Planned, level: Level) -> str:
        executor = self._executor
        info = executor.build_resolve_info(
            planned.definition, planned.nodes, planned.parent, self._path(level, planned)
        )
        name = (type_.resolve_type or executor.type_resolver)(value, info, type_)
        if inspect.isawaitable(name):
            name = await name
        return executor.ensure_valid_runtime_type(name, type_, planned.details, info, value).name


async def _gathered(values: Sequence[Any]) -> Sequence[Any]:
    """Lists that come one item at a time, collected."""
    if not any(isinstance(value, AsyncIterable) for value in values):
        return values
    found: list[Any] = []
    for value in values:
        if not isinstance(value, AsyncIterable):
            found.append(value)
            continue
        try:
            found.append([item async for item in value])
        except Exception as error:  # noqa: BLE001 - as above
            found.append(Failure(error))
    return found


async def _directly(reading: Awaitable[list[Any]]) -> Answered:
    return Answered(await reading)


async def _read(reading: Awaitable[list[Any]]) -> Read:
    return Read(await reading)
