"""How a mutation tells that it was refused: `userErrors`, each with a code that programs match."""

import strawberry

from app.engine.enums import describe
from app.errors import ErrorCode, Problem

describe(
    ErrorCode,
    "Why a mutation was refused. Nothing was written.",
    {
        ErrorCode.VALIDATION_FAILED: "A value of the input is malformed; `field` names it.",
        ErrorCode.NOT_FOUND: "There is no such thing, or it is another institution's: both read the same.",
        ErrorCode.VERSION_CONFLICT: "It was changed since it was read: read it again, then decide.",
        ErrorCode.IDEMPOTENCY_CONFLICT: "This idempotency key was used before with another input.",
        ErrorCode.DUPLICATE_REFERENCE: "The institution already has a position with this external reference.",
        ErrorCode.DUPLICATE_NAME: "The institution already uses this name.",
        ErrorCode.TRANSITION_NOT_ALLOWED: "The lifecycle has no such transition from where the position is.",
        ErrorCode.INSUFFICIENT_HELD: "The amount is more than what is held.",
        ErrorCode.POSITION_EXPIRED: "The position's time is over: only its expiry is accepted.",
        ErrorCode.TRY_AGAIN: "This item of a list was not settled in time: repeat it with the same "
        "idempotency key.",
        ErrorCode.POLICY_REFUSED: "The institution's policy for this region says no; the message says why.",
        ErrorCode.TEMPLATE_REFUSED: "The template of the asset says no; the message says why.",
        ErrorCode.ROLE_REFUSED: "The role, the scopes or the time of this key do not reach that far.",
        ErrorCode.BATCH_REFUSED: "Another item of an atomic list was refused, so none of it was done.",
    },
)


@strawberry.type(description="One reason why a mutation was refused.")
class UserError:
    """A refusal as the client sees it."""

    code: ErrorCode = strawberry.field(description="What kind of refusal this is, for programs.")
    message: str = strawberry.field(description="The reason in words, for people; the wording may change.")
    field: str | None = strawberry.field(
        default=None,
        description="The part of the input it is about, such as label; null for the whole.",
    )

    @classmethod
    def of(cls, problem: Problem) -> "UserError":
        """The error that tells `problem`."""
        return cls(code=problem.code, message=problem.message, field=problem.field)
