"""The ledger's cursor: epoch and sequence, opaque, exclusive, the same string wherever the ledger is followed."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import CursorInvalid
from app.kit.chain import digest
from app.kit.cursor import BadCursor, seal, unseal

ORDER = "ledger"
LOG_ID_LENGTH = 8
MARK_LENGTH = 8
SCOPE_MARK_LENGTH = LOG_ID_LENGTH + MARK_LENGTH
START_OVER = "read the state again with a query and subscribe from its ledgerHead cursor"


@dataclass(frozen=True, slots=True)
class Epochs:
    """The ledger's identity and what its restores left: for each scope and epoch, after which sequence it starts."""

    log_id: str
    current: int
    starts_after: Mapping[tuple[str, int], int]
    # What tells an epoch from the one of the same number that another restore of the same backup began. The first
    # has none: the ledger's id tells it.
    nonces: Mapping[int, str]

    @property
    def newest(self) -> tuple[int, str]:
        """The number of the present epoch, and what tells it from others of that number."""
        return self.current, self.nonces[self.current]

    def cursor(self, scope: str, sequence: int) -> str:
        """The cursor just behind `sequence` of `scope` (an institution, or * for the global order)."""
        return seal(ORDER, self._mark(scope) + self.nonces.get(self.current, ""), self.current, sequence)

    def place(self, scope: str, cursor: str, head: int) -> int:
        """The sequence to go on after; raises `CursorInvalid` when going on could skip or repeat an event."""
        try:
            mark, epoch, sequence = unseal(ORDER, cursor)
        except BadCursor as error:
            raise CursorInvalid(
                f"{error}; a ledger cursor comes from an edge, a payload or ledgerHead"
            ) from None
        except ValueError:
            raise CursorInvalid("the cursor is not one of the ledger's") from None
        if not isinstance(mark, str) or mark[:LOG_ID_LENGTH] != self.log_id[:LOG_ID_LENGTH]:
            raise CursorInvalid(f"the cursor belongs to another ledger; {START_OVER}")
        if mark[:SCOPE_MARK_LENGTH] != self._mark(scope):
            raise CursorInvalid(f"the cursor was made for another institution's key; {START_OVER}")
        if not isinstance(epoch, int) or not isinstance(sequence, int) or sequence < 0:
            raise CursorInvalid("the cursor is not one of the ledger's")
        return self._judge(scope, epoch, mark[SCOPE_MARK_LENGTH:], sequence, head)

    def _mark(self, scope: str) -> str:
        """Tells ledgers and scopes apart; short, so that a cursor fits into the reason a socket is closed with."""
        return self.log_id[:LOG_ID_LENGTH] + digest(f"{self.log_id}:{scope}".encode()).hex()[:MARK_LENGTH]

    def _judge(self, scope: str, epoch: int, nonce: str, sequence: int, head: int) -> int:
        if epoch > self.current:
            raise CursorInvalid(
                f"the cursor is from after the point this ledger was restored to; {START_OVER}"
            )
        if nonce != self.nonces.get(epoch):
            raise CursorInvalid(
                "the cursor is from a history that this ledger does not go on with: it was restored once more, or the "
                f"cursor is from an older version; {START_OVER}"
            )
        limits = [self.starts_after.get((scope, later), 0) for later in range(epoch + 1, self.current + 1)]
        if sequence > min([head, *limits]):
            raise CursorInvalid(
                f"the cursor is beyond the end of the ledger, which was restored to an earlier point; {START_OVER}"
            )
        return sequence
