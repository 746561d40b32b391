"""Calls a field's resolver as Strawberry does, with what is the same at every call found out once.

Strawberry finds out anew for each call which types a field's arguments have and how they are spelled. Here that is
done when a plan is compiled; whatever is out of the ordinary keeps Strawberry's own way.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from graphql import GraphQLField, GraphQLResolveInfo, GraphQLSchema
from strawberry.permission import BasePermission, PermissionExtension
from strawberry.relay import GlobalID
from strawberry.scalars import is_scalar
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.base import StrawberryList, StrawberryOptional, has_object_definition
from strawberry.types.enum import StrawberryEnumDefinition, has_enum_definition
from strawberry.types.field import StrawberryField
from strawberry.types.lazy_type import LazyType

Resolve = Callable[..., Any]
Convert = Callable[[Any], Any]


class Unusual(Exception):
    """Something that is left to Strawberry."""


def call_of(schema: GraphQLSchema, definition: GraphQLField) -> Resolve | None:
    """How to call a field's resolver, as `definition.resolve` would be called; None where nothing is asked."""
    resolve = definition.resolve
    field = strawberry_field(definition)
    if resolve is None or field is None:
        return resolve
    try:
        return _call(schema, field, resolve)
    except Unusual:
        return resolve


def strawberry_field(definition: GraphQLField) -> StrawberryField | None:
    """What Strawberry made a field of."""
    found = definition.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF)
    return found if isinstance(found, StrawberryField) else None


def _call(schema: GraphQLSchema, field: StrawberryField, resolve: Resolve) -> Resolve:
    strawberrys: Any = getattr(schema, "_strawberry_schema", None)
    resolver = field.base_resolver
    if strawberrys is None or strawberrys.exception_handlers or resolver is None:
        raise Unusual
    if type(field) is not StrawberryField or resolver.parent_parameter or resolver.root_parameter:
        raise Unusual
    extensions = _permissions(field)
    types = _Types(strawberrys)
    names = [
        (types.name(argument), argument.python_name, types.convert(argument.type))
        for argument in field.arguments
    ]
    make_info = strawberrys.config.info_class
    plain: Resolve = cast("Resolve", resolver.wrapped_func)
    info_name = resolver.info_parameter.name if resolver.info_parameter is not None else None
    takes_source = resolver.self_parameter is not None

    def call(source: Any, raw: "GraphQLResolveInfo[Any]", **given: Any) -> Any:
        info = make_info(_raw_info=raw, _field=field)
        arguments = {python: convert(given[name]) for name, python, convert in names if name in given}
        for extension, permission in extensions:
            allowed = permission.has_permission(source, info, **arguments)
            if allowed is True:
                continue
            if inspect.isawaitable(allowed):
                if inspect.iscoroutine(allowed):
                    allowed.close()
                return resolve(source, raw, **given)
            if not allowed:
                return extension._on_unauthorized(permission)
        if info_name is not None:
            arguments[info_name] = info
        return plain(source, **arguments) if takes_source else plain(**arguments)

    return call


def _permissions(field: StrawberryField) -> list[tuple[PermissionExtension, BasePermission]]:
    if any(type(extension) is not PermissionExtension for extension in field.extensions):
        raise Unusual
    return [
        (extension, permission)
        for extension in field.extensions
        if isinstance(extension, PermissionExtension)
        for permission in extension.permissions
    ]


class _Types:
    """Converters of input values, one for each type."""

    def __init__(self, schema: Any) -> None:
        self._names = schema.config.name_converter
        self._scalars = schema.schema_converter.scalar_registry
        self._inputs: dict[Any, Convert] = {}

    def name(self, argument: Any) -> str:
        """An argument's name in GraphQL."""
        return str(self._names.from_argument(argument))

    def convert(self, type_: Any) -> Convert:
        """From what graphql-core makes of a value to what a resolver is given."""
        if isinstance(type_, LazyType):
            return self.convert(type_.resolve_type())
        if type(type_) is StrawberryOptional:
            return self.convert(type_.of_type)
        if isinstance(type_, StrawberryList):
            return _each(self.convert(type_.of_type))
        if isinstance(type_, StrawberryEnumDefinition) or has_enum_definition(type_):
            return _as_it_is
        if has_object_definition(type_):
            return self._input(type_)
        if type_ is not GlobalID and is_scalar(type_, self._scalars):
            return _as_it_is
        raise Unusual

    def _input(self, type_: Any) -> Convert:
        if (known := self._inputs.get(type_)) is not None:
            return known
        definition = type_.__strawberry_definition__
        if not definition.is_input or definition.from_input is not None or definition.type_params:
            raise Unusual
        fields: list[tuple[str, str, Convert]] = []
        # Known before its fields are: an input may hold others of its own type.
        convert = self._inputs[type_] = _input_of(type_, _defaults(definition), fields)
        for field in definition.fields:
            resolved = field.resolve_type(type_definition=definition)
            fields.append((self._names.from_field(field), field.python_name, self.convert(resolved)))
        return convert


def _defaults(definition: Any) -> tuple[str, ...]:
    """The fields that are None when they are not given."""
    missing = dataclasses.MISSING
    return tuple(
        field.python_name
        for field in definition.fields
        if field.default_value is missing and field.default_factory is missing
    )


def _input_of(type_: Any, absent: tuple[str, ...], fields: list[tuple[str, str, Convert]]) -> Convert:
    nothing = dict.fromkeys(absent)

    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        given = {python: convert_(value[name]) for name, python, convert_ in fields if name in value}
        return type_(**{**nothing, **given})

    return convert


def _each(convert: Convert) -> Convert:
    def convert_all(values: Any) -> Any:
        return values if not isinstance(values, (list, tuple)) else [convert(value) for value in values]

    return convert_all


def _as_it_is(value: Any) -> Any:
    return value
