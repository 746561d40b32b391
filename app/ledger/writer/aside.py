"""Commands on rows that somebody else holds: tried again apart, row by row, so that a stuck one stalls nobody."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from app.errors import Unavailable
from app.kit.tasks import begin
from app.ledger.writer.queue import IN_DOUBT, Submission

# Connections at once, whatever the number of rows.
SIDE_LANES_MAX = 3
PAUSE_SECONDS = 0.02
PAUSE_SECONDS_MAX = 0.25


class Aside:
    """A lane for each held row. Between tries nothing is held: neither a connection nor the other rows of a list."""

    def __init__(
        self,
        attempt: Callable[[Sequence[Submission]], Awaitable[bool]],
        give_up: Callable[[Submission], bool],
    ) -> None:
        """`attempt` is False when the row is held still; `give_up` tells a submission so when it waited enough."""
        self._attempt = attempt
        self._give_up = give_up
        self._turns = asyncio.Semaphore(SIDE_LANES_MAX)
        self._lanes: dict[str, list[Submission]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Commands waiting here, by institution.
        self.waiting: Counter[str] = Counter()

    def __len__(self) -> int:
        """Commands waiting here."""
        return self.waiting.total()

    def put(self, row: str, submission: Submission) -> None:
        """Have it tried again until the row is free."""
        if submission.aside_since is None:
            submission.aside_since = asyncio.get_running_loop().time()
        self.waiting[submission.institution_id] += len(submission.commands)
        lane = self._lanes.get(row)
        if lane is not None:
            lane.append(submission)
            return
        lane = self._lanes[row] = [submission]
        # By the lane and not by its row: that may have another one by the time that this one's end is heard of.
        task = begin(
            self._work(row, lane),
            "ledger-side-lane",
            over=lambda: self._lanes.get(row) is not lane,
            stopped=lambda: self._lost(row, lane),
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Until every lane is empty."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _work(self, row: str, lane: list[Submission]) -> None:
        pause = PAUSE_SECONDS
        while True:
            async with self._turns:
                trying = [one for one in lane if not one.answer.done() and not self._give_up(one)]
                self._leave(one for one in lane if one not in trying)
                lane[:] = trying
                if trying and await self._attempt(trying):
                    self._leave(trying)
                    del lane[: len(trying)]
            if not lane:
                break
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, PAUSE_SECONDS_MAX)
        del self._lanes[row]

    def _lost(self, row: str, lane: list[Submission]) -> None:
        """Its lane has stopped by itself: whoever waits there is told, and the next one has a new lane."""
        del self._lanes[row]
        self._leave(lane)
        for one in lane:
            one.settle(Unavailable(IN_DOUBT))

    def _leave(self, submissions: Iterable[Submission]) -> None:
        for one in submissions:
            self.waiting[one.institution_id] -= len(one.commands)
        # Without those that have none left: the counter stays as small as what waits.
        self.waiting += Counter()
