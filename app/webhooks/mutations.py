"""The mutations that make, change and remove webhook endpoints, and send things to them."""

from datetime import timedelta
from typing import Annotated

import strawberry

from app.audit.model import Action
from app.context import Context, Info, may, only_institution
from app.engine.failures import UserError
from app.engine.roles import Scope
from app.engine.scalars import Long
from app.errors import NotFound
from app.webhooks import replays, service
from app.webhooks.inputs import (
    CreateWebhookEndpointInput,
    DeleteWebhookEndpointInput,
    ReplayWebhooksInput,
    RotateWebhookSecretInput,
    SendTestWebhookInput,
    UpdateWebhookEndpointInput,
)
from app.webhooks.types import WebhookDelivery, WebhookEndpoint

RESOURCE = "webhookEndpoint"
_ERRORS = "Why it was refused; empty when it was done."
_ENDPOINT = "The endpoint; null when it was refused."
_SECRET = (
    "The signing secret (whsec_…), told this once: keep it where the receiver verifies signatures. Nobody can tell it "  # noqa: S105 - a description
    "again; null when it was refused."
)
WRITES = [may(Scope.WEBHOOKS_WRITE)]


@strawberry.type(description="What became of an endpoint, without a secret.")
class WebhookEndpointPayload:
    """The answer of `updateWebhookEndpoint`."""

    endpoint: WebhookEndpoint | None = strawberry.field(default=None, description=_ENDPOINT)
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)


@strawberry.type(description="An endpoint with its new secret.")
class WebhookSecretPayload:
    """The answer of `createWebhookEndpoint` and `rotateWebhookSecret`."""

    endpoint: WebhookEndpoint | None = strawberry.field(default=None, description=_ENDPOINT)
    secret: str | None = strawberry.field(default=None, description=_SECRET)
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)

    def __repr__(self) -> str:
        return f"WebhookSecretPayload(endpoint={self.endpoint!r}, user_errors={self.user_errors!r})"


@strawberry.type(description="What became of an endpoint to delete.")
class DeleteWebhookEndpointPayload:
    """The answer of `deleteWebhookEndpoint`."""

    deleted_id: strawberry.ID | None = strawberry.field(
        default=None, description="The id of the endpoint that is no more; null when it was refused."
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)


@strawberry.type(description="The test that is on its way.")
class SendTestWebhookPayload:
    """The answer of `sendTestWebhook`."""

    delivery: WebhookDelivery | None = strawberry.field(
        default=None,
        description="The delivery, pending: read it again to see what came of it; null when it was refused.",
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)


@strawberry.type(description="What is sent again.")
class ReplayWebhooksPayload:
    """The answer of `replayWebhooks`."""

    endpoint: WebhookEndpoint | None = strawberry.field(default=None, description=_ENDPOINT)
    delivery_count: int | None = strawberry.field(
        default=None, description="How many deliveries are pending now; null when it was refused."
    )
    through_sequence: Long | None = strawberry.field(
        default=None,
        description="The last event looked at, by its number in the institution's ledger; null for none.",
    )
    has_more: bool | None = strawberry.field(
        default=None,
        description="Whether the range was too long for once: go on with throughSequence as afterSequence.",
    )
    user_errors: list[UserError] = strawberry.field(default_factory=list, description=_ERRORS)


New = Annotated[CreateWebhookEndpointInput, strawberry.argument(description="The endpoint to make.")]
Changes = Annotated[UpdateWebhookEndpointInput, strawberry.argument(description="What to change.")]
Which = Annotated[DeleteWebhookEndpointInput, strawberry.argument(description="Which endpoint.")]
Rotation = Annotated[RotateWebhookSecretInput, strawberry.argument(description="Whose secret.")]
Test = Annotated[SendTestWebhookInput, strawberry.argument(description="Which endpoint.")]
Replay = Annotated[ReplayWebhooksInput, strawberry.argument(description="Which endpoint, and what.")]


