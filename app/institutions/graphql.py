"""Queries and mutations of institutions and keys."""

from typing import Annotated

import strawberry

from app.audit.model import Action
from app.context import Context, Info, may, only_institution
from app.engine.connection import After, Before, Connection, First, Last, OrderDirection, connection
from app.engine.failures import UserError
from app.engine.filters import conditions
from app.engine.roles import Scope
from app.errors import NotFound
from app.institutions import service
from app.institutions.inputs import (
    ApiKeyOrder,
    ApiKeyWhere,
    CreateApiKeyInput,
    CreateInstitutionInput,
    InstitutionOrder,
    InstitutionOrderField,
    InstitutionWhere,
    RevokeApiKeyInput,
    RotateApiKeyInput,
)
from app.institutions.types import READS_KEYS, ApiKey, Institution, Viewer, institution_by_id, node
from app.ledger.bell import Topic

# Other slices name these as of here.
__all__ = ["ApiKey", "Institution", "Mutation", "Query", "institution_by_id", "node"]

_ERRORS = "Why it was refused; empty when it was done."


@strawberry.type(description="What became of a new institution.")
class CreateInstitutionPayload:
    """The answer of `createInstitution`."""

    institution: Institution | None = strawberry.field(
        default=None, description="The institution; null when it was refused."
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)


@strawberry.type(description="What became of a new key.")
class CreateApiKeyPayload:
    """The answer of `createApiKey`."""

    api_key: ApiKey | None = strawberry.field(default=None, description="The key; null when it was refused.")
    secret: str | None = strawberry.field(
        default=None,
        description="The secret, told this once: send it as `Authorization: Bearer <secret>`. Nobody can "
        "tell it again; null when the key was refused.",
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)

    def __repr__(self) -> str:
        return f"CreateApiKeyPayload(api_key={self.api_key!r}, user_errors={self.user_errors!r})"


@strawberry.type(description="What became of a key to rotate.")
class RotateApiKeyPayload:
    """The answer of `rotateApiKey`."""

    api_key: ApiKey | None = strawberry.field(default=None, description="The key; null when it was refused.")
    secret: str | None = strawberry.field(
        default=None, description="The new secret, told this once; null when it was refused."
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)

    def __repr__(self) -> str:
        return f"RotateApiKeyPayload(api_key={self.api_key!r}, user_errors={self.user_errors!r})"


@strawberry.type(description="What became of a key to revoke.")
class RevokeApiKeyPayload:
    """The answer of `revokeApiKey`."""

    api_key: ApiKey | None = strawberry.field(default=None, description="The key; null when it was refused.")
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)


