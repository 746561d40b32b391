"""Fields that a loader finds by an attribute: a level's keys are asked for at once, with no call for each object."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from pkgutil import resolve_name
from typing import Any

from strawberry.types.field import StrawberryField

METADATA = "loaded"

Loader = Callable[..., Awaitable[Mapping[Any, Any]]]


class Loaded:
    """A second way to resolve a field without arguments, for all objects of a level at once."""

    def __init__(self, loader: str, attribute: str) -> None:
        """`loader` is where it is (module:name), looked up when first asked: slices know each other only by then."""
        self._place = loader
        self._attribute = attribute

    @cached_property
    def _loader(self) -> Loader:
        found: Loader = resolve_name(self._place)
        return found

    def takes(self) -> bool:
        """Whether it can answer; otherwise the resolver is asked as ever."""
        return True

    async def read(self, context: Any, sources: Sequence[Any]) -> list[Any]:
        """The field's value for each source, equal to what the resolver's would be."""
        keys = [str(getattr(source, self._attribute)) for source in sources]
        found: Mapping[str, Any] = await context.load_all(self._loader, keys)
        return [found[key] for key in keys]


def loaded_of(field: StrawberryField) -> Loaded | None:
    """What a field brings in its metadata; a permission or an extension must see every call, so it rules it out."""
    found = field.metadata.get(METADATA) if field.metadata else None
    return found if isinstance(found, Loaded) and not field.extensions else None
