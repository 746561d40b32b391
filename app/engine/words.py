"""Refuses words of a filter that no row can have: an empty list would be believed."""

from collections.abc import Collection

from app.errors import BadRequest
from app.storage.conditions import Condition

Conditions = tuple[Condition, ...]


def known(tests: Conditions, field: str, words: Collection[str], what_there_is: str) -> Conditions:
    """The tests as they came; raises `BadRequest` when one on `field` has a word that is not of `words`."""
    for test in tests:
        if test.field == field and not set(_values(test)) <= set(words):
            raise BadRequest(f"there is no such {field}; {what_there_is}")
    return tests


def _values(test: Condition) -> Collection[str]:
    values: Collection[str] = test.value if test.operator == "in" else (test.value,)
    return values
