"""Levels that are pure data can be read as the answer wants them: no objects between the database and the wire."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strawberry.types.field import StrawberryField

if TYPE_CHECKING:
    from app.engine.plans import Selection

METADATA = "direct"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One field of a level that is data: its key in the answer, its name in the schema, and what is asked below."""

    key: str
    field: str
    below: "tuple[Wanted, ...]" = ()


class Direct(ABC):
    """A second way to resolve a field, for all objects of a level at once, straight into the answer."""

    @abstractmethod
    def takes(self, arguments: Mapping[str, Any], wanted: tuple[Wanted, ...]) -> bool:
        """Whether it can answer this; otherwise the resolver is asked as ever."""

    @abstractmethod
    async def read(
        self, context: Any, sources: Sequence[Any], arguments: Mapping[str, Any], wanted: tuple[Wanted, ...]
    ) -> list[Any]:
        """The field's part of the answer for each source, equal to what the resolver's would become."""


def direct_of(field: StrawberryField) -> Direct | None:
    """What a field brings in its metadata; a permission or an extension must see every call, so it rules it out."""
    found = field.metadata.get(METADATA) if field.metadata else None
    return found if isinstance(found, Direct) and not field.extensions else None


def wanted_of(selection: "Selection") -> tuple[Wanted, ...]:
    """What a plain selection asks for."""
    found = []
    for planned in selection.fields:
        output = planned.output
        while output.item is not None:
            output = output.item
        below = () if output.selection is None else wanted_of(output.selection)
        found.append(Wanted(planned.key, planned.name, below))
    return tuple(found)
