"""What queries and mutations on institutions and keys take."""

from datetime import datetime
from enum import StrEnum

import strawberry

from app.engine.connection import OrderDirection
from app.engine.enums import describe
from app.engine.filters import IDFilter, TextFilter, TimeFilter
from app.engine.roles import Role, Scope
from app.institutions.model import (
    ENTRIES_MAX,
    LABEL_LENGTH_MAX,
    NAME_LENGTH_MAX,
    OVERLAP_SECONDS_DEFAULT,
    OVERLAP_SECONDS_MAX,
    KeyDraft,
    Region,
    Vertical,
)

describe(
    Region,
    "Where an institution works; its policies are per region.",
    {
        Region.US: "The United States.",
        Region.EU_UK: "The European Union and the United Kingdom.",
        Region.SG: "Singapore.",
        Region.UAE: "The United Arab Emirates.",
    },
)
describe(
    Vertical,
    "A line of business.",
    {
        Vertical.CONSTRUCTION: "Escrowed and retained payments for building.",
        Vertical.TRADE_FINANCE: "Invoices and letters of credit.",
    },
)


class InstitutionOrderField(StrEnum):
    """What institutions are ordered by."""

    CREATED_AT = "CREATED_AT"
    NAME = "NAME"


class ApiKeyOrderField(StrEnum):
    """What keys are ordered by."""

    CREATED_AT = "CREATED_AT"


describe(
    InstitutionOrderField,
    "What institutions are ordered by.",
    {
        InstitutionOrderField.CREATED_AT: "When it was opened.",
        InstitutionOrderField.NAME: "The name.",
    },
)
describe(
    ApiKeyOrderField,
    "What keys are ordered by.",
    {ApiKeyOrderField.CREATED_AT: "When the key was made."},
)


@strawberry.input(description="The order of a list of institutions; without one, the newest come first.")
class InstitutionOrder:
    """An order of institutions."""

    field: InstitutionOrderField = strawberry.field(description="What they are ordered by.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.DESC, description="Which end comes first."
    )


@strawberry.input(description="The order of a list of keys; without one, the newest come first.")
class ApiKeyOrder:
    """An order of keys."""

    field: ApiKeyOrderField = strawberry.field(description="What they are ordered by.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.DESC, description="Which end comes first."
    )


@strawberry.input(description="A test on a role.")
class RoleFilter:
    """Exact roles."""

    eq: Role | None = strawberry.field(default=None, description="Equal to this.")
    in_: list[Role] | None = strawberry.field(default=None, name="in", description="Equal to one of these.")


@strawberry.input(description="A test on a region.")
class RegionFilter:
    """Exact regions."""

    eq: Region | None = strawberry.field(default=None, description="Equal to this.")
    in_: list[Region] | None = strawberry.field(default=None, name="in", description="Equal to one of these.")


@strawberry.input(description="A test on a line of business.")
class VerticalFilter:
    """Exact verticals."""

    eq: Vertical | None = strawberry.field(default=None, description="Equal to this.")
    in_: list[Vertical] | None = strawberry.field(
        default=None, name="in", description="Equal to one of these."
    )


@strawberry.input(description="Which institutions a list has: those that pass every test.")
class InstitutionWhere:
    """Tests on institutions."""

    id: IDFilter | None = strawberry.field(default=None, description="The institution's id.")
    name: TextFilter | None = strawberry.field(default=None, description="The name.")
    created_at: TimeFilter | None = strawberry.field(default=None, description="When it was opened.")


@strawberry.input(description="Which keys a list has: those that pass every test.")
class ApiKeyWhere:
    """Tests on keys."""

    id: IDFilter | None = strawberry.field(default=None, description="The key's id.")
    institution_id: IDFilter | None = strawberry.field(default=None, description="The institution's id.")
    label: TextFilter | None = strawberry.field(default=None, description="The label.")
    role: RoleFilter | None = strawberry.field(default=None, description="The role.")
    created_at: TimeFilter | None = strawberry.field(default=None, description="When it was made.")
    expires_at: TimeFilter | None = strawberry.field(
        default=None, description="When it expires; keys that never do pass no such test."
    )
    last_used_at: TimeFilter | None = strawberry.field(
        default=None, description="When it was last used; keys never used pass no such test."
    )
    revoked_at: TimeFilter | None = strawberry.field(
        default=None, description="When it was revoked; keys in force pass no such test."
    )


@strawberry.input(description="A new institution.")
class CreateInstitutionInput:
    """An institution to open."""

    name: str = strawberry.field(description=f"What people call it: 1 to {NAME_LENGTH_MAX} characters.")
    regions: list[Region] = strawberry.field(
        description=f"Where it works: 1 to {ENTRIES_MAX}, each named once."
    )
    verticals: list[Vertical] | None = strawberry.field(
        default=None, description="Its lines of business, each named once; all of them when absent."
    )


@strawberry.input(description="A new key.")
class CreateApiKeyInput:
    """A key to make."""

    label: str = strawberry.field(description=f"What people call it: 1 to {LABEL_LENGTH_MAX} characters.")
    role: Role = strawberry.field(description="What it is for: any role but ROOT.")
    scopes: list[Scope] | None = strawberry.field(
        default=None,
        description="To narrow it: some of the scopes of its role, all when absent. "
        "You can only give what you have yourself.",
    )
    expires_at: datetime | None = strawberry.field(
        default=None,
        description="From when on it opens nothing; never when absent. Whoever asks with a key that ends, or with a "
        "token, can only make keys that end.",
    )
    institution_id: strawberry.ID | None = strawberry.field(
        default=None,
        description="The institution it is for. Root must name it; for everybody else it is their own.",
    )

    def draft(self) -> KeyDraft:
        """The same as a model."""
        return KeyDraft(self.label, self.role, self.scopes, self.expires_at)


@strawberry.input(description="A key that gets another secret.")
class RotateApiKeyInput:
    """A key to rotate."""

    id: strawberry.ID = strawberry.field(description="The key's id.")
    overlap_seconds: int = strawberry.field(
        default=OVERLAP_SECONDS_DEFAULT,
        description="For how long the secret in force now still opens what it opens, so that everybody can change "
        f"over: 0 (it ends at once) to {OVERLAP_SECONDS_MAX}, a week; an hour when absent.",
    )


@strawberry.input(description="A key to revoke.")
class RevokeApiKeyInput:
    """A key to revoke."""

    id: strawberry.ID = strawberry.field(description="The key's id.")
