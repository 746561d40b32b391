"""Queries and mutations on templates and assets."""

from collections.abc import Mapping
from typing import Annotated, cast

import strawberry

from app.assets import service
from app.assets.inputs import (
    AssetOrder,
    AssetTemplateOrder,
    AssetTemplateWhere,
    AssetWhere,
    CreateAssetInput,
    CreateAssetTemplateInput,
    order_of,
    tests,
)
from app.assets.types import Asset, AssetTemplate, asset_by_id, asset_of, template_by_id
from app.audit.model import Action
from app.context import Context, Info, may, only_institution
from app.engine.connection import After, Before, Connection, First, Last, connection
from app.engine.failures import UserError
from app.engine.roles import Scope
from app.errors import NotFound
from app.kit.canonical import Json

__all__ = ["Asset", "AssetTemplate", "Mutation", "Query", "asset_by_id", "asset_of", "node", "template_by_id"]

_ERRORS = "Why it was refused; empty when it was done."
_WHERE = "Only rows that pass every test."
_ORDER = "The order; without it the newest come first."


@strawberry.type(description="What createAssetTemplate answers.")
class CreateAssetTemplatePayload:
    """The version made, or why it was not."""

    asset_template: AssetTemplate | None = strawberry.field(
        default=None, description="The version made; null when it was refused."
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)


@strawberry.type(description="What createAsset answers.")
class CreateAssetPayload:
    """The asset made, or why it was not."""

    asset: Asset | None = strawberry.field(
        default=None, description="The asset made; null when it was refused."
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)


@strawberry.type
class Query:
    """Reads of this slice."""

    @strawberry.field(permission_classes=[may(Scope.READ)], description="One version of a template.")
    async def asset_template(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The version's id.")]
    ) -> AssetTemplate | None:
        """Null when it is not there, or not yours."""
        return await template(info.context, id)

    @strawberry.field(
        permission_classes=[may(Scope.READ)], description="Templates, each version a row; the newest first."
    )
    async def asset_templates(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Annotated[AssetTemplateWhere | None, strawberry.argument(description=_WHERE)] = None,
        order_by: Annotated[AssetTemplateOrder | None, strawberry.argument(description=_ORDER)] = None,
    ) -> Connection[AssetTemplate]:
        """One page."""
        context, conditions = info.context, tests(where)
        order, descending = order_of(order_by)
        request = context.page(first, after, last, before)
        async with context.reading() as reading:
            page = await service.page_templates(
                reading, context.scope, request, conditions, order_by=order, descending=descending
            )

        async def count() -> int:
            async with context.reading() as reading:
                return await service.count_templates(reading, context.scope, conditions)

        return connection(page, AssetTemplate.of, count)

    @strawberry.field(permission_classes=[may(Scope.READ)], description="One asset.")
    async def asset(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The asset's id.")]
    ) -> Asset | None:
        """Null when it is not there, or not yours."""
        return await asset(info.context, id)

    @strawberry.field(permission_classes=[may(Scope.READ)], description="Assets; the newest first.")
    async def assets(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Annotated[AssetWhere | None, strawberry.argument(description=_WHERE)] = None,
        order_by: Annotated[AssetOrder | None, strawberry.argument(description=_ORDER)] = None,
    ) -> Connection[Asset]:
        """One page."""
        context, conditions = info.context, tests(where)
        order, descending = order_of(order_by)
        request = context.page(first, after, last, before)
        async with context.reading() as reading:
            page = await service.page_assets(
                reading, context.scope, request, conditions, order_by=order, descending=descending
            )

        async def count() -> int:
            async with context.reading() as reading:
                return await service.count_assets(reading, context.scope, conditions)

        return connection(page, Asset.of, count)


Input = Annotated[CreateAssetInput, strawberry.argument(description="The asset to make.")]
TemplateInput = Annotated[CreateAssetTemplateInput, strawberry.argument(description="The version to make.")]


@strawberry.type
class Mutation:
    """Writes of this slice."""

    @strawberry.mutation(
        permission_classes=[may(Scope.TEMPLATES_WRITE)],
        description="Make a template, or the next version of the one that has this name. "
        "Assets keep the version they were made from.",
    )
    async def create_asset_template(self, info: Info, input: TemplateInput) -> CreateAssetTemplatePayload:
        """One transaction with its audit row."""
        context = info.context

        async def attempt() -> CreateAssetTemplatePayload:
            institution_id = only_institution(context, input.institution_id)
            lifecycles = frozenset(context.services.lifecycles)
            async with context.working(institution_id) as work:
                made = await service.create_template(
                    work, institution_id, input.draft(), lifecycles=lifecycles
                )
            return CreateAssetTemplatePayload(asset_template=AssetTemplate.of(made))

        return await context.answer(
            CreateAssetTemplatePayload,
            Action.ASSET_TEMPLATE_CREATED,
            "assetTemplate",
            attempt,
            institution_id=input.institution_id,
        )

    @strawberry.mutation(
        permission_classes=[may(Scope.ASSETS_WRITE)],
        description="Make an asset from a version of a template.",
    )
    async def create_asset(self, info: Info, input: Input) -> CreateAssetPayload:
        """One transaction with its audit row."""
        context = info.context

        async def attempt() -> CreateAssetPayload:
            institution_id = await _place(context, input)
            async with context.working(institution_id) as work:
                made = await service.create_asset(
                    work,
                    institution_id,
                    template_id=input.template_id,
                    label=input.label,
                    metadata=cast("Mapping[str, Json]", input.metadata or {}),
                )
            return CreateAssetPayload(asset=Asset.of(made))

        return await context.answer(
            CreateAssetPayload, Action.ASSET_CREATED, "asset", attempt, institution_id=input.institution_id
        )


async def _place(context: Context, input: CreateAssetInput) -> str:
    """The institution of a new asset: where root names none, its template's."""
    named = input.institution_id or context.principal.institution_id
    if named is not None:
        return named
    async with context.reading() as reading:
        found = await service.templates_by_id(reading, context.scope, [input.template_id])
    if input.template_id not in found:
        raise NotFound("asset template", "templateId")
    return found[input.template_id].institution_id


async def template(context: Context, id: str) -> AssetTemplate | None:
    """The template of that id, None when there is none to see."""
    found: AssetTemplate | None = await context.load(template_by_id, id)
    return found


async def asset(context: Context, id: str) -> Asset | None:
    """The asset of that id, None when there is none to see."""
    found: Asset | None = await context.load(asset_by_id, id)
    return found


async def node(context: Context, id: str) -> AssetTemplate | Asset | None:
    """The template or the asset of that id."""
    return await (template if id.startswith("tmpl_") else asset)(context, id)
