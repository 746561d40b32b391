"""Faults in resolvers and attributes of the real schema: the same ones whoever executes a document."""

import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLSchema
from strawberry.types.field import StrawberryField

from app.engine.calls import strawberry_field
from app.engine.direct import METADATA, Direct
from app.engine.loaded import METADATA as LOADED
from app.engine.loaded import Loaded
from tests.engine.documents import objects

KINDS = ("raise", "null", "returned", "wrong", "nulls in it", "empty")


class Broken(Exception):
    """What a fault raises."""


class Wrong:
    """What no type takes."""

    def __repr__(self) -> str:
        return "<wrong>"


WRONG = Wrong()


@dataclass(frozen=True)
class Fault:
    """In this field, of this kind: at every object, or at those that a sum over their data picks."""

    type: str
    field: str
    kind: str
    every: bool

    def hits(self, source: object) -> bool:
        """Whether it is in this object."""
        return self.every or zlib.crc32(_data(source).encode()) % 2 == 0

    def instead(self, value: Any) -> Any:
        """What is there in place of `value`."""
        match self.kind:
            case "raise":
                raise Broken(f"{self.type}.{self.field}")
            case "returned":
                return Broken(f"{self.type}.{self.field} as a value")
            case "wrong":
                return WRONG
            case "nulls in it" if isinstance(value, list):
                return [None, *value, None]
            case "empty" if isinstance(value, (str, list)):
                return type(value)()
            case _:
                return None


def _data(source: object) -> str:
    """What tells objects of one type apart, the same at every execution."""
    own = getattr(source, "__dict__", {})
    plain = (str, int)
    return repr([(name, value) for name, value in sorted(own.items()) if isinstance(value, plain)])


class Faults:
    """Those that are in force; none at first."""

    def __init__(self) -> None:
        self._attributes: dict[tuple[type, str], Fault] = {}
        self._resolvers: dict[int, Fault] = {}
        self.places: dict[tuple[str, str], tuple[type | None, StrawberryField]] = {}
        self._slowly = False
        # Levels that were read directly, without objects.
        self.read_directly = 0
        # Levels whose keys were asked for at once, without a call for each object.
        self.loaded_at_once = 0

    def attribute(self, owner: type, name: str, source: object) -> Fault | None:
        """The fault in an attribute of an object."""
        if not self._attributes:
            return None
        found = self._attributes.get((owner, name))
        return found if found is not None and found.hits(source) else None

    def resolver(self, field: StrawberryField, source: object) -> Fault | None:
        """The fault in a resolver called for an object."""
        found = self._resolvers.get(id(field.base_resolver))
        return found if found is not None and found.hits(source) else None

    def whole(self, field: StrawberryField) -> Fault | None:
        """The fault in a resolver whatever the object is."""
        return self._resolvers.get(id(field.base_resolver))

    @property
    def slowly(self) -> bool:
        """Whether no level may be read directly, because it would pass by the attributes that the faults are in."""
        return self._slowly

    @contextmanager
    def inject(self, faults: Sequence[Fault]) -> Iterator[None]:
        """For as long as the block."""
        for fault in faults:
            owner, field = self.places[fault.type, fault.field]
            if field.base_resolver is None:
                assert owner is not None
                self._attributes[owner, field.python_name] = fault
            else:
                self._resolvers[id(field.base_resolver)] = fault
        self._slowly = bool(self._attributes) or any(
            fault.kind != "raise" or not fault.every for fault in self._resolvers.values()
        )
        try:
            yield
        finally:
            self._attributes.clear()
            self._resolvers.clear()
            self._slowly = False


class _Attribute:
    """Stands before an attribute of a type's objects."""

    def __init__(self, faults: Faults, owner: type, name: str) -> None:
        self._faults, self._owner, self._name = faults, owner, name

    def __get__(self, source: Any, _type: type) -> Any:
        if source is None:
            raise AttributeError(self._name)
        try:
            value = source.__dict__[self._name]
        except KeyError:
            raise AttributeError(self._name) from None
        fault = self._faults.attribute(self._owner, self._name, source)
        return value if fault is None else fault.instead(value)

    def __set__(self, source: Any, value: Any) -> None:
        source.__dict__[self._name] = value


