"""The bell by Redis: PUBLISH on one connection, SUBSCRIBE on another that mends itself."""

import asyncio
import logging
from typing import Any

from broadcaster import Event as Ring
from broadcaster._backends.base import BroadcastBackend
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.ledger.bell import CHANNEL, CONNECT_TIMEOUT_SECONDS, PROBE_SECONDS, RECONNECTED

log = logging.getLogger("escrowgrid.bell")

PAUSE_SECONDS = 0.5


class RedisBell(BroadcastBackend):
    """Broadcaster's own begins to listen before it has subscribed, and then never hears anything."""

    def __init__(self, url: str) -> None:
        self._redis: Redis = Redis.from_url(
            url, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS, health_check_interval=int(PROBE_SECONDS)
        )
        self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        self._subscribed = asyncio.Event()

    async def connect(self) -> None:
        """Raises when Redis cannot be reached."""
        await self._redis.execute_command("PING")  # type: ignore[no-untyped-call]

    async def disconnect(self) -> None:
        """Close the connections."""
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self._redis.aclose()

    async def subscribe(self, channel: str) -> None:
        """SUBSCRIBE."""
        await self._pubsub.subscribe(channel)
        self._subscribed.set()

    async def unsubscribe(self, channel: str) -> None:
        """UNSUBSCRIBE."""
        await self._pubsub.unsubscribe(channel)

    async def publish(self, channel: str, message: Any) -> None:
        """PUBLISH."""
        await self._redis.publish(channel, message)

    async def next_published(self) -> Ring:
        """The next ring; one is made up when a lost connection is back, for those that were missed."""
        await self._subscribed.wait()
        is_lost = False
        while True:
            try:
                # It looks at the connection's health, and subscribes again on a new one.
                told = await self._pubsub.get_message(timeout=PROBE_SECONDS)
            except (RedisError, OSError) as error:
                if not is_lost:
                    log.warning(
                        "cannot listen: %s; the tick covers until it works again", type(error).__name__
                    )
                is_lost = True
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if is_lost:
                log.info("listening again")
                return Ring(CHANNEL, RECONNECTED)
            if told is not None:
                return Ring(told["channel"].decode(), told["data"].decode())
