"""The mutation that erases a holder: their key is destroyed, and with it all that is known of them."""

from typing import Annotated

import strawberry

from app.audit.model import Action
from app.context import Info, may, only_institution
from app.engine.failures import UserError
from app.ledger.bell import Topic
from app.positions import service
from app.positions.inputs import EraseHolderInput
from app.principal import Scope

RESOURCE = "holder"


@strawberry.type(description="What became of a holder to erase.")
class EraseHolderPayload:
    """The answer of `eraseHolder`."""

    holder_id: strawberry.ID | None = strawberry.field(
        default=None,
        description="The id that stays of the holder, as the audit names them; null when it was refused.",
    )
    event_count: int | None = strawberry.field(
        default=None,
        description="Of how many events personal values were erased; null when it was refused.",
    )
    user_errors: list[UserError] = strawberry.field(
        default_factory=list, description="Why it was refused; empty when it was done."
    )


Which = Annotated[EraseHolderInput, strawberry.argument(description="Which holder.")]


@strawberry.type
class Mutation:
    """Writes on holders."""

    @strawberry.mutation(
        permission_classes=[may(Scope.HOLDERS_ERASE)],
        description="Erase a holder for good: the key that sealed their reference, and the reasons and metadata of "
        "their positions' events, is destroyed, and what it sealed with it. Positions, events, amounts and proofs stay "
        "as they are, with null where something personal was. Nobody can undo it.",
    )
    async def erase_holder(self, info: Info, input: Which) -> EraseHolderPayload:
        """Every process forgets what it kept of them."""
        context = info.context
        own = only_institution(context, None if input.institution_id is None else str(input.institution_id))

        async def attempt() -> EraseHolderPayload:
            async with context.working(own) as work:
                erased = await service.erase_holder(work, own, context.holders, input.holder_reference)
            # This process at once, the others by the bell.
            context.services.tell(Topic.HOLDERS)
            return EraseHolderPayload(holder_id=strawberry.ID(erased.holder_id), event_count=erased.events)

        return await context.answer(
            EraseHolderPayload, Action.HOLDER_ERASED, RESOURCE, attempt, institution_id=own
        )