@strawberry.type
class Query:
    """What can be asked of institutions and keys."""

    @strawberry.field(description="Who asks: what the key of this request is and may do.")
    async def viewer(self, info: Info) -> Viewer:
        """Whoever has a valid key may know it."""
        return Viewer.of(info.context.principal)

    @strawberry.field(
        permission_classes=[may(Scope.READ)],
        description="One institution; null when there is none with this id, or it is not yours.",
    )
    async def institution(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")]
    ) -> Institution | None:
        """One institution."""
        found: Institution | None = await info.context.load(institution_by_id, str(id))
        return found

    @strawberry.field(
        permission_classes=[may(Scope.READ)], description="Institutions: all for root, else your own."
    )
    async def institutions(
        self,
        info: Info,
        where: Annotated[
            InstitutionWhere | None, strawberry.argument(description="Which ones; all when absent.")
        ] = None,
        order_by: Annotated[
            InstitutionOrder | None, strawberry.argument(description="The order; newest first when absent.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[Institution]:
        """One page of institutions."""
        context, tests = info.context, conditions(where)
        request = context.page(first, after, last, before)
        order = order_by.field if order_by is not None else InstitutionOrderField.CREATED_AT
        descending = order_by is None or order_by.direction is OrderDirection.DESC

        async def count() -> int:
            async with context.reading() as reading:
                return await service.count(reading, context.scope, tests)

        async with context.reading() as reading:
            page = await service.page(
                reading, context.scope, request, tests, order=order, descending=descending
            )
        return connection(page, Institution.of, count)

    @strawberry.field(
        permission_classes=[may(*READS_KEYS)],
        description="Keys: those of all institutions for root, else of your own. Never their secrets. Needs KEYS_WRITE "
        "or AUDIT_READ.",
    )
    async def api_keys(
        self,
        info: Info,
        where: Annotated[
            ApiKeyWhere | None, strawberry.argument(description="Which ones; all when absent.")
        ] = None,
        order_by: Annotated[
            ApiKeyOrder | None, strawberry.argument(description="The order; newest first when absent.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[ApiKey]:
        """One page of keys."""
        context, tests = info.context, conditions(where)
        request = context.page(first, after, last, before)
        descending = order_by is None or order_by.direction is OrderDirection.DESC

        async def count() -> int:
            async with context.reading() as reading:
                return await service.count_keys(reading, context.scope, tests)

        async with context.reading() as reading:
            page = await service.page_keys(reading, context.scope, request, tests, descending=descending)
        return connection(page, ApiKey.of, count)


@strawberry.type
class Mutation:
    """What can be done with institutions and keys."""

    @strawberry.mutation(
        permission_classes=[may(Scope.INSTITUTIONS_WRITE)], description="Open an institution; root only."
    )
    async def create_institution(
        self,
        info: Info,
        input: Annotated[CreateInstitutionInput, strawberry.argument(description="The institution.")],
    ) -> CreateInstitutionPayload:
        """Open an institution."""
        context = info.context

        async def attempt() -> CreateInstitutionPayload:
            institution_id = context.services.ids.new("inst")
            async with context.working(institution_id) as work:
                made = await service.create_institution(
                    work, institution_id, name=input.name, regions=input.regions, verticals=input.verticals
                )
            return CreateInstitutionPayload(institution=Institution.of(made))

        return await context.answer(
            CreateInstitutionPayload, Action.INSTITUTION_CREATED, "institution", attempt
        )

    @strawberry.mutation(
        permission_classes=[may(Scope.KEYS_WRITE)],
        description="Make a key. Its secret is in the answer, this once.",
    )
    async def create_api_key(
        self, info: Info, input: Annotated[CreateApiKeyInput, strawberry.argument(description="The key.")]
    ) -> CreateApiKeyPayload:
        """Make a key."""
        context = info.context

        async def attempt() -> CreateApiKeyPayload:
            institution_id = only_institution(context, input.institution_id)
            async with context.working(institution_id) as work:
                made = await service.create_api_key(work, institution_id, input.draft())
            return CreateApiKeyPayload(api_key=ApiKey.of(made.key), secret=made.secret)

        return await context.answer(
            CreateApiKeyPayload,
            Action.API_KEY_CREATED,
            "apiKey",
            attempt,
            institution_id=input.institution_id,
        )

    @strawberry.mutation(
        permission_classes=[may(Scope.KEYS_WRITE)],
        description="Give a key another secret, which is in the answer, this once. Until the overlap ends the secret "
        "before opens the same: put the new one in place, watch `previousLastUsedAt`, and nobody is locked out. A key "
        "has at most two secrets: rotating it again ends the older one. You need every scope that the key has, and "
        "to last as long.",
    )
    async def rotate_api_key(
        self,
        info: Info,
        input: Annotated[RotateApiKeyInput, strawberry.argument(description="Which key, and how slowly.")],
    ) -> RotateApiKeyPayload:
        """Rotate a key."""
        context, key_id = info.context, str(input.id)

        async def attempt() -> RotateApiKeyPayload:
            institution_id = await _owner_of(context, key_id)
            async with context.working(institution_id) as work:
                made = await service.rotate_api_key(work, institution_id, key_id, input.overlap_seconds)
            context.services.tell(Topic.KEYS)
            return RotateApiKeyPayload(api_key=ApiKey.of(made.key), secret=made.secret)

        return await context.answer(
            RotateApiKeyPayload, Action.API_KEY_ROTATED, "apiKey", attempt, resource_id=key_id
        )

    @strawberry.mutation(
        permission_classes=[may(Scope.KEYS_WRITE)],
        description="Revoke a key: within a second it opens nothing anywhere, and its live streams end.",
    )
    async def revoke_api_key(
        self,
        info: Info,
        input: Annotated[RevokeApiKeyInput, strawberry.argument(description="Which key.")],
    ) -> RevokeApiKeyPayload:
        """Revoke a key."""
        context, key_id = info.context, str(input.id)

        async def attempt() -> RevokeApiKeyPayload:
            institution_id = await _owner_of(context, key_id)
            async with context.working(institution_id) as work:
                revoked = await service.revoke_api_key(work, institution_id, key_id)
            context.services.tell(Topic.KEYS)
            return RevokeApiKeyPayload(api_key=ApiKey.of(revoked))

        return await context.answer(
            RevokeApiKeyPayload, Action.API_KEY_REVOKED, "apiKey", attempt, resource_id=key_id
        )


async def _owner_of(context: Context, key_id: str) -> str:
    """Whose key it is, as far as the asker sees."""
    async with context.reading() as reading:
        found = await service.fetch_key(reading, context.scope, key_id)
    if found is None:
        raise NotFound("key", "id")
    return found.institution_id
