"""A server as most would write it: Strawberry, the ORM of SQLAlchemy, one transaction a command, pg_notify in it.

It keeps its own tables, answers the benchmark's documents word for word, and checks next to nothing. Its streams are
Strawberry's as they come, each with a queue, fed by one LISTEN from what the notification carries: they read nothing.
`python -m benchmarks.peers.naive DATABASE_URL PORT`
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import asyncpg
import strawberry
import uvicorn
from sqlalchemy import ForeignKey, MetaData, func, select, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateSchema
from strawberry.asgi import GraphQL
from strawberry.extensions import ParserCache, ValidationCache

POOL = 16


class Stored(DeclarativeBase):
    metadata = MetaData(schema="naive")


class Position(Stored):
    __tablename__ = "positions"
    id: Mapped[str] = mapped_column(primary_key=True)
    asset_id: Mapped[str] = mapped_column(index=True)
    holder_reference: Mapped[str] = mapped_column(index=True)
    currency: Mapped[str]
    amount: Mapped[Decimal]
    funded: Mapped[Decimal] = mapped_column(default=Decimal(0))
    released: Mapped[Decimal] = mapped_column(default=Decimal(0))
    held: Mapped[Decimal] = mapped_column(default=Decimal(0))
    state: Mapped[str] = mapped_column(default="CREATED", index=True)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(
        TIMESTAMP(timezone=True), server_default=func.now(), index=True
    )


class Event(Stored):
    __tablename__ = "events"
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    position_id: Mapped[str] = mapped_column(ForeignKey("naive.positions.id"), index=True)
    position_version: Mapped[int]
    previous_state: Mapped[str | None]
    new_state: Mapped[str]
    amount_moved: Mapped[Decimal]
    postings: Mapped[list[Any]] = mapped_column(JSONB)
    recorded_at: Mapped[datetime] = mapped_column(
        TIMESTAMP(timezone=True), server_default=func.now(), index=True
    )


class Audit(Stored):
    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    operation: Mapped[str]
    resource_id: Mapped[str] = mapped_column(index=True)
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)


@strawberry.type(name="Position")
class PositionType:
    id: str
    state: str
    version: int
    held: Decimal


@strawberry.type(name="LedgerEvent")
class EventType:
    sequence: int


@strawberry.type
class UserError:
    code: str


@strawberry.type
class Payload:
    position: PositionType | None = None
    event: EventType | None = None
    cursor: str | None = None
    user_errors: list[UserError] = strawberry.field(default_factory=list)


@strawberry.input
class CreatePositionInput:
    asset_id: str
    holder_reference: str
    currency: str
    amount: Decimal


@strawberry.input
class MovePositionInput:
    id: str


@strawberry.input
class ReleasePositionInput:
    id: str
    amount: Decimal


async def _written(
    session: AsyncSession, operation: str, of: Position, before: str | None, moved: Decimal
) -> Payload:
    legs = [[f"held:{of.id}", str(moved)], ["clearing", str(-moved)]]
    event = Event(
        position_id=of.id,
        position_version=of.version,
        previous_state=before,
        new_state=of.state,
        amount_moved=moved,
        postings=legs,
    )
    session.add(event)
    session.add(Audit(operation=operation, resource_id=of.id, payload={"at": datetime.now(UTC).isoformat()}))
    await session.flush()
    told = json.dumps(
        {
            "id": f"evt_{uuid4().hex}",
            "sequence": event.sequence,
            "position_id": of.id,
            "new_state": of.state,
            "amount_moved": str(moved),
            "currency": of.currency,
            "held": str(of.held),
            "recorded_at": datetime.now(UTC).isoformat(),
        }
    )
    await session.execute(text("SELECT pg_notify('naive', :told)"), {"told": told})
    answer = Payload(
        position=PositionType(id=of.id, state=of.state, version=of.version, held=of.held),
        event=EventType(sequence=event.sequence),
        cursor=str(event.sequence),
    )
    await session.commit()
    return answer


async def _locked(session: AsyncSession, id: str) -> Position:
    return (await session.execute(select(Position).where(Position.id == id).with_for_update())).scalar_one()


@strawberry.type
class Query:
    @strawberry.field
    def ready(self) -> bool:
        return True


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def create_position(self, info: strawberry.Info, input: CreatePositionInput) -> Payload:
        async with info.context["sessions"]() as session:
            made = Position(
                id=f"pos_{uuid4().hex}",
                asset_id=input.asset_id,
                holder_reference=input.holder_reference,
                currency=input.currency,
                amount=input.amount,
                funded=Decimal(0),
                released=Decimal(0),
                held=Decimal(0),
                state="CREATED",
                version=1,
            )
            session.add(made)
            await session.flush()
            return await _written(session, "createPosition", made, None, Decimal(0))

    @strawberry.mutation
    async def fund_position(self, info: strawberry.Info, input: MovePositionInput) -> Payload:
        async with info.context["sessions"]() as session:
            found = await _locked(session, input.id)
            before = found.state
            if before != "CREATED":
                return Payload(user_errors=[UserError(code="INVALID_TRANSITION")])
            found.state, found.version = "FUNDED", found.version + 1
            found.funded = found.held = found.amount
            return await _written(session, "fundPosition", found, before, found.amount)

    @strawberry.mutation
    async def release_position(self, info: strawberry.Info, input: ReleasePositionInput) -> Payload:
        async with info.context["sessions"]() as session:
            found = await _locked(session, input.id)
            before = found.state
            if input.amount >= found.held:
                return Payload(user_errors=[UserError(code="INSUFFICIENT_HELD")])
            found.state, found.version = "PARTIALLY_RELEASED", found.version + 1
            found.released, found.held = found.released + input.amount, found.held - input.amount
            return await _written(session, "releasePosition", found, before, input.amount)


@strawberry.type
class Balances:
    held: Decimal


@strawberry.type
class ToldEvent:
    id: str
    sequence: int
    position_id: str
    new_state: str
    amount_moved: Decimal
    currency: str
    balances_after: Balances
    recorded_at: datetime


@strawberry.type
class Edge:
    cursor: str
    node: ToldEvent


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def ledger_events(self, info: strawberry.Info) -> AsyncGenerator[Edge, None]:
        mine: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        subscribers: set[asyncio.Queue[dict[str, Any]]] = info.context["subscribers"]
        subscribers.add(mine)
        try:
            while True:
                told = await mine.get()
                yield Edge(cursor=str(told["sequence"]), node=_event(told))
        finally:
            subscribers.discard(mine)


def _event(told: dict[str, Any]) -> ToldEvent:
    return ToldEvent(
        id=told["id"],
        sequence=told["sequence"],
        position_id=told["position_id"],
        new_state=told["new_state"],
        amount_moved=Decimal(told["amount_moved"]),
        currency=told["currency"],
        balances_after=Balances(held=Decimal(told["held"])),
        recorded_at=datetime.fromisoformat(told["recorded_at"]),
    )


def main() -> None:
    """Serve until told to stop."""
    url, port = sys.argv[1], int(sys.argv[2])
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=POOL, max_overflow=0
    )
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    subscribers: set[asyncio.Queue[dict[str, Any]]] = set()

    def tell(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        told = json.loads(str(payload))
        for queue in subscribers:
            queue.put_nowait(told)

    class Naive(GraphQL[Any, Any]):
        async def get_context(self, request: Any, response: Any) -> Any:
            return {"sessions": sessions, "subscribers": subscribers}

    async def serve() -> None:
        async with engine.begin() as connection:
            await connection.execute(CreateSchema("naive", if_not_exists=True))
            await connection.run_sync(Stored.metadata.create_all)
        listener = await asyncpg.connect(url)
        await listener.add_listener("naive", tell)
        schema = strawberry.Schema(Query, Mutation, Subscription, extensions=[ParserCache, ValidationCache])
        config = uvicorn.Config(Naive(schema), port=port, log_level="warning", access_log=False)
        await uvicorn.Server(config).serve()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
