"""Validates documents by every rule there is: the standard's, Strawberry's and our own."""

from contextlib import suppress
from typing import Any

from graphql import (
    ASTValidationRule,
    DocumentNode,
    GraphQLError,
    GraphQLNamedType,
    GraphQLSchema,
    NonNullTypeNode,
    ObjectValueNode,
    OperationDefinitionNode,
    VariableDefinitionNode,
)
from graphql import validate as validate_by
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule


class OneOfInputRule(OneOfInputValidationRule):
    """Strawberry's rule on inputs that take exactly one field, also for fragments and for unknown variables.

    Strawberry knows the variables of the operation that stands before; a fragment may stand before every operation, and
    a variable that is defined nowhere is another rule's matter.
    """

    def enter_document(self, node: DocumentNode, *_args: Any) -> None:
        """Collect what fragments may use: of variables of one name the one that may be null counts."""
        self._anywhere: dict[str, VariableDefinitionNode] = {}
        for operation in node.definitions:
            if isinstance(operation, OperationDefinitionNode):
                for defined in operation.variable_definitions or ():
                    name = defined.variable.name.value
                    if name not in self._anywhere or not isinstance(defined.type, NonNullTypeNode):
                        self._anywhere[name] = defined

    def enter_fragment_definition(self, *_args: Any) -> None:
        """Within a fragment those of every operation are known."""
        self.variable_definitions = self._anywhere

    def validate_one_of(self, node: ObjectValueNode, type: GraphQLNamedType) -> None:
        """Report what is wrong with one such input."""
        with suppress(KeyError):
            super().validate_one_of(node, type)


def validate(
    schema: GraphQLSchema, document: DocumentNode, rules: tuple[type[ASTValidationRule], ...]
) -> list[GraphQLError]:
    """What is wrong with a document by `rules` and by Strawberry's own."""
    return validate_by(schema, document, (*rules, MaybeNullValidationRule, OneOfInputRule))
