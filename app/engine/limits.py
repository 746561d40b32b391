"""What a document may ask for: parsed, judged and measured before anything of it runs."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from graphql import (
    DocumentNode,
    FloatValueNode,
    GraphQLError,
    GraphQLSchema,
    IntValueNode,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    OperationType,
    ValidationRule,
    parse,
    specified_rules,
)
from strawberry.extensions import SchemaExtension

from app.engine.documents import ERROR_CHARACTERS, Documents, Known
from app.engine.masking import (
    BAD_REQUEST,
    LIMIT_EXCEEDED,
    VALIDATION_FAILED,
    Masking,
    ToldError,
    refusal,
    restated,
)
from app.engine.measures import Shapes, fragments_of, operations_of
from app.engine.prices import DEFINITION, Prices, sizing_variables
from app.engine.reckoning import Reckoner, Reckoning
from app.engine.validation import validate
from app.settings import Settings

SOURCE_CHARACTERS_MAX = 262_144
COMMENTS_MAX = 1_000
DIGITS_MAX = 400
EXPONENT_MAX = 308
# In the metadata of a mutation whose command the Idempotency-Key header names.
KEYED_BY_HEADER = "keyedByHeader"
# What graphql-core says when its rules have worked long enough on one document.
ABORTED = "Validation aborted."

SchemaExtensions = list[type[SchemaExtension] | Callable[[], SchemaExtension]]


class NumbersInRange(ValidationRule):
    """Refuses numbers whose plain spelling would be huge, such as 1e999999999."""

    def enter_int_value(self, node: IntValueNode, *_: Any) -> None:
        """Whole numbers: by their digits."""
        if len(node.value) > DIGITS_MAX:
            self.report_error(GraphQLError(f"a number has at most {DIGITS_MAX} digits", node))

    def enter_float_value(self, node: FloatValueNode, *_: Any) -> None:
        """Fractions: by their digits and by their exponent."""
        mantissa, _sign, exponent = node.value.lower().partition("e")
        if len(mantissa) > DIGITS_MAX or len(exponent) > 5 or abs(int(exponent or 0)) > EXPONENT_MAX:
            self.report_error(GraphQLError(f"a number's exponent is at most {EXPONENT_MAX}", node))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an operation may cost with these variables, and how to tell from the answer what it did cost."""

    requested: int
    reckoning: Reckoning


@dataclass(slots=True)
class Bill:
    """What one operation is charged for; `fields` counts the root fields of a mutation by name."""

    kind: str
    estimate: Estimate
    fields: Mapping[str, int]
    paid: bool = False


class Toll(Protocol):
    """Takes payment before an operation runs; a context may have one, as `toll`."""

    async def pay(self, bill: Bill) -> ToldError | None:
        """None when it is paid, else why it may not run now."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges documents by one server's settings."""

    settings: Settings
    documents: Documents = field(default_factory=Documents)

    @property
    def parse_options(self) -> dict[str, int]:
        """What the parser itself refuses to go beyond."""
        return {
            "max_lexical_tokens": self.settings.tokens_max,
            "max_comments": COMMENTS_MAX,
            "max_source_length": SOURCE_CHARACTERS_MAX,
        }

    @property
    def rules(self) -> tuple[type[ValidationRule], ...]:
        """The rules beside the specified ones."""
        hidden = () if self.settings.introspection else (NoSchemaIntrospectionCustomRule,)
        return (NumbersInRange, *hidden)

    def shape_errors(self, document: DocumentNode) -> list[GraphQLError]:
        """What is too deep or has too many aliases; works on documents that are not valid, too."""
        shapes = Shapes(fragments_of(document))
        settings = self.settings
        for operation in operations_of(document):
            shape = shapes.of_operation(operation)
            measured = (
                ("depth_max", settings.depth_max, shape.depth, "levels of fields"),
                ("aliases_max", settings.aliases_max, shape.aliases, "aliases"),
                ("directives_max", settings.directives_max, shape.directives, "directives"),
            )
            for limit, most, found, what in measured:
                if found > most:
                    return [_exceeded(limit, most, found, what)]
        return []

    def mistakes(self, schema: GraphQLSchema, text: str) -> Sequence[GraphQLError]:
        """Why a document could never run, whatever its variables."""
        try:
            document = parse(text, **self.parse_options)  # type: ignore[arg-type]
            return self.shape_errors(document) or validate(schema, document, (*specified_rules, *self.rules))
        except GraphQLError as error:
            return [error]
        except RecursionError:
            return [refusal(LIMIT_EXCEEDED, "the document is nested too deeply")]

    def estimate(
        self, known: Known, operation: OperationDefinitionNode, schema: Any, variables: Any
    ) -> Estimate | ToldError:
        """What the operation may cost with these variables, if that is not too much."""
        sizing = sizing_variables(operation, variables)
        key = (id(operation), *sizing.items())
        found: Estimate | ToldError | None = known.costs.get(key)
        if found is None:
            rows = self.settings.page_size_default
            prices = Prices(schema, fragments_of(known.document), sizing, rows)
            requested, most = max(prices.of(operation), 1), self.settings.cost_max
            if requested > most:
                found = _exceeded("cost_max", most, requested, "points to pay")
            else:
                found = Estimate(requested, Reckoner(prices).of(operation))
            size = found.reckoning.size if isinstance(found, Estimate) else ERROR_CHARACTERS
            self.documents.keep_cost(known, key, found, size)
        return found


