"""Whether the process is alive, and whether it is any use at this moment."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.http.wire import answer

log = logging.getLogger("escrowgrid.http")

KEPT_SECONDS = 1.0
CHECK_SECONDS_MAX = 3.0

STOPPED = "the {} has stopped by itself: the log says why; start this process again"
REASONS = {
    "database": "the database does not answer",
    "tail": STOPPED.format("tail"),
    "writer": STOPPED.format("writer"),
    "accepting": "the server is shutting down",
    "answered_in_time": "the checks did not end in time",
    "checked": "the checks failed: see the log",
}

Ready = Callable[[], Awaitable[Mapping[str, bool]]]


class Readiness:
    """Asks what is ready at most once a second, however many ask."""

    def __init__(self, ready: Ready) -> None:
        self._ready = ready
        self._turn = asyncio.Lock()
        self._found: Mapping[str, bool] = {}
        self._until = 0.0

    async def checks(self) -> Mapping[str, bool]:
        """Each part by name and whether it is ready."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            if loop.time() >= self._until:
                self._found = await self._ask()
                self._until = loop.time() + KEPT_SECONDS
        return self._found

    async def _ask(self) -> Mapping[str, bool]:
        try:
            async with asyncio.timeout(CHECK_SECONDS_MAX):
                return dict(await self._ready())
        except TimeoutError:
            return {"answered_in_time": False}
        except Exception:
            log.exception("the readiness check failed")
            return {"checked": False}


def routes(ready: Ready, draining: Callable[[], bool]) -> list[Route]:
    """`/health` and `/ready`."""
    readiness = Readiness(ready)

    async def health(_: Request) -> Response:
        return answer({"status": "alive"})

    async def readied(_: Request) -> Response:
        checks = {**await readiness.checks(), "accepting": not draining()}
        told: dict[str, object] = {"ready": all(checks.values()), "checks": checks}
        if not told["ready"]:
            told["reasons"] = [REASONS.get(part, part) for part, is_well in checks.items() if not is_well]
        return answer(told, status=200 if told["ready"] else 503)

    return [Route("/health", health), Route("/ready", readied)]
