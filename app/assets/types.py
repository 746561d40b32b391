"""The GraphQL types of templates and assets, and the loaders that fill them level by level."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import strawberry

from app.assets import model, service
from app.assets.inputs import AssetOrder, AssetWhere, order_of, tests
from app.context import Context, Info
from app.engine.connection import After, Before, Connection, First, Last, Node, connection
from app.engine.loaded import METADATA as LOADED
from app.engine.loaded import Loaded
from app.engine.scalars import JsonObject, Long
from app.institutions.graphql import Institution, institution_by_id
from app.institutions.model import Region, Vertical
from app.storage.conditions import Condition
from app.storage.paging import Page, PageRequest

if TYPE_CHECKING:
    from app.positions.inputs import PositionOrder, PositionWhere
    from app.positions.types import Position

# A template by its institution and id: every index of assets starts with the institution.
OfTemplate = tuple[str, str]


@strawberry.type(
    description="Whether the events of a template's positions are to be recorded on a chain, too: they are where this "
    "server anchors on that chain."
)
class Onchain:
    """On a chain or not."""

    enabled: bool = strawberry.field(
        description="Whether they are to be recorded, where this server anchors on that chain."
    )
    chain_id: Long | None = strawberry.field(description="The chain's EIP-155 id, such as 1.")


@strawberry.type(
    description="One version of a template: what kind of asset it makes, and what is enforced on positions."
)
class AssetTemplate(Node):
    """A version of a template; it never changes."""

    institution_id: strawberry.ID = strawberry.field(description="The institution's id.")
    name: str = strawberry.field(description="The name that all its versions share.")
    version: int = strawberry.field(description="Counts the versions of this name, from 1.")
    code: str = strawberry.field(description="What kind of template, such as CONSTR_ESCROW.")
    vertical: Vertical = strawberry.field(description="The line of business of the code.")
    region: Region = strawberry.field(description="Where it applies: its policy judges the positions.")
    lifecycle_name: str = strawberry.field(description="The lifecycle that its positions follow.")
    lifecycle_version: int = strawberry.field(description="The version of that lifecycle.")
    config: JsonObject = strawberry.field(
        description="What the code asks for; its currency, minAmount, maxAmount, maxTenorDays are enforced."
    )
    metadata_schema: JsonObject | None = strawberry.field(
        description="The JSON Schema (2020-12) of its assets' metadata; null when they are free."
    )
    onchain: Onchain = strawberry.field(
        description="Whether the events of its positions are to be recorded on a chain."
    )
    created_at: datetime = strawberry.field(description="When this version was made.")

    @classmethod
    def of(cls, template: model.AssetTemplate) -> "AssetTemplate":
        """The type that shows `template`."""
        chain_id = template.onchain_chain_id
        return cls(
            id=strawberry.ID(template.id),
            institution_id=strawberry.ID(template.institution_id),
            name=template.name,
            version=template.version,
            code=template.code,
            vertical=template.vertical,
            region=template.region,
            lifecycle_name=template.lifecycle_name,
            lifecycle_version=template.lifecycle_version,
            config=JsonObject(template.config),
            metadata_schema=None
            if template.metadata_schema is None
            else JsonObject(template.metadata_schema),
            onchain=Onchain(
                enabled=template.onchain_enabled, chain_id=None if chain_id is None else Long(chain_id)
            ),
            created_at=template.created_at,
        )

    @strawberry.field(
        description="The institution it belongs to.",
        metadata={LOADED: Loaded("app.institutions.graphql:institution_by_id", "institution_id")},
    )
    async def institution(
        self, info: Info
    ) -> Annotated["Institution", strawberry.lazy("app.institutions.graphql")]:
        """Loaded with those of the whole level."""
        found: Institution = await info.context.load(institution_by_id, str(self.institution_id))
        return found

    @strawberry.field(description="The assets made from this version.")
    async def assets(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Annotated[
            AssetWhere | None, strawberry.argument(description="Only rows that pass every test.")
        ] = None,
        order_by: Annotated[
            AssetOrder | None, strawberry.argument(description="The order; without it the newest come first.")
        ] = None,
    ) -> Connection[Annotated["Asset", strawberry.lazy(__name__)]]:
        """One page for each template of the level, in one statement."""
        key: OfTemplate = (self.institution_id, self.id)
        conditions, order = tests(where), order_of(order_by)
        request = info.context.page(first, after, last, before)
        page = await info.context.load(assets_by_template, key, request, conditions, order)
        counted = partial(info.context.load, asset_count_by_template, key, conditions)
        return connection(page, Asset.of, counted)


@strawberry.type(
    description="Something that positions are opened on: a project, an invoice, a letter of credit."
)
class Asset(Node):
    """An asset."""

    institution_id: strawberry.ID = strawberry.field(description="The institution's id.")
    template_id: strawberry.ID = strawberry.field(description="The id of the template's version.")
    label: str = strawberry.field(description="What people call it.")
    metadata: JsonObject = strawberry.field(
        description="What is kept with it, by the schema of its template."
    )
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When it last changed.")

    @strawberry.field(description="The positions held on it, newest first unless said otherwise.")
    async def positions(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        where: Annotated[
            Annotated["PositionWhere", strawberry.lazy("app.positions.inputs")] | None,
            strawberry.argument(description="Which positions."),
        ] = None,
        order_by: Annotated[
            Annotated["PositionOrder", strawberry.lazy("app.positions.inputs")] | None,
            strawberry.argument(description="In which order; newest first when absent."),
        ] = None,
    ) -> Connection[Annotated["Position", strawberry.lazy("app.positions.types")]]:
        """One page; the assets of a level are asked together."""
        from app.positions.graphql import positions_connection

        request = info.context.page(first, after, last, before)
        return await positions_connection(info.context, str(self.id), request, where, order_by)

    @classmethod
    def of(cls, asset: model.Asset) -> "Asset":
        """The type that shows `asset`."""
        return cls(
            id=strawberry.ID(asset.id),
            institution_id=strawberry.ID(asset.institution_id),
            template_id=strawberry.ID(asset.template_id),
            label=asset.label,
            metadata=JsonObject(asset.metadata),
            created_at=asset.created_at,
            updated_at=asset.updated_at,
        )

    @strawberry.field(
        description="The institution it belongs to.",
        metadata={LOADED: Loaded("app.institutions.graphql:institution_by_id", "institution_id")},
    )
    async def institution(
        self, info: Info
    ) -> Annotated["Institution", strawberry.lazy("app.institutions.graphql")]:
        """Loaded with those of the whole level."""
        found: Institution = await info.context.load(institution_by_id, str(self.institution_id))
        return found

    @strawberry.field(
        description="The version of the template it was made from.",
        metadata={LOADED: Loaded("app.assets.types:template_of", "template_id")},
    )
    async def template(self, info: Info) -> AssetTemplate:
        """Loaded with those of the whole level."""
        found: AssetTemplate = await info.context.load(template_of, str(self.template_id))
        return found


async def template_by_id(context: Context, keys: Sequence[str]) -> Mapping[str, AssetTemplate]:
    """Templates of one level."""
    async with context.reading() as reading:
        found = await service.templates_by_id(reading, context.scope, keys)
    return {key: AssetTemplate.of(model) for key, model in found.items()}


async def asset_by_id(context: Context, keys: Sequence[str]) -> Mapping[str, Asset]:
    """Assets of one level."""
    async with context.reading() as reading:
        found = await service.assets_by_id(reading, context.scope, keys)
    return {key: Asset.of(model) for key, model in found.items()}


async def asset_of(context: Context, keys: Sequence[str]) -> Mapping[str, Asset]:
    """Assets that something of one level is of: those that this process knows are not read again."""
    found = await context.services.assets.read_each(context.reading, context.scope, keys)
    return {key: Asset.of(asset) for key, (asset, _template) in found.items()}


async def template_of(context: Context, keys: Sequence[str]) -> Mapping[str, AssetTemplate]:
    """Templates that something of one level is of, likewise."""
    known = context.services.assets.templates(context.scope, keys)
    found = {key: AssetTemplate.of(model) for key, model in known.items()}
    missing = [key for key in keys if key not in found]
    return {**found, **await template_by_id(context, missing)} if missing else found


async def assets_by_template(
    context: Context,
    keys: Sequence[OfTemplate],
    request: PageRequest,
    conditions: tuple[Condition, ...],
    order: tuple[str, bool],
) -> Mapping[OfTemplate, Page[model.Asset]]:
    """A page of assets for each template of one level."""
    async with context.reading() as reading:
        return await service.page_assets_each(
            reading, context.scope, keys, request, conditions, order_by=order[0], descending=order[1]
        )


async def asset_count_by_template(
    context: Context, keys: Sequence[OfTemplate], conditions: tuple[Condition, ...]
) -> Mapping[OfTemplate, int]:
    """How many assets each template of one level has."""
    async with context.reading() as reading:
        return await service.count_assets_each(reading, context.scope, keys, conditions)