class Documented(SchemaExtension):
    """Parses and judges one operation's document, once for all who send the same text."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._known: Known | None = None

    def on_operation(self) -> Iterator[None]:
        """The parser's limits and our rules."""
        context = self.execution_context
        # Strawberry hands these to graphql-core's parse as they are; its own type names only one of them.
        cast("dict[str, int]", context.parse_options).update(self._judge.parse_options)
        context.validation_rules = (*context.validation_rules, *self._judge.rules)
        yield

    def on_parse(self) -> Iterator[None]:
        """From memory, if somebody sent it before; what cannot be parsed is left to Strawberry to refuse."""
        context = self.execution_context
        documents = self._judge.documents
        if context.graphql_document is not None:
            self._known = documents.get(id(context.graphql_document))
            self._known = self._known or documents.add(id(context.graphql_document), context.graphql_document)
        elif context.query:
            self._known = documents.get(context.query)
            if self._known is None:
                # An error raised here would leave a stream as an exception: Strawberry parses again, inside.
                with suppress(GraphQLError):
                    document = parse(context.query, **cast("dict[str, int]", context.parse_options))  # type: ignore[arg-type]
                    self._known = documents.add(context.query, document)
            context.graphql_document = self._known.document if self._known is not None else None
        yield

    async def on_validate(self) -> AsyncIterator[None]:
        """Every rule, then what depends on this operation and its variables, and last the payment."""
        context = self.execution_context
        known = self._known
        assert known is not None, "what was parsed is known"
        try:
            errors = self._static_errors(known) or self._asked_errors(known)
        except RecursionError:
            errors = [refusal(LIMIT_EXCEEDED, "the document is nested too deeply")]
        context.pre_execution_errors = errors or await self._unpaid_errors()
        yield

    async def _unpaid_errors(self) -> list[GraphQLError]:
        context = self.execution_context.context
        toll: Toll | None = getattr(context, "toll", None)
        if toll is None:
            return []
        refused = await toll.pay(context.bill)
        return [] if refused is None else [refused]

    def _static_errors(self, known: Known) -> list[GraphQLError]:
        context = self.execution_context
        schema, rules = context.schema._schema, context.validation_rules
        found = known.judged_by(schema, rules)
        if found is None:
            found = self._judge.shape_errors(known.document) or [
                _judged(error) for error in validate(schema, known.document, rules)
            ]
            self._judge.documents.keep(known, schema, rules, found)
        return list(found)

    def _asked_errors(self, known: Known) -> list[GraphQLError]:
        context = self.execution_context
        operations = known.operations
        if context._provided_operation_name is None and len(operations) > 1:
            return [refusal(BAD_REQUEST, "the document has several operations: name one in `operationName`")]
        name = context.operation_name
        operation = next(found for found in operations if (found.name.value if found.name else None) == name)
        _note(context.context, operation, known)
        fields = known.root_fields(operation)
        schema, variables = context.schema._schema, context.variables or {}
        misused = _misused_key(context.context, operation, fields, schema)
        if misused is not None:
            return [refusal(BAD_REQUEST, misused)]
        estimate = self._judge.estimate(known, operation, schema, variables)
        if not isinstance(estimate, Estimate):
            return [estimate]
        if hasattr(context.context, "bill"):
            context.context.bill = Bill(operation.operation.value, estimate, fields)
        return []


def extensions(settings: Settings) -> SchemaExtensions:
    """What the schema is made with: errors are masked, and no document runs before it is judged."""
    judge = Judge(settings)
    return [Masking, lambda: Documented(judge)]


def _judged(error: GraphQLError) -> ToldError:
    if error.message == ABORTED:
        return restated(error, LIMIT_EXCEEDED, "the document is too intricate to be judged")
    return error if isinstance(error, ToldError) else restated(error, VALIDATION_FAILED)


def _exceeded(limit: str, most: int, found: int, what: str) -> ToldError:
    found = min(found, 10**15)
    message = f"the document has {found} {what}; at most {most} are allowed"
    return refusal(LIMIT_EXCEEDED, message, limit=limit, max=most, found=found)


def _note(context: Any, operation: OperationDefinitionNode, known: Known) -> None:
    """Tell the operation's context what runs, for logs, metrics and the audit."""
    if hasattr(context, "operation_name"):
        context.operation_kind = operation.operation.value
        context.operation_name = operation.name.value if operation.name is not None else ""
        context.document_hash = known.hash


def _misused_key(
    context: Any, operation: OperationDefinitionNode, fields: Mapping[str, int], schema: GraphQLSchema
) -> str | None:
    """Why an Idempotency-Key header cannot do what it was sent for; None where it can, or where nothing is done."""
    key = getattr(getattr(context, "request", None), "idempotency_key", None)
    if key is None or operation.operation is not OperationType.MUTATION:
        return None
    if sum(fields.values()) > 1:
        return "the Idempotency-Key header serves one mutation: use `idempotencyKey`"
    without = [name for name in fields if not _is_keyed(schema, name)]
    if without:
        return f"the Idempotency-Key header serves mutations that open or move positions, not {without[0]}"
    return None


def _is_keyed(schema: GraphQLSchema, name: str) -> bool:
    assert schema.mutation_type is not None, "a mutation was found valid"
    if name not in schema.mutation_type.fields:
        return True  # __typename does nothing
    definition = schema.mutation_type.fields[name].extensions.get(DEFINITION)
    return bool((getattr(definition, "metadata", None) or {}).get(KEYED_BY_HEADER))
