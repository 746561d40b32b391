"""Makes, changes and removes webhook endpoints, turns their secrets over, and has deliveries begin anew."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from app.audit import service as audit
from app.audit.model import Action
from app.audit.service import Work
from app.errors import Invalid, NotFound
from app.institutions import service as institutions
from app.kit.canonical import Json
from app.kit.ids import is_id
from app.kit.text import BadText, check_text
from app.ledger import service as ledger
from app.ledger.cursors import Epochs
from app.webhooks import queries, signing, store, targets
from app.webhooks.model import (
    DESCRIPTION_LENGTH_MAX,
    ENDPOINTS_MAX,
    OVERLAP_MAX,
    SECRETS_MAX,
    Delivery,
    DeliveryState,
    DisabledReason,
    Endpoint,
    EndpointDraft,
    Secret,
    has_failed_too_long,
)
from app.webhooks.targets import BadTarget
from app.webhooks.vault import Vault, place_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

# What is cancelled at once when an endpoint is disabled; the follower cancels the rest.
CANCELLED_AT_ONCE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Told:
    """An endpoint with a new secret, which is told this once."""

    endpoint: Endpoint
    secret: str = field(repr=False)


async def create_endpoint(
    work: Work, institution_id: str, draft: EndpointDraft, *, vault: Vault, epochs: Epochs, private: bool
) -> Told:
    """Make an endpoint that gets the events from now on. Its secret is told this once."""
    check_draft(draft, private=private)
    if await institutions.fetch(work.connection, institution_id, institution_id) is None:
        raise NotFound("institution", "institutionId")
    await store.lock_endpoints(work.connection, institution_id)
    if await queries.count_endpoints(work.connection, institution_id, ()) >= ENDPOINTS_MAX:
        raise Invalid(f"an institution has at most {ENDPOINTS_MAX} endpoints: delete one first")
    endpoint = Endpoint(
        id=work.ids.new("whe"),
        institution_id=institution_id,
        url=draft.url,
        description=draft.description,
        wanted=draft.wanted,
        enabled=draft.enabled,
        disabled_reason=None if draft.enabled else DisabledReason.ASKED,
        starts_after=await _head(work, institution_id, epochs),
        created_by=work.actor.id,
        created_at=work.now,
        updated_at=work.now,
    )
    await store.insert_endpoint(work.connection, institution_id, endpoint)
    secret = await _add_secret(work, endpoint, vault)
    await _record(work, Action.WEBHOOK_ENDPOINT_CREATED, endpoint, _shown(endpoint))
    return Told(endpoint, secret)


async def update_endpoint(
    work: Work,
    institution_id: str,
    endpoint_id: str,
    change: Callable[[EndpointDraft], EndpointDraft],
    *,
    epochs: Epochs,
    private: bool,
) -> Endpoint:
    """Make an endpoint what `change` makes of it.

    One that is disabled gets nothing: what is pending is cancelled. Enabled again, it gets the events from then on.
    """
    endpoint = await locked(work, institution_id, endpoint_id)
    draft = change(endpoint.draft)
    # A URL that is no longer taken can still be disabled: every attempt at it is refused anyway.
    is_moved, begins = draft.url != endpoint.url, draft.enabled and not endpoint.enabled
    check_draft(draft, private=private, with_url=is_moved or begins)
    changed = replace(
        endpoint,
        url=draft.url,
        description=draft.description,
        wanted=draft.wanted,
        updated_at=work.now,
        # What the former receiver did is no fault of this one.
        failing_since=None if is_moved else endpoint.failing_since,
    )
    if begins:
        # Disabling cancels so much at once and the follower the rest, none of which is to be sent now.
        if await _cancel(work, endpoint) >= CANCELLED_AT_ONCE_MAX:
            raise Invalid("what was pending is still being cancelled: try again later", "enabled")
        await store.lock_endpoints(work.connection, institution_id)
        head = await _head(work, institution_id, epochs)
        changed = replace(changed, enabled=True, disabled_reason=None, starts_after=head, failing_since=None)
    elif endpoint.enabled and not draft.enabled:
        changed = replace(changed, enabled=False, disabled_reason=DisabledReason.ASKED)
        await _cancel(work, endpoint)
    await store.update_endpoint(work.connection, institution_id, changed)
    await _record(work, Action.WEBHOOK_ENDPOINT_UPDATED, changed, _shown(changed))
    return changed


async def delete_endpoint(work: Work, institution_id: str, endpoint_id: str) -> Endpoint:
    """Remove an endpoint and its secrets; what is pending is cancelled, its deliveries can still be read."""
    endpoint = await locked(work, institution_id, endpoint_id)
    await store.delete_endpoint(work.connection, institution_id, endpoint_id, work.now)
    cancelled = await _cancel(work, endpoint)
    await _record(work, Action.WEBHOOK_ENDPOINT_DELETED, endpoint, {"cancelled": cancelled})
    return endpoint


async def disable(
    work: Work, institution_id: str, endpoint_id: str, reason: DisabledReason, url: str | None = None
) -> None:
    """Send nothing more until somebody enables the endpoint: it is gone (410), or has failed for too long.

    With `url` only while it is the endpoint's: what another receiver said before counts no more.
    """
    endpoint = await store.lock_endpoint(work.connection, institution_id, endpoint_id)
    if endpoint is None or not endpoint.enabled or url not in {None, endpoint.url}:
        return
    if reason is DisabledReason.FAILING and not has_failed_too_long(endpoint.failing_since, work.now):
        return  # it answered meanwhile
    disabled = replace(endpoint, enabled=False, disabled_reason=reason, updated_at=work.now)
    await store.update_endpoint(work.connection, institution_id, disabled)
    cancelled = await _cancel(work, endpoint)
    payload: Mapping[str, Json] = {"reason": reason, "cancelled": cancelled}
    await _record(work, Action.WEBHOOK_ENDPOINT_DISABLED, disabled, payload)


async def rotate_secret(
    work: Work, institution_id: str, endpoint_id: str, overlap: timedelta, *, vault: Vault
) -> Told:
    """Give an endpoint a new secret, in force at once; those before sign beside it until `overlap` is over."""
    if not timedelta(0) <= overlap <= OVERLAP_MAX:
        raise Invalid(
            f"the overlap is between 0 and {OVERLAP_MAX // timedelta(seconds=1)} seconds", "overlapSeconds"
        )
    endpoint = await locked(work, institution_id, endpoint_id)
    left = await store.end_secrets(work.connection, institution_id, endpoint_id, work.now, work.now + overlap)
    if left >= SECRETS_MAX:
        raise Invalid(
            f"at most {SECRETS_MAX} secrets sign at once: wait until one ends, or end them with an overlap of 0",
            "overlapSeconds",
        )
    secret = await _add_secret(work, endpoint, vault)
    payload: Mapping[str, Json] = {"overlapSeconds": overlap // timedelta(seconds=1)}
    await _record(work, Action.WEBHOOK_SECRET_ROTATED, endpoint, payload)
    return Told(endpoint, secret)


async def send_test(work: Work, institution_id: str, endpoint_id: str) -> Delivery:
    """Have a test sent to an endpoint, once: what comes of it is in the delivery."""
    endpoint = await locked(work, institution_id, endpoint_id)
    require_enabled(endpoint)
    delivery = Delivery(
        id=work.ids.new("whd"),
        institution_id=institution_id,
        endpoint_id=endpoint_id,
        event_id=None,
        position_id=None,
        sequence=None,
        state=DeliveryState.PENDING,
        attempts=0,
        next_attempt_at=work.now,
        last_status=None,
        last_error=None,
        last_response=None,
        last_attempt_at=None,
        delivered_at=None,
        created_at=work.now,
        updated_at=work.now,
    )
    await store.insert_test(work.connection, institution_id, delivery)
    await _record(work, Action.WEBHOOK_TEST_SENT, endpoint, {"deliveryId": delivery.id})
    return delivery


async def locked(work: Work, institution_id: str, endpoint_id: str) -> Endpoint:
    """The endpoint, which nobody else changes until the work is done."""
    endpoint = await store.lock_endpoint(work.connection, institution_id, endpoint_id)
    if endpoint is None:
        raise NotFound("webhook endpoint", "id")
    return endpoint


def check_draft(draft: EndpointDraft, *, private: bool, with_url: bool = True) -> None:
    """Refuse a URL that nothing is sent to, and what is too long or empty."""
    try:
        targets.check(draft.url, private=private or not with_url)
    except BadTarget as error:
        raise Invalid(str(error), "url") from None
    try:
        check_text(draft.description, length_max=DESCRIPTION_LENGTH_MAX, length_min=0)
    except BadText as error:
        raise Invalid(str(error), "description") from None
    for name, wanted in (("kinds", draft.wanted.kinds), ("states", draft.wanted.states)):
        if wanted is not None and not wanted:
            raise Invalid("an endpoint that wants nothing is of no use; leave it out for all", name)


async def fetch_endpoint(connection: "AsyncConnection", scope: str, endpoint_id: str) -> Endpoint | None:
    """The endpoint, if `scope` sees it."""
    return (await fetch_endpoints(connection, scope, [endpoint_id])).get(endpoint_id)


async def fetch_endpoints(
    connection: "AsyncConnection", scope: str, ids: Sequence[str]
) -> Mapping[str, Endpoint]:
    """Endpoints by id; what is not spelled like one is not there, nor is a deleted one."""
    return await queries.endpoints_by_id(connection, scope, [key for key in ids if is_id(key, "whe")])


async def fetch_deliveries(
    connection: "AsyncConnection", scope: str, ids: Sequence[str]
) -> Mapping[str, Delivery]:
    """Deliveries by id; what is not spelled like one is not there."""
    return await queries.deliveries_by_id(connection, scope, [key for key in ids if is_id(key, "whd")])


fetch_secrets = queries.secrets_each
page_endpoints = queries.page_endpoints
count_endpoints = queries.count_endpoints
page_deliveries = queries.page_deliveries
count_deliveries = queries.count_deliveries
page_deliveries_each = queries.page_deliveries_each
count_deliveries_each = queries.count_deliveries_each


async def _head(work: Work, institution_id: str, epochs: Epochs) -> int:
    return (await ledger.head(work.connection, institution_id, epochs)).sequence


async def _add_secret(work: Work, endpoint: Endpoint, vault: Vault) -> str:
    secret = secrets.token_bytes(signing.SECRET_BYTES)
    row = Secret(work.ids.new("whs"), endpoint.id, work.now, None)
    sealed = vault.seal(secret, place_of(endpoint.institution_id, endpoint.id, row.id))
    await store.insert_secret(work.connection, endpoint.institution_id, row, sealed)
    return signing.spell(secret)


async def _cancel(work: Work, endpoint: Endpoint) -> int:
    return await store.cancel(
        work.connection, endpoint.institution_id, endpoint.id, work.now, CANCELLED_AT_ONCE_MAX
    )


def require_enabled(endpoint: Endpoint) -> None:
    """Refuse what would send something to a disabled endpoint."""
    if not endpoint.enabled:
        raise Invalid(
            "the endpoint is disabled, so that nothing is sent to it: enable it first", "endpointId"
        )


def _shown(endpoint: Endpoint) -> Mapping[str, Json]:
    """What the audit keeps of an endpoint. Of the URL only the host: the rest may be somebody's secret."""
    wanted = endpoint.wanted
    return {
        "host": targets.host_of(targets.check(endpoint.url, private=True)),
        "kinds": None if wanted.kinds is None else [*wanted.kinds],
        "states": None if wanted.states is None else [*wanted.states],
        "enabled": endpoint.enabled,
    }


async def _record(work: Work, action: Action, endpoint: Endpoint, payload: Mapping[str, Json]) -> None:
    await audit.record(
        work,
        action=action,
        resource_type="webhookEndpoint",
        resource_id=endpoint.id,
        institution_id=endpoint.institution_id,
        payload=payload,
    )
