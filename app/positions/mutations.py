"""The mutations that open and move positions."""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Annotated

import strawberry

from app.audit.model import Action
from app.context import Context, Info, may
from app.engine.failures import UserError
from app.engine.limits import KEYED_BY_HEADER
from app.errors import BadRequest, Denied, ErrorCode, NotFound, Problem, Refusal
from app.ledger.model import Effect
from app.ledger.ring import place
from app.ledger.types import LedgerEvent
from app.ledger.writer import LIST_TAKEN, Answer, Command
from app.positions import lists, reads, service
from app.positions.inputs import (
    CreatePositionInput,
    CreatePositionsInput,
    MovePositionInput,
    ReleasePositionInput,
    TransitionPositionInput,
    TransitionPositionsInput,
)
from app.positions.lifecycle import Intent
from app.positions.model import State
from app.positions.service import Asker, Move, Opening
from app.positions.types import Position
from app.principal import Scope

RESOURCE = "position"


@strawberry.type(description="What became of a command on a position.")
class PositionPayload:
    """The answer of one command."""

    position: Position | None = strawberry.field(
        default=None, description="The position as the event left it; null when the command was refused."
    )
    event: LedgerEvent | None = strawberry.field(
        default=None, description="The event that the command made; null when it was refused."
    )
    cursor: str | None = strawberry.field(
        default=None, description="The event's ledger cursor: wait for it in a stream, or resume after it."
    )
    replayed: bool = strawberry.field(
        default=False, description="Whether it had been done before under the same idempotency key."
    )
    user_errors: list[UserError] = strawberry.field(
        default_factory=list, description="Why it was refused; empty when it was done."
    )


@strawberry.type(description="What became of each item of a list.")
class PositionsPayload:
    """The answers of several commands."""

    results: list[PositionPayload] = strawberry.field(
        default_factory=list,
        description="One for each item, in the order of the input; empty when all were refused.",
    )
    user_errors: list[UserError] = strawberry.field(
        default_factory=list,
        description="Why the whole list was refused; empty when each item has its own answer.",
    )


Item = Annotated[CreatePositionInput, strawberry.argument(description="The terms of the position.")]
Items = Annotated[CreatePositionsInput, strawberry.argument(description="The positions to open.")]
Which = Annotated[MovePositionInput, strawberry.argument(description="Which position, and why.")]
Release = Annotated[
    ReleasePositionInput, strawberry.argument(description="Which position, and how much of it.")
]
Transition = Annotated[
    TransitionPositionInput, strawberry.argument(description="Which position, and where to.")
]
Transitions = Annotated[TransitionPositionsInput, strawberry.argument(description="The transitions to take.")]
MOVES = [may(Scope.POSITIONS_MOVE)]
# The Idempotency-Key header names their commands.
KEYED = {KEYED_BY_HEADER: True}


@strawberry.type
class Mutation:
    """Everything that changes a position passes the ledger's writer."""

    @strawberry.mutation(
        permission_classes=MOVES,
        metadata=KEYED,
        description="Open a position on an asset. No money moves yet.",
    )
    async def create_position(self, info: Info, input: Item) -> PositionPayload:
        """One position."""
        return await _create(info.context, input.opening(_header_key(info)))

    @strawberry.mutation(
        permission_classes=MOVES,
        metadata=KEYED,
        description="Open positions, each for itself: one refused takes no other down.",
    )
    async def create_positions(self, info: Info, input: Items) -> PositionsPayload:
        """Up to `batch_items_max` positions, decided together."""
        context, key = info.context, _header_key(info)
        problem = _too_many(context, len(input.items))
        if problem is not None:
            return PositionsPayload(user_errors=[UserError.of(problem)])
        openings = [item.opening(lists.item_key(key, place)) for place, item in enumerate(input.items)]

        async def attempt() -> PositionsPayload:
            return await _each(_create(context, one, item=True) for one in lists.named(key, openings))

        return await context.answer(PositionsPayload, Action.POSITION_CREATED, RESOURCE, attempt)

    @strawberry.mutation(
        permission_classes=MOVES, metadata=KEYED, description="The whole amount has come in: hold it."
    )
    async def fund_position(self, info: Info, input: Which) -> PositionPayload:
        """CREATED → FUNDED."""
        return await _move(
            info.context, input.move("fundPosition", Intent(effect=Effect.FUND), _header_key(info))
        )

    @strawberry.mutation(
        permission_classes=MOVES,
        metadata=KEYED,
        description="Release held money to the beneficiary: a part of it any number of times, or all that is held.",
    )
    async def release_position(self, info: Info, input: Release) -> PositionPayload:
        """→ PARTIALLY_RELEASED or RELEASED."""
        intent = Intent(effect=Effect.RELEASE, amount=input.amount)
        return await _move(info.context, input.move("releasePosition", intent, _header_key(info)))

    @strawberry.mutation(
        permission_classes=MOVES,
        metadata=KEYED,
        description="Call it off: what is held goes back to the funder.",
    )
    async def cancel_position(self, info: Info, input: Which) -> PositionPayload:
        """→ CANCELLED."""
        intent = Intent(state=State.CANCELLED)
        return await _move(info.context, input.move("cancelPosition", intent, _header_key(info)))

    @strawberry.mutation(
        permission_classes=MOVES,
        metadata=KEYED,
        description="Let it expire, whatever its deadline: what is held goes back to the funder. A deadline that "
        "passes does this by itself; the event's `evidence` says whether it had.",
    )
    async def expire_position(self, info: Info, input: Which) -> PositionPayload:
        """→ EXPIRED."""
        intent = Intent(state=State.EXPIRED)
        return await _move(info.context, input.move("expirePosition", intent, _header_key(info)))

    @strawberry.mutation(
        permission_classes=MOVES, metadata=KEYED, description="Take any transition that the lifecycle offers."
    )
    async def transition_position(self, info: Info, input: Transition) -> PositionPayload:
        """The general form."""
        return await _move(info.context, input.move("transitionPosition", input.intent(), _header_key(info)))

    @strawberry.mutation(
        permission_classes=MOVES,
        metadata=KEYED,
        description="Take several transitions, each for itself or (atomic) all or none.",
    )
    async def transition_positions(self, info: Info, input: Transitions) -> PositionsPayload:
        """Up to `batch_items_max` transitions."""
        context, key = info.context, _header_key(info)
        problem = _too_many(context, len(input.items))
        if problem is not None:
            return PositionsPayload(user_errors=[UserError.of(problem)])
        moves = [
            item.move("transitionPosition", item.intent(), lists.item_key(key, place))
            for place, item in enumerate(input.items)
        ]

        async def attempt() -> PositionsPayload:
            named = lists.named(key, moves, atomic=input.atomic)
            if input.atomic:
                return await _move_all(context, named)
            return await _each(_move(context, move, item=True) for move in named)

        return await context.answer(PositionsPayload, Action.POSITION_TRANSITIONED, RESOURCE, attempt)


