"""How uvicorn serves the application: sockets are let go one after the other before it shuts down."""

import asyncio
import ctypes
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from app.http import noise
from app.http.live import Live
from app.http.patience import Config
from app.settings import Settings

log = logging.getLogger("escrowgrid.http")

GRACE_SECONDS_MAX = 20
# Longer than the minute after which proxies let go of an idle connection: who closes first must not be we.
KEEP_ALIVE_SECONDS = 75
# When Python looks for rings of objects that nobody holds any more: after so many new objects, and the older ones after
# so many such looks. Its own choice (700, 10, 10) is for scripts: a third of a mutation's CPU went into looking.
COLLECTING = (20_000, 10, 10)
# glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, in bytes: how much may be free at the end of the heap, and from what
# size on a block is a mapping of its own, which is gone once it is freed.
RETURNING = {-1: 4 * 2**20, -3: 128 * 2**10}


class Server(uvicorn.Server):
    """Drains live connections before uvicorn would close them all at once, without a word about resuming."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_started` is called once it listens; `check` before, when signals are its own, and may raise."""
        super().__init__(config)
        self._on_started = on_started
        self._check = check

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self._check()
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connections, let go of the open ones spread over a moment, then shut down."""
        for server in self.servers:
            server.close()
        live = live_of(self.config.loaded_app)
        if live is not None and not self.force_exit:
            log.info("closing %d live connections", len(live))
            await live.drain()
        await super().shutdown(sockets)


@contextmanager
def draining(live: Live) -> Iterator[None]:
    """For the length of the block, a signal to stop first drains, whichever server or worker got it.

    What was to happen then happens after; a second signal does not wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    kept = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}
    tasks: set[asyncio.Task[None]] = set()

    def drain(sign: int, frame: FrameType | None) -> None:
        task = loop.create_task(live.drain())
        tasks.add(task)
        task.add_done_callback(lambda _: stop(sign, frame))

    def stop(sign: int, frame: FrameType | None) -> None:
        then = kept[signal.Signals(sign)]
        assert callable(then), "only what a server handles was taken over"
        then(sign, frame)

    def handle(sign: int, frame: FrameType | None) -> None:
        if live.draining:
            stop(sign, frame)
        else:
            loop.call_soon_threadsafe(drain, sign, frame)

    taken = [sign for sign, then in kept.items() if callable(then)]
    for sign in taken:
        signal.signal(sign, handle)
    try:
        yield
    finally:
        for sign in taken:
            signal.signal(sign, kept[sign])


def config(app: Any, settings: Settings, **options: Any) -> Config:
    """The configuration of uvicorn: our own log, proxies, pings and limits instead of its own."""
    noise.sample()
    return Config(
        app,
        request_seconds_max=settings.request_seconds_max,
        header_bytes_max=settings.header_bytes_max,
        **{
            "host": settings.host,
            "port": settings.port,
            "ws": "websockets-sansio",
            "ws_max_size": settings.frame_bytes_max,
            # The protocol's own pings tell dead peers; a second clock would cut slow ones off too early.
            "ws_ping_interval": None,
            "ws_per_message_deflate": False,
            "proxy_headers": False,
            "server_header": False,
            "access_log": False,
            "log_config": None,
            "timeout_keep_alive": KEEP_ALIVE_SECONDS,
            "timeout_graceful_shutdown": GRACE_SECONDS_MAX,
            **options,
        },
    )


def settle_memory() -> None:
    """To be called once the application is made: what is there now stays, and is not looked through for garbage.

    What comes later and goes is given back.
    """
    return_memory()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTING)


def return_memory() -> bool:
    """Have free memory go back to the machine at once. False where the libc cannot be told so.

    Left alone, glibc raises both thresholds with every large block that is freed, and keeps ever more for itself.
    """
    libc = ctypes.CDLL(None)
    # musl and macOS have none.
    if not hasattr(libc, "mallopt"):
        return False
    taken = [libc.mallopt(option, value) for option, value in RETURNING.items()]
    return all(taken)


def live_of(app: Any) -> Live | None:
    """The live connections of an application, beneath whatever uvicorn wrapped around it."""
    while app is not None and not hasattr(app, "state"):
        app = getattr(app, "app", None)
    found = getattr(getattr(app, "state", None), "live", None)
    return found if isinstance(found, Live) else None
