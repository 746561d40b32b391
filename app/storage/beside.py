"""What a command does in the database beside a running server, or without one: one transaction in one role."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from app.settings import Settings
from app.storage.database import Address, DatabaseRole, Driver, exact_json, take_role
from app.storage.provide import provide

T = TypeVar("T")
Work = Callable[[Driver], Awaitable[T]]


async def as_role(address: Address, role: DatabaseRole, work: Work[T]) -> T:
    """What `work` returns, on a connection of its own."""
    connection = await asyncpg.connect(address.direct_url)
    try:
        await exact_json(connection)
        async with connection.transaction():
            await take_role(connection, role, ())
            return await work(connection)
    finally:
        await connection.close()


def beside(settings: Settings, role: DatabaseRole, work: Work[T]) -> T:
    """The same where the settings say that the ledger is; an embedded database that sleeps is woken for it."""
    with provide(settings, attach=True) as address:
        return asyncio.run(as_role(address, role, work))
