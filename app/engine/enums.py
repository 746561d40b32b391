"""Makes GraphQL enums of the models' own enums, so that models need not know GraphQL."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

import strawberry
from strawberry.types.enum import StrawberryEnumDefinition

E = TypeVar("E", bound=StrEnum)


def describe(enum: type[E], description: str, values: Mapping[E, str], *, name: str | None = None) -> type[E]:
    """Make `enum` a GraphQL enum with a description for every value; leaving one out is a bug."""
    assert set(values) == set(enum), "every value of an enum has a description"
    # An input that was imported first has made a bare definition: a second one would be another type.
    if "__strawberry_definition__" not in enum.__dict__:
        strawberry.enum(enum)
    definition = enum.__dict__["__strawberry_definition__"]
    assert isinstance(definition, StrawberryEnumDefinition), "strawberry keeps its definition on the class"
    definition.name, definition.description = name or enum.__name__, description
    for value in definition.values:
        value.description = values[enum(value.value)]
    return enum