@strawberry.type
class Mutation:
    """Writes of this slice."""

    @strawberry.mutation(
        permission_classes=WRITES,
        description="Make a webhook endpoint. Its signing secret is in the answer, this once.",
    )
    async def create_webhook_endpoint(self, info: Info, input: New) -> WebhookSecretPayload:
        """One transaction with its audit row."""
        context = info.context
        services = context.services

        async def attempt() -> WebhookSecretPayload:
            institution_id = only_institution(context, input.institution_id)
            async with context.working(institution_id) as work:
                told = await service.create_endpoint(
                    work,
                    institution_id,
                    input.draft(),
                    vault=services.vault,
                    epochs=services.tail.epochs,
                    private=services.settings.webhook_allow_private,
                )
            return WebhookSecretPayload(endpoint=WebhookEndpoint.of(told.endpoint), secret=told.secret)

        return await context.answer(
            WebhookSecretPayload,
            Action.WEBHOOK_ENDPOINT_CREATED,
            RESOURCE,
            attempt,
            institution_id=input.institution_id,
        )

    @strawberry.mutation(
        permission_classes=WRITES, description="Change, enable or disable a webhook endpoint."
    )
    async def update_webhook_endpoint(self, info: Info, input: Changes) -> WebhookEndpointPayload:
        """One transaction with its audit row."""
        context, endpoint_id = info.context, str(input.id)
        services = context.services

        async def attempt() -> WebhookEndpointPayload:
            institution_id = await _owner(context, endpoint_id, "id")
            async with context.working(institution_id) as work:
                changed = await service.update_endpoint(
                    work,
                    institution_id,
                    endpoint_id,
                    input.changed,
                    epochs=services.tail.epochs,
                    private=services.settings.webhook_allow_private,
                )
            return WebhookEndpointPayload(endpoint=WebhookEndpoint.of(changed))

        return await context.answer(
            WebhookEndpointPayload,
            Action.WEBHOOK_ENDPOINT_UPDATED,
            RESOURCE,
            attempt,
            resource_id=endpoint_id,
        )

    @strawberry.mutation(
        permission_classes=WRITES,
        description="Delete a webhook endpoint and its secrets. What is pending is cancelled; its deliveries can "
        "still be read.",
    )
    async def delete_webhook_endpoint(self, info: Info, input: Which) -> DeleteWebhookEndpointPayload:
        """One transaction with its audit row."""
        context, endpoint_id = info.context, str(input.id)

        async def attempt() -> DeleteWebhookEndpointPayload:
            institution_id = await _owner(context, endpoint_id, "id")
            async with context.working(institution_id) as work:
                await service.delete_endpoint(work, institution_id, endpoint_id)
            return DeleteWebhookEndpointPayload(deleted_id=input.id)

        return await context.answer(
            DeleteWebhookEndpointPayload,
            Action.WEBHOOK_ENDPOINT_DELETED,
            RESOURCE,
            attempt,
            resource_id=endpoint_id,
        )

    @strawberry.mutation(
        permission_classes=WRITES,
        description="Give an endpoint a new signing secret, which is in the answer, this once. It signs at once; those "
        "until now sign beside it until the overlap is over.",
    )
    async def rotate_webhook_secret(self, info: Info, input: Rotation) -> WebhookSecretPayload:
        """One transaction with its audit row."""
        context, endpoint_id = info.context, str(input.endpoint_id)
        overlap = timedelta(seconds=input.overlap_seconds)

        async def attempt() -> WebhookSecretPayload:
            institution_id = await _owner(context, endpoint_id)
            async with context.working(institution_id) as work:
                told = await service.rotate_secret(
                    work, institution_id, endpoint_id, overlap, vault=context.services.vault
                )
            return WebhookSecretPayload(endpoint=WebhookEndpoint.of(told.endpoint), secret=told.secret)

        return await context.answer(
            WebhookSecretPayload, Action.WEBHOOK_SECRET_ROTATED, RESOURCE, attempt, resource_id=endpoint_id
        )

    @strawberry.mutation(
        permission_classes=WRITES,
        description='Send {"type": "webhook.test"} to an endpoint, once. The answer does not wait for it.',
    )
    async def send_test_webhook(self, info: Info, input: Test) -> SendTestWebhookPayload:
        """One transaction with its audit row."""
        context, endpoint_id = info.context, str(input.endpoint_id)

        async def attempt() -> SendTestWebhookPayload:
            institution_id = await _owner(context, endpoint_id)
            async with context.working(institution_id) as work:
                delivery = await service.send_test(work, institution_id, endpoint_id)
            return SendTestWebhookPayload(delivery=WebhookDelivery.of(delivery))

        return await context.answer(
            SendTestWebhookPayload, Action.WEBHOOK_TEST_SENT, RESOURCE, attempt, resource_id=endpoint_id
        )

    @strawberry.mutation(
        permission_classes=WRITES,
        description="Send a part of the ledger to an endpoint again, in order, under the same webhook-ids: what was "
        "delivered, failed or cancelled, and what was never queued for it.",
    )
    async def replay_webhooks(self, info: Info, input: Replay) -> ReplayWebhooksPayload:
        """One transaction with its audit row."""
        context, endpoint_id = info.context, str(input.endpoint_id)

        async def attempt() -> ReplayWebhooksPayload:
            institution_id = await _owner(context, endpoint_id)
            async with context.working(institution_id) as work:
                done = await replays.replay(
                    work,
                    institution_id,
                    endpoint_id,
                    input.range(),
                    epochs=context.services.tail.epochs,
                    scope=context.scope,
                    undelivered_only=input.undelivered_only,
                )
            return ReplayWebhooksPayload(
                endpoint=WebhookEndpoint.of(done.endpoint),
                delivery_count=done.deliveries,
                through_sequence=None if done.through_sequence is None else Long(done.through_sequence),
                has_more=done.is_more,
            )

        return await context.answer(
            ReplayWebhooksPayload, Action.WEBHOOKS_REPLAYED, RESOURCE, attempt, resource_id=endpoint_id
        )


async def _owner(context: Context, endpoint_id: str, field: str = "endpointId") -> str:
    """Whose endpoint it is; another institution's is as if it were not there."""
    async with context.reading() as reading:
        found = await service.fetch_endpoint(reading, context.scope, endpoint_id)
    if found is None:
        raise NotFound("webhook endpoint", field)
    return found.institution_id
