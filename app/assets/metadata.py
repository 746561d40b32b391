"""The JSON Schema (2020-12) that a template puts on its assets' metadata.

A schema is written by a stranger and evaluated here, so it is bounded: its size and its parts, references
only within itself, patterns in linear time (`patterns`), and every evaluation by a budget (`keywords`).
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, cast

from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema_specifications import REGISTRY as SPECIFICATIONS  # type: ignore[import-untyped]
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY, Schema

from app.assets.keywords import WORK_MAX, Dialect, OverworkError, work
from app.assets.model import AssetTemplate
from app.assets.objects import check_object
from app.assets.patterns import PatternError, check_pattern
from app.errors import Invalid
from app.kit.canonical import Json

SCHEMA = "metadataSchema"
METADATA = "metadata"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SUBSCHEMAS_MAX = 300
PATTERNS_MAX = 20
SCHEMA_WORK_MAX = 10 * WORK_MAX
ERRORS_MAX = 5
MESSAGE_LENGTH_MAX = 300
VALIDATORS_MAX = 256
# Inside a schema they give a part of it another dialect or address, or walk it again for every value.
REFUSED = (
    "$schema",
    "$id",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
    "unevaluatedItems",
    "unevaluatedProperties",
)
DECIMAL = re.compile(r"Decimal\('([^']*)'\)")


def check_schema(schema: object) -> None:
    """Raise `Invalid` unless `schema` is a JSON Schema that can be evaluated safely."""
    checked = check_object(schema, SCHEMA)
    if checked.get("$schema", DIALECT) != DIALECT:
        raise _bad("$schema", f"only {DIALECT} is spoken")
    checked = _undeclared(checked)
    if _objects(checked) > SUBSCHEMAS_MAX:
        raise Invalid(f"{SCHEMA}: at most {SUBSCHEMAS_MAX} objects inside each other and beside", SCHEMA)
    _raise_first(META, checked, SCHEMA, SCHEMA_WORK_MAX)
    parts = list(_subschemas(checked))
    known = {id(part) for part in parts}
    if sum(_check_part(checked, part, known) for part in parts) > PATTERNS_MAX:
        raise Invalid(f"{SCHEMA}: at most {PATTERNS_MAX} patterns", SCHEMA)
    # A schema that refers to itself without end is told now, not when the first asset is made.
    _errors(Dialect(checked, registry=EMPTY_REGISTRY), {}, SCHEMA, WORK_MAX)


def check_metadata(template: AssetTemplate, metadata: object) -> Mapping[str, Json]:
    """`metadata` as it came; raises `Invalid` naming what (up to a few) the template's schema refuses."""
    checked = check_object(metadata, METADATA)
    if template.metadata_schema is not None:
        _raise_first(_validator(template), checked, METADATA, WORK_MAX)
    return checked


@lru_cache(maxsize=VALIDATORS_MAX)
def _validator(template: AssetTemplate) -> Validator:
    # Templates never change, so neither does this. The registry is empty: nothing is ever fetched.
    assert template.metadata_schema is not None, "asked for by templates that have one"
    return Dialect(_undeclared(template.metadata_schema), registry=EMPTY_REGISTRY)


def _undeclared(schema: Mapping[str, Json]) -> Mapping[str, Json]:
    """The schema without `$schema`, which makes jsonschema leave our dialect for its unbounded one."""
    return {name: value for name, value in schema.items() if name != "$schema"}


META: Validator = Dialect(
    _undeclared(Dialect.META_SCHEMA),
    registry=EMPTY_REGISTRY.with_contents(
        ((uri, _undeclared(part.contents)) for uri, part in SPECIFICATIONS.items() if "2020-12" in uri),
        default_specification=DRAFT202012,
    ).crawl(),
)


def _raise_first(validator: Validator, value: Mapping[str, Json], field: str, units: int) -> None:
    errors = _errors(validator, value, field, units)
    if errors:
        raise Invalid("; ".join(_readable(field, error) for error in errors), field)


def _errors(validator: Validator, value: Mapping[str, Json], field: str, units: int) -> list[ValidationError]:
    try:
        with work(units):
            return list(islice(validator.iter_errors(cast("Schema", value)), ERRORS_MAX))
    except (OverworkError, RecursionError):
        raise Invalid(f"{field}: evaluating the schema takes too much work", field) from None


def _readable(field: str, error: ValidationError) -> str:
    message = DECIMAL.sub(r"\1", error.message)
    if len(message) > MESSAGE_LENGTH_MAX:
        message = f"{message[: MESSAGE_LENGTH_MAX // 2]} … {message[-MESSAGE_LENGTH_MAX // 2 :]}"
    return f"{field}{error.json_path.removeprefix('$')}: {message}"


def _objects(value: Json) -> int:
    if isinstance(value, Mapping):
        return 1 + sum(_objects(item) for item in value.values())
    return sum(_objects(item) for item in value) if isinstance(value, list) else 0


def _subschemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        yield schema
        for part in DRAFT202012.subresources_of(schema):
            yield from _subschemas(part)


def _check_part(schema: Mapping[str, Json], part: Mapping[str, Any], known: set[int]) -> int:
    """Check one subschema by itself; answers how many patterns it has."""
    for name in REFUSED:
        if name in part:
            raise _bad(name, "this keyword is not taken")
    if "$ref" in part:
        _check_reference(schema, part["$ref"], known)
    patterns = [*part.get("patternProperties", ()), *([part["pattern"]] if "pattern" in part else ())]
    for pattern in patterns:
        try:
            check_pattern(pattern)
        except PatternError as error:
            raise _bad("pattern", f"{pattern!r}: {error}") from None
    return len(patterns)


def _check_reference(schema: Mapping[str, Json], reference: str, known: set[int]) -> None:
    if reference != "#" and not reference.startswith("#/"):
        raise _bad("$ref", f"{reference!r}: references stay within the schema, such as #/$defs/name")
    try:
        resolver = EMPTY_REGISTRY.resolver_with_root(DRAFT202012.create_resource(schema))
        target: object = resolver.lookup(reference).contents
    except Unresolvable:
        raise _bad("$ref", f"{reference!r} leads nowhere") from None
    if not isinstance(target, bool) and id(target) not in known:
        raise _bad("$ref", f"{reference!r} does not lead to a subschema, such as those under $defs")


def _bad(keyword: str, message: str) -> Invalid:
    return Invalid(f"{SCHEMA}: {keyword}: {message}", SCHEMA)
