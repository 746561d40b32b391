"""The GraphQL types of institutions, keys and the viewer, and their loaders."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

import strawberry

from app.context import Context, Info, may
from app.engine.connection import After, Before, Connection, First, Last, Node, connection
from app.engine.roles import Role, Scope
from app.institutions import model, service
from app.institutions.model import Region, Vertical
from app.principal import Principal
from app.storage.paging import Page, PageRequest

# Those who manage keys, and those who read all that there is of an institution.
READS_KEYS = (Scope.KEYS_WRITE, Scope.AUDIT_READ)


@strawberry.type(description="A key of an institution. Its secret is told once, when it is made or rotated.")
class ApiKey(Node):
    """A key."""

    institution_id: strawberry.ID = strawberry.field(description="The institution it belongs to.")
    label: str = strawberry.field(description="What people call it.")
    role: Role = strawberry.field(description="What it is for.")
    scopes: list[Scope] = strawberry.field(description="What it may do.")
    prefix: str = strawberry.field(description="The first characters of its secret, to tell keys apart.")
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When it was last changed; being used is no change.")
    expires_at: datetime | None = strawberry.field(
        description="From when on it opens nothing; null for never."
    )
    last_used_at: datetime | None = strawberry.field(
        description="When it was last used, to about a minute; null when never."
    )
    revoked_at: datetime | None = strawberry.field(
        description="When it was revoked; null while it is in force."
    )
    rotated_at: datetime | None = strawberry.field(
        description="When it got its present secret, unless that is the first one."
    )
    previous_prefix: str | None = strawberry.field(
        description="The first characters of the secret before; null when there is none, or it ended at once."
    )
    previous_ends_at: datetime | None = strawberry.field(
        description="Until when the secret before opens, or opened, the same; null when there is none."
    )
    previous_last_used_at: datetime | None = strawberry.field(
        description="When the secret before was last used, to about a minute: who still has to change over."
    )

    @classmethod
    def of(cls, key: model.ApiKey) -> "ApiKey":
        """The type that shows `key`."""
        return cls(
            id=strawberry.ID(key.id),
            institution_id=strawberry.ID(key.institution_id),
            label=key.label,
            role=key.role,
            scopes=list(key.scopes),
            prefix=key.prefix,
            created_at=key.created_at,
            updated_at=key.updated_at,
            expires_at=key.expires_at,
            last_used_at=key.last_used_at,
            revoked_at=key.revoked_at,
            rotated_at=key.rotated_at,
            previous_prefix=key.previous_prefix,
            previous_ends_at=key.previous_ends_at,
            previous_last_used_at=key.previous_used_at,
        )

    @strawberry.field(description="The institution it belongs to.")
    async def institution(self, info: Info) -> Annotated["Institution", strawberry.lazy(__name__)] | None:
        """Whose key."""
        found: Institution | None = await info.context.load(institution_by_id, str(self.institution_id))
        return found


@strawberry.type(description="A tenant: everything else belongs to one.")
class Institution(Node):
    """An institution."""

    name: str = strawberry.field(description="What people call it.")
    regions: list[Region] = strawberry.field(description="Where it works.")
    verticals: list[Vertical] = strawberry.field(description="Its lines of business.")
    created_at: datetime = strawberry.field(description="When it was opened.")
    updated_at: datetime = strawberry.field(description="When it was last changed.")

    @classmethod
    def of(cls, institution: model.Institution) -> "Institution":
        """The type that shows `institution`."""
        return cls(
            id=strawberry.ID(institution.id),
            name=institution.name,
            regions=list(institution.regions),
            verticals=list(institution.verticals),
            created_at=institution.created_at,
            updated_at=institution.updated_at,
        )

    @strawberry.field(
        permission_classes=[may(*READS_KEYS)],
        description="Its keys, the newest first; needs KEYS_WRITE or AUDIT_READ.",
    )
    async def api_keys(
        self, info: Info, first: First = None, after: After = None, last: Last = None, before: Before = None
    ) -> Connection[ApiKey] | None:
        """One page of its keys, read together with those of the institutions beside it."""
        context, key = info.context, str(self.id)
        page: Page[model.ApiKey] = await context.load(keys_of, key, context.page(first, after, last, before))

        async def count() -> int:
            counted: int = await context.load(count_keys_of, key)
            return counted

        return connection(page, ApiKey.of, count)


@strawberry.type(description="Who asks: what the key of this request is and may do.")
class Viewer:
    """Who asks."""

    id: strawberry.ID = strawberry.field(
        description="The key's id; `root` for the root key; `oidc:` and the subject for a bearer token."
    )
    label: str | None = strawberry.field(description="What people call the key.")
    role: Role = strawberry.field(description="What the key is for.")
    scopes: list[Scope] = strawberry.field(description="What the key may do.")
    expires_at: datetime | None = strawberry.field(
        description="When the token, key or secret of this request ends, and its live streams with it; null for never."
    )
    institution_id: strawberry.Private[str | None]

    @classmethod
    def of(cls, principal: Principal) -> "Viewer":
        """The type that shows `principal`."""
        return cls(
            id=strawberry.ID(principal.id),
            label=principal.label or None,
            role=principal.role,
            scopes=[scope for scope in Scope if principal.may(scope)],
            expires_at=principal.expires_at,
            institution_id=principal.institution_id,
        )

    @strawberry.field(description="The institution the key belongs to; null for root.")
    async def institution(self, info: Info) -> Institution | None:
        """Whose key."""
        if self.institution_id is None:
            return None
        found: Institution | None = await info.context.load(institution_by_id, self.institution_id)
        return found


async def institution_by_id(context: Context, ids: Sequence[str]) -> Mapping[str, Institution]:
    """Loader: institutions by id."""
    async with context.reading() as reading:
        found = await service.fetch_all(reading, context.scope, ids)
    return {key: Institution.of(institution) for key, institution in found.items()}


async def keys_of(
    context: Context, institution_ids: Sequence[str], request: PageRequest
) -> Mapping[str, Page[model.ApiKey]]:
    """Loader: a page of keys for each institution."""
    async with context.reading() as reading:
        return await service.page_keys_each(reading, context.scope, institution_ids, request)


async def count_keys_of(context: Context, institution_ids: Sequence[str]) -> Mapping[str, int]:
    """Loader: how many keys each institution has."""
    async with context.reading() as reading:
        return await service.count_keys_each(reading, context.scope, institution_ids)


async def key_by_id(context: Context, ids: Sequence[str]) -> Mapping[str, ApiKey]:
    """Loader: keys by id."""
    async with context.reading() as reading:
        found = await service.fetch_keys(reading, context.scope, ids)
    return {key: ApiKey.of(row) for key, row in found.items()}


async def node(context: Context, id: str) -> Institution | ApiKey | None:
    """What `node(id:)` answers for inst_… and key_…; keys only to those who may see them."""
    if id.startswith("inst_"):
        institution: Institution | None = await context.load(institution_by_id, id)
        return institution
    if not any(map(context.principal.may, READS_KEYS)):
        return None
    key: ApiKey | None = await context.load(key_by_id, id)
    return key