async def _create(context: Context, opening: Opening, *, item: bool = False) -> PositionPayload:
    async def attempt() -> PositionPayload:
        services = context.services
        pair = await services.assets.get(services.database, context.scope, opening.asset_id)
        return _told(
            context,
            await services.writer.submit(service.create(_asker(context), opening, pair), context.meter.span),
        )

    if item:
        return await _item(context, Action.POSITION_CREATED, attempt)
    return await context.answer(PositionPayload, Action.POSITION_CREATED, RESOURCE, attempt)


async def _move(context: Context, move: Move, *, item: bool = False) -> PositionPayload:
    async def attempt() -> PositionPayload:
        return _told(
            context, await context.services.writer.submit(await _command(context, move), context.meter.span)
        )

    if item:
        return await _item(context, Action.POSITION_TRANSITIONED, attempt, move.position_id)
    return await context.answer(
        PositionPayload, Action.POSITION_TRANSITIONED, RESOURCE, attempt, resource_id=move.position_id
    )


async def _each(items: Iterable[Awaitable[PositionPayload]]) -> PositionsPayload:
    # When one says that the list's key is taken, nothing of the list is done: still each is waited for.
    found = await asyncio.gather(*items, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return PositionsPayload(results=[one for one in found if isinstance(one, PositionPayload)])


async def _move_all(context: Context, moves: Sequence[Move]) -> PositionsPayload:
    commands: list[Command] = []
    for place_, move in enumerate(moves):
        try:
            commands.append(await _command(context, move))
        except Refusal as refusal:
            at = f"items.{place_}" + (f".{refusal.field}" if refusal.field else "")
            raise Refusal(refusal.problem.code, refusal.message, at) from None
    answers = await context.services.writer.submit_all(commands, context.meter.span)
    return PositionsPayload(results=[_told(context, answer) for answer in answers])


async def _item(context: Context, action: Action, attempt, resource_id: str | None = None) -> PositionPayload:  # type: ignore[no-untyped-def]
    """One item of a list: whatever happens to it is its own answer, unless it is of the whole list."""
    try:
        found: PositionPayload = await attempt()
    except Refusal as refusal:
        if refusal.problem == LIST_TAKEN:
            raise
        context.note_refusal(action, RESOURCE, refusal.code, field=refusal.field, resource_id=resource_id)
        return PositionPayload(user_errors=[UserError.of(refusal.problem)])
    except Denied as denied:
        context.refusals.append(ErrorCode.TRY_AGAIN)
        return PositionPayload(user_errors=[UserError.of(Problem(ErrorCode.TRY_AGAIN, denied.message))])
    return found


async def _command(context: Context, move: Move) -> Command:
    own = context.principal.institution_id
    return service.move(_asker(context), move, own or await _owner(context, move.position_id))


async def _owner(context: Context, position_id: str) -> str:
    """Whose position it is, for root, who names none."""
    async with context.reading() as reading:
        found = (await reads.fetch_many(reading, context.scope, context.holders, [position_id])).get(
            position_id
        )
    await context.renew()
    if found is None:
        raise NotFound("position", "id")
    return found.institution_id


def _asker(context: Context) -> Asker:
    services = context.services
    return Asker(context.principal, context.request.id, services.clock(), services.ids, services.lifecycles)


def _told(context: Context, answer: Answer) -> PositionPayload:
    scope = context.scope
    return PositionPayload(
        position=Position.of(answer.row.position),
        event=LedgerEvent.of(answer.event, context),
        cursor=context.services.tail.epochs.cursor(scope, place(scope, answer.event)),
        replayed=answer.replayed,
    )


def _header_key(info: Info) -> str | None:
    key = info.context.request.idempotency_key
    if key is not None and len(info.operation.selection_set.selections) > 1:
        raise BadRequest(
            "the Idempotency-Key header serves a document with one mutation; give each its idempotencyKey"
        )
    return key


def _too_many(context: Context, count: int) -> Problem | None:
    limit = context.services.settings.batch_items_max
    if 1 <= count <= limit:
        return None
    return Problem(ErrorCode.VALIDATION_FAILED, f"a list has between 1 and {limit} items", "items")
