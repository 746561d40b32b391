"""Sets what an institution allows, and reads it: the current version to decide, every version for people."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.audit import service as audit
from app.audit.model import Action
from app.audit.service import Work
from app.errors import NotFound
from app.institutions import service as institutions
from app.institutions.model import Region
from app.kit.ids import is_id
from app.policies import store
from app.policies.model import Limits, Policy, check_limits, check_region
from app.storage.conditions import Condition
from app.storage.paging import Page, PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from app.storage.database import Driver

RESOURCE = "policy"


async def set_policy(work: Work, institution_id: str, region: Region, limits: Limits) -> Policy:
    """Make `limits` the institution's next policy for `region`; it holds from the commit on."""
    check_limits(limits)
    institution = await institutions.fetch(work.connection, institution_id, institution_id)
    if institution is None:
        raise NotFound("institution", "institutionId")
    check_region(region, institution)
    await store.lock_region(work.connection, institution_id, region)
    previous = await store.newest_version(work.connection, institution_id, region)
    policy = Policy(
        id=work.ids.new("pol"),
        institution_id=institution_id,
        region=region,
        version=(previous or 0) + 1,
        min_amount=limits.min_amount,
        max_amount=limits.max_amount,
        allowed_currencies=limits.allowed_currencies,
        created_at=work.now,
    )
    await store.add(work.connection, institution_id, policy)
    await audit.record(
        work,
        action=Action.POLICY_UPDATED,
        resource_type=RESOURCE,
        resource_id=policy.id,
        institution_id=institution_id,
        payload={"region": region, "previousVersion": previous, "version": policy.version},
    )
    return policy


async def current(connection: "Driver", pairs: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Policy]:
    """The current policy of each (institution, region) that has one; for the writer's transaction."""
    return await store.current(connection, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


async def fetch_each(connection: "AsyncConnection", scope: str, ids: Sequence[str]) -> Mapping[str, Policy]:
    """Policies by id; what is not spelled like one is not there."""
    return await store.by_id(connection, scope, [key for key in ids if is_id(key, "pol")])


async def current_ids(connection: "AsyncConnection", scope: str, ids: Sequence[str]) -> frozenset[str]:
    """Those of the policies that hold now."""
    return await store.current_ids(connection, scope, ids)


async def page(
    connection: "AsyncConnection",
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition] = (),
    *,
    current: bool | None = None,
    order_by: str = store.CREATED_AT,
    descending: bool = True,
) -> Page[Policy]:
    """One page of policies; `current` keeps only those that hold now, or only those that no longer do."""
    return await store.page(
        connection, scope, request, conditions, current=current, order_by=order_by, descending=descending
    )


async def count(
    connection: "AsyncConnection",
    scope: str,
    conditions: Sequence[Condition] = (),
    *,
    current: bool | None = None,
) -> int:
    """How many policies the list has."""
    return await store.count(connection, scope, conditions, current=current)


async def history_each(
    connection: "AsyncConnection", scope: str, ids: Sequence[str], request: PageRequest
) -> Mapping[str, Page[Policy]]:
    """For each policy a page of all versions of its region, newest first."""
    return await store.history_each(connection, scope, ids, request)


async def history_counts(connection: "AsyncConnection", scope: str, ids: Sequence[str]) -> Mapping[str, int]:
    """For each policy how many versions its region has."""
    return await store.history_counts(connection, scope, ids)
