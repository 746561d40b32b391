"""Our dialect of JSON Schema's keywords: exact numbers, patterns in linear time, and a budget for all of it.

Without a budget a few references to one another make an evaluation that doubles with every line, and two
lists that are compared each with each take minutes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from fractions import Fraction
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker, validators
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator

from app.assets.patterns import matches
from app.kit.canonical import canonical_json

# One unit is one keyword tried on one value, about 10 µs.
WORK_MAX = 20_000
# Keywords inside keywords, whatever the interpreter's own limit: libraries raise that beyond what the stack bears.
DEPTH_MAX = 400
ITEMS_PER_UNIT = 16
PATTERN_CHARACTERS_PER_UNIT = 8
MESSAGE_CHARACTERS_PER_UNIT = 500

Found = Iterator[ValidationError]
Rule = Callable[[Any, Any, Any, Any], Found | None]
RULES: dict[str, Rule] = dict(Draft202012Validator.VALIDATORS)

_left: ContextVar[list[int]] = ContextVar("escrowgrid_schema_work")
_depth: ContextVar[list[int]] = ContextVar("escrowgrid_schema_depth")


class OverworkError(Exception):
    """An evaluation used up its budget."""


@contextmanager
def work(units: int = WORK_MAX) -> Iterator[None]:
    """What is evaluated inside may take that much work; beyond it raises `OverworkError`."""
    left, depth = _left.set([units]), _depth.set([0])
    try:
        yield
    finally:
        _left.reset(left)
        _depth.reset(depth)


def _spend(units: int) -> None:
    left = _left.get()
    left[0] -= units
    if left[0] < 0:
        raise OverworkError


@contextmanager
def _deeper() -> Iterator[None]:
    depth = _depth.get()
    if depth[0] == DEPTH_MAX:
        raise OverworkError
    depth[0] += 1
    try:
        yield
    finally:
        depth[0] -= 1


def _size(value: object) -> int:
    return len(value) // ITEMS_PER_UNIT if isinstance(value, dict | list) else 0


def _counted(rule: Rule) -> Rule:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Found:
        _spend(1 + _size(value) + _size(instance))
        with _deeper():
            for error in rule(validator, value, instance, schema) or ():
                # A message spells the value it is about, which may be the whole document.
                _spend(1 + len(error.message) // MESSAGE_CHARACTERS_PER_UNIT)
                yield error

    return check


def _occurs(pattern: str, text: str) -> bool:
    _spend(1 + len(text) // PATTERN_CHARACTERS_PER_UNIT)
    return matches(pattern, text)


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Found:
    if isinstance(instance, str) and not _occurs(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _schema: Any) -> Found:
    if not isinstance(instance, dict):
        return
    for pattern, schema in patterns.items():
        for name, item in instance.items():
            if _occurs(pattern, name):
                yield from validator.descend(item, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, rule: Any, instance: Any, schema: Any) -> Found:
    if not isinstance(instance, dict):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, item in instance.items():
        if name in named or any(_occurs(pattern, name) for pattern in patterns):
            continue
        if rule is False:
            yield ValidationError(f"the key {name!r} is not allowed")
        else:
            yield from validator.descend(item, rule, path=name)


def _unique_items(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> Found:
    if not wanted or not isinstance(instance, list):
        return
    if len({canonical_json(item) for item in instance}) < len(instance):
        yield ValidationError("the items must differ from each other")


def _multiple_of(_validator: Any, step: Any, instance: Any, _schema: Any) -> Found:
    if _is_number(None, instance) and (Fraction(instance) / Fraction(step)).denominator != 1:
        yield ValidationError(f"{instance!r} is not a multiple of {step!r}")


def _is_number(_checker: TypeChecker | None, value: object) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _is_integer(checker: TypeChecker, value: object) -> bool:
    return (
        isinstance(value, int | Decimal) and _is_number(checker, value) and Fraction(value).denominator == 1
    )


OWN_RULES: dict[str, Rule] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "multipleOf": _multiple_of,
}

Dialect: type[Validator] = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    validators={name: _counted(rule) for name, rule in (RULES | OWN_RULES).items()},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"number": _is_number, "integer": _is_integer}
    ),
)