@contextmanager
def planted(schemas: Sequence[GraphQLSchema]) -> Iterator[Faults]:
    """Room for faults in every field of the schemas, which share their types."""
    faults = Faults()
    undo: list[Callable[[], None]] = []
    seen: set[object] = set()
    for schema in schemas:
        for type_ in objects(schema):
            definition: Any = type_.extensions.get("strawberry-definition")
            for name, one in type_.fields.items():
                field = strawberry_field(one)
                if field is None or definition is None:
                    continue
                faults.places[type_.name, name] = (definition.origin, field)
                if field.base_resolver is None:
                    _stand_before(faults, definition.origin, field.python_name, seen, undo)
                else:
                    _wrap(faults, field, seen, undo)
    try:
        yield faults
    finally:
        for step in reversed(undo):
            step()


def _stand_before(
    faults: Faults, owner: type, name: str, seen: set[object], undo: list[Callable[[], None]]
) -> None:
    if (owner, name) in seen:
        return
    seen.add((owner, name))
    kept = owner.__dict__.get(name, seen)
    setattr(owner, name, _Attribute(faults, owner, name))
    undo.append(lambda: delattr(owner, name) if kept is seen else setattr(owner, name, kept))


def _wrap(faults: Faults, field: StrawberryField, seen: set[object], undo: list[Callable[[], None]]) -> None:
    resolver = field.base_resolver
    assert resolver is not None
    if id(resolver) in seen:
        return
    seen.add(id(resolver))
    plain: Any = resolver.wrapped_func
    takes_source = resolver.self_parameter is not None

    if inspect.iscoroutinefunction(plain):

        async def wrapper(*args: Any, **given: Any) -> Any:
            fault = faults.resolver(field, args[0] if takes_source else None)
            return (
                await plain(*args, **given) if fault is None else fault.instead(await plain(*args, **given))
            )
    else:

        def wrapper(*args: Any, **given: Any) -> Any:
            fault = faults.resolver(field, args[0] if takes_source else None)
            return plain(*args, **given) if fault is None else fault.instead(plain(*args, **given))

    resolver.wrapped_func = wrapper
    undo.append(lambda: setattr(resolver, "wrapped_func", plain))
    direct = (field.metadata or {}).get(METADATA)
    if isinstance(direct, Direct):
        field.metadata = {**field.metadata, METADATA: _Careful(faults, field, direct)}
        undo.append(lambda: setattr(field, "metadata", {**field.metadata, METADATA: direct}))
    loaded = (field.metadata or {}).get(LOADED)
    if isinstance(loaded, Loaded):
        field.metadata = {**field.metadata, LOADED: _CarefulLoaded(faults, field, loaded)}
        undo.append(lambda: setattr(field, "metadata", {**field.metadata, LOADED: loaded}))


class _Careful(Direct):
    """Reads directly unless a fault is where only objects have it; fails as its resolver does."""

    def __init__(self, faults: Faults, field: StrawberryField, direct: Direct) -> None:
        self._faults, self._field, self._direct = faults, field, direct

    def takes(self, arguments: Mapping[str, Any], wanted: Any) -> bool:
        return not self._faults.slowly and self._direct.takes(arguments, wanted)

    async def read(
        self, context: Any, sources: Sequence[Any], arguments: Mapping[str, Any], wanted: Any
    ) -> list[Any]:
        answer = await self._direct.read(context, sources, arguments, wanted)
        self._faults.read_directly += 1
        fault = self._faults.whole(self._field)
        return answer if fault is None else fault.instead(answer)


class _CarefulLoaded(Loaded):
    """Loads a level at once unless a fault is in an attribute or in some calls of the resolver; fails as it does."""

    def __init__(self, faults: Faults, field: StrawberryField, loaded: Loaded) -> None:
        self._faults, self._field, self._loaded = faults, field, loaded

    def takes(self) -> bool:
        return not self._faults.slowly

    async def read(self, context: Any, sources: Sequence[Any]) -> list[Any]:
        values = await self._loaded.read(context, sources)
        self._faults.loaded_at_once += 1
        fault = self._faults.whole(self._field)
        return values if fault is None else fault.instead(values)
