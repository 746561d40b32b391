"""HTTP spoken plainly: a client library's pool costs more time than the servers under test."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

SECONDS_MAX = 30

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Broken(Exception):
    """The connection failed before a whole answer came: what was asked may or may not have been done."""


class Wire:
    """Posts JSON over connections that are kept open, one request on each at a time."""

    def __init__(self) -> None:
        self._idle: dict[str, list[Pair]] = defaultdict(list)

    async def post(self, url: str, key: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """The status and the decoded body of the answer; raises `Broken` when there is none."""
        where = urlsplit(url)
        content = json.dumps(body).encode()
        head = (
            f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(SECONDS_MAX):
                idle = self._idle[where.netloc]
                pair = idle.pop() if idle else await asyncio.open_connection(where.hostname, where.port)
                try:
                    pair[1].write(head.encode() + content)
                    status, answer = await _answer(pair[0])
                except BaseException:
                    pair[1].transport.abort()
                    raise
            self._idle[where.netloc].append(pair)
            return status, json.loads(answer)
        except (OSError, EOFError, ValueError) as error:
            raise Broken(type(error).__name__) from None

    def close(self) -> None:
        """Let go of every connection."""
        for pairs in self._idle.values():
            for _reader, writer in pairs:
                writer.transport.abort()
        self._idle.clear()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), await reader.readexactly(int(headers["content-length"]))
