"""What queries and mutations on templates and assets take."""

from collections.abc import Mapping
from enum import StrEnum
from typing import cast

import strawberry

from app.assets.codes import CODES
from app.assets.model import LABEL_LENGTH_MAX, LIFECYCLE_DEFAULT, NAME_LENGTH_MAX, TemplateDraft
from app.engine import filters
from app.engine.connection import OrderDirection
from app.engine.enums import describe
from app.engine.filters import IDFilter, TextFilter, TimeFilter, WordFilter
from app.engine.scalars import JsonObject, Long
from app.engine.words import known
from app.institutions.inputs import RegionFilter, VerticalFilter
from app.institutions.model import Region, Vertical
from app.kit.canonical import Json
from app.storage.conditions import Condition

_CONFIGS = "; ".join(f"{code.code}: {code.summary}" for code in CODES.values())
_INSTITUTION = "The institution it is for. Root must name it; for everybody else it is their own."
_DIRECTION = "Which end comes first."


class AssetTemplateOrderField(StrEnum):
    """What templates are ordered by."""

    CREATED_AT = "CREATED_AT"
    NAME = "NAME"


class AssetOrderField(StrEnum):
    """What assets are ordered by."""

    CREATED_AT = "CREATED_AT"
    LABEL = "LABEL"


describe(
    AssetTemplateOrderField,
    "What templates are ordered by.",
    {
        AssetTemplateOrderField.CREATED_AT: "When the version was made.",
        AssetTemplateOrderField.NAME: "Name, then version. As root only within one institution (`where`).",
    },
)
describe(
    AssetOrderField,
    "What assets are ordered by.",
    {
        AssetOrderField.CREATED_AT: "When the asset was made.",
        AssetOrderField.LABEL: "The label. As root only within one institution (`where`).",
    },
)


@strawberry.input(description="The order of a list of templates; without one, the newest come first.")
class AssetTemplateOrder:
    """An order of templates."""

    field: AssetTemplateOrderField = strawberry.field(description="What they are ordered by.")
    direction: OrderDirection = strawberry.field(default=OrderDirection.DESC, description=_DIRECTION)


@strawberry.input(description="The order of a list of assets; without one, the newest come first.")
class AssetOrder:
    """An order of assets."""

    field: AssetOrderField = strawberry.field(description="What they are ordered by.")
    direction: OrderDirection = strawberry.field(default=OrderDirection.DESC, description=_DIRECTION)


@strawberry.input(description="Which templates a list has: those that pass every test.")
class AssetTemplateWhere:
    """Tests on templates."""

    id: IDFilter | None = strawberry.field(default=None, description="The id of a version.")
    institution_id: IDFilter | None = strawberry.field(default=None, description="The institution's id.")
    name: TextFilter | None = strawberry.field(default=None, description="The name that all versions share.")
    code: WordFilter | None = strawberry.field(default=None, description="The code, such as CONSTR_ESCROW.")
    vertical: VerticalFilter | None = strawberry.field(default=None, description="The line of business.")
    region: RegionFilter | None = strawberry.field(default=None, description="The region.")
    created_at: TimeFilter | None = strawberry.field(default=None, description="When the version was made.")


@strawberry.input(description="Which assets a list has: those that pass every test.")
class AssetWhere:
    """Tests on assets."""

    id: IDFilter | None = strawberry.field(default=None, description="The asset's id.")
    institution_id: IDFilter | None = strawberry.field(default=None, description="The institution's id.")
    template_id: IDFilter | None = strawberry.field(
        default=None, description="The id of a template's version."
    )
    label: TextFilter | None = strawberry.field(default=None, description="The label.")
    created_at: TimeFilter | None = strawberry.field(default=None, description="When the asset was made.")


@strawberry.input(
    description="Whether the events of a template's positions are also recorded on a chain, by a server that anchors "
    "there. A server that does not keeps the wish with the template and records nothing."
)
class OnchainInput:
    """On a chain or not."""

    enabled: bool = strawberry.field(
        description="Whether they are to be recorded, where this server anchors on that chain."
    )
    chain_id: Long | None = strawberry.field(
        default=None, description="The chain's EIP-155 id, such as 1; needed when enabled."
    )


@strawberry.input(description="A new template, or the next version of the template that has this name.")
class CreateAssetTemplateInput:
    """A template to make."""

    name: str = strawberry.field(
        description=f"1 to {NAME_LENGTH_MAX} characters. A name that exists gets its next version, "
        "which keeps the code and the region."
    )
    code: str = strawberry.field(description=f"What kind of template: {', '.join(CODES)}.")
    region: Region = strawberry.field(
        description="One of the institution's regions; its policy applies there."
    )
    config: JsonObject = strawberry.field(
        description=f"What the code asks for, amounts as text. {_CONFIGS}. "
        "Currency, amounts and tenor are enforced on every position."
    )
    vertical: Vertical | None = strawberry.field(
        default=None, description="The code's line of business, as a check; absent, the code says it."
    )
    lifecycle_name: str = strawberry.field(
        default=LIFECYCLE_DEFAULT[0], description="The lifecycle that positions follow."
    )
    lifecycle_version: int = strawberry.field(
        default=LIFECYCLE_DEFAULT[1], description="The version of that lifecycle."
    )
    metadata_schema: JsonObject | None = strawberry.field(
        default=None,
        description="A JSON Schema (2020-12) for the metadata of assets; references only within itself, "
        "patterns without look-around; `format` is not checked.",
    )
    onchain: OnchainInput | None = strawberry.field(
        default=None, description="Whether it goes on a chain; absent, it does not."
    )
    institution_id: strawberry.ID | None = strawberry.field(default=None, description=_INSTITUTION)

    def draft(self) -> TemplateDraft:
        """The same as a model."""
        return TemplateDraft(
            name=self.name,
            code=self.code,
            region=self.region,
            config=cast("Mapping[str, Json]", self.config),
            vertical=self.vertical,
            lifecycle=(self.lifecycle_name, self.lifecycle_version),
            metadata_schema=cast("Mapping[str, Json] | None", self.metadata_schema),
            onchain_enabled=self.onchain is not None and self.onchain.enabled,
            onchain_chain_id=self.onchain.chain_id if self.onchain is not None else None,
        )


@strawberry.input(description="A new asset.")
class CreateAssetInput:
    """An asset to make."""

    template_id: strawberry.ID = strawberry.field(description="The version of the template it is made from.")
    label: str = strawberry.field(description=f"What people call it: 1 to {LABEL_LENGTH_MAX} characters.")
    metadata: JsonObject | None = strawberry.field(
        default=None,
        description="Anything worth keeping with it, as the template's schema demands; at most 64 KB.",
    )
    institution_id: strawberry.ID | None = strawberry.field(
        default=None, description="The institution it is for, as a check; absent, the template says it."
    )


def tests(where: object | None) -> tuple[Condition, ...]:
    """The tests of a `where`; refuses a code that no template can have."""
    return known(filters.conditions(where), "code", CODES, f"there are {', '.join(CODES)}")


def order_of(order_by: AssetTemplateOrder | AssetOrder | None) -> tuple[str, bool]:
    """What the rows are ordered by, and whether the greatest come first."""
    if order_by is None:
        return AssetOrderField.CREATED_AT.lower(), True
    return order_by.field.lower(), order_by.direction is OrderDirection.DESC
