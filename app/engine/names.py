"""The names of Python in GraphQL's spelling, each found out once: every conversion of an input asks for them."""

from functools import lru_cache

from strawberry.schema.name_converter import NameConverter
from strawberry.utils.str_converters import to_camel_case

NAMES_MAX = 4_096

camel_case = lru_cache(maxsize=NAMES_MAX)(to_camel_case)


class Names(NameConverter):
    """Strawberry's own names, remembered."""

    def apply_naming_config(self, name: str) -> str:
        """`held_amount` → `heldAmount`."""
        return camel_case(name)
