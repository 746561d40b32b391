"""Waiting commands, taken round-robin by institution so that a flood from one delays another by one batch."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.errors import Overloaded, Problem, Unavailable
from app.kit.spans import Span
from app.ledger.writer.contract import Answer, Command

Outcome = list[Answer] | Problem

# While several institutions are at work a batch takes few commands of each, so that it is over soon: who comes
# meanwhile waits for the batch under way and for its own. Measured beside a flood, for a p99 of 9 to 13 ms without: of
# 256 commands some 180 ms, of 32 36 to 39 ms, of 12 21 to 26 ms, where the flood moves 1,500 and not 2,300 a second.
AT_WORK_SECONDS = 1.0
SHARE_MAX = 12
NOBODY: Counter[str] = Counter()

LATE = "this took too long; nothing was done, try again"
IN_DOUBT = "the outcome is not known yet; ask again with the same idempotency key, it will not act twice"


@dataclass(slots=True, eq=False)
class Submission:
    """Commands that are accepted or refused as one, and whoever waits for their answer."""

    commands: Sequence[Command]
    deadline: float
    answer: "asyncio.Future[Outcome]"
    # Ids of events of attempts whose commit may have happened: finding one later is not a replay.
    attempted: set[str] = field(default_factory=set)
    # When it first met a row that somebody else held.
    aside_since: float | None = None
    # While an attempt may still come to its commit.
    deciding: bool = False
    # Of whoever waits, where somebody traces it.
    span: Span | None = None

    @property
    def institution_id(self) -> str:
        """Whose turn it takes."""
        return self.commands[0].institution_id

    def settle(self, outcome: Outcome | BaseException) -> None:
        """Tell the one who waits; nobody may be waiting any more."""
        if self.answer.done():
            return
        if isinstance(outcome, BaseException):
            self.answer.set_exception(outcome)
            self.answer.exception()  # nobody may be left to look at it; that is no error of ours
        else:
            self.answer.set_result(outcome)

    def tell_late(self) -> None:
        """Tell that nothing was done, where that is certain: what is decided this moment may still be committed."""
        certain = not (self.attempted or self.deciding)
        self.settle(Unavailable(LATE if certain else IN_DOUBT))


class FairQueue:
    """Bounded; `take` gives at most `size` commands, one submission per institution and round."""

    def __init__(self, commands_max: int) -> None:
        self._commands_max = commands_max
        self._waiting: OrderedDict[str, deque[Submission]] = OrderedDict()
        self._counts: dict[str, int] = {}
        # When each institution last put something, the longest ago first.
        self._heard: OrderedDict[str, float] = OrderedDict()
        self._total = 0
        self._filled = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return self._total

    def put(self, submission: Submission, beside: Counter[str] = NOBODY) -> None:
        """Join the queue; raises `Overloaded` when it is full and this institution has its share of it.

        What waits elsewhere, `beside` by institution, counts as if it waited here.
        """
        mine = submission.institution_id
        size = len(submission.commands)
        total = self._total + beside.total() + size
        crowded = total > self._commands_max and self._counts.get(mine, 0) + beside[mine] + size > (
            self._commands_max // len(self._counts.keys() | beside.keys() | {mine})
        )
        if crowded or total > 2 * self._commands_max:
            raise Overloaded("too many commands are waiting; nothing was done, try again in a moment")
        self._waiting.setdefault(mine, deque()).append(submission)
        self._counts[mine] = self._counts.get(mine, 0) + size
        self._total += size
        self._heard[mine] = asyncio.get_running_loop().time()
        self._heard.move_to_end(mine)
        self._filled.set()

    def close(self) -> None:
        """Nothing will be put any more: who waits need not."""
        self._closed = True
        self._filled.set()

    async def wait(self) -> None:
        """Until something waits, or nothing ever will."""
        await self._filled.wait()

    def take(self, size: int) -> list[Submission]:
        """The next batch, in the order it is decided; a larger submission than `size` comes alone."""
        taken: list[Submission] = []
        count, share = 0, self._share(size)
        of: Counter[str] = Counter()
        while self._waiting:
            institution_id, line = next(iter(self._waiting.items()))
            need = len(line[0].commands)
            if taken and (count + need > size or of[institution_id] >= share):
                break
            taken.append(line.popleft())
            count += need
            of[institution_id] += need
            self._leave(institution_id, need)
            if count >= size:
                break
        if not self._waiting and not self._closed:
            self._filled.clear()
        return taken

    def _share(self, size: int) -> int:
        """How many commands of one institution make a batch: fewer while others are at work, even if none waits now."""
        since = asyncio.get_running_loop().time() - AT_WORK_SECONDS
        while self._heard and next(iter(self._heard.values())) < since:
            self._heard.popitem(last=False)
        return min(size, SHARE_MAX) if len(self._heard) > 1 else size

    def _leave(self, institution_id: str, size: int) -> None:
        self._total -= size
        self._counts[institution_id] -= size
        if self._waiting[institution_id]:
            self._waiting.move_to_end(institution_id)
        else:
            del self._waiting[institution_id], self._counts[institution_id]
