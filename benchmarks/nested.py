"""The dashboard's page of 50 positions with 10 events each: by plans, and by graphql-core on the same schema."""

import asyncio
import time
from decimal import Decimal

from pydantic import SecretStr

from app import schema
from app.context import Context, Request, Services
from app.engine.masking import Schema
from app.http.server import settle_memory
from app.main import assemble
from app.positions import service
from app.positions.lifecycle import Intent
from app.positions.model import Position
from app.positions.service import Asker, Move, Opening
from app.principal import root
from app.settings import Settings
from app.storage.provide import provide
from benchmarks.ground import asset_of
from benchmarks.machine import Row, median

PAGE = """{ positions(first: 50) { edges { node { id state held amount currency asset { label template { code } }
  institution { name } events(first: 10) { edges { node { sequence newState amountMoved recordedAt
  balancesAfter { held } } } } } } } }"""
ASKED_EACH = 15


async def filled(services: Services) -> Position:
    """One institution's 50 positions with 10 events each; returns the newest."""
    asset = await asset_of(services)
    pair = await services.assets.get(services.database, "*", asset.id)
    asker = Asker(root(), "req_bench", services.clock(), services.ids, services.lifecycles)
    for _ in range(50):
        opening = Opening(asset.id, "BENCH", "USD", Decimal("5000.00"))
        position = (await services.writer.submit(service.create(asker, opening, pair))).row.position
        for number in range(9):
            intent = (
                Intent(stage="FUNDED")
                if number == 0
                else Intent(stage="PARTIALLY_RELEASED", amount=Decimal(1))
            )
            await services.writer.submit(
                service.move(asker, Move("bench", position.id, intent), position.institution_id)
            )
    return position


async def _asked(by: Schema, services: Services) -> tuple[float, object]:
    begun = time.process_time()
    for _ in range(ASKED_EACH):
        context = Context(services, root(), Request("req_bench"))
        result = await by.execute(PAGE, context_value=context)
        await context.close()
        assert not result.errors, result.errors
    return (time.process_time() - begun) / ASKED_EACH * 1000, result.data


async def _measured(settings: Settings, address: object, runs: int) -> list[Row]:
    parts = assemble(settings, address)  # type: ignore[arg-type]
    planned, core = schema.build(settings), schema.build(settings)
    core.extensions = core.extensions[:-1]
    async with parts.running():
        await filled(parts.services)
        # As a server does it, for both.
        settle_memory()
        times: dict[str, list[float]] = {"plans": [], "core": []}
        for _ in range(runs):
            answers = []
            for name, by in (("plans", planned), ("core", core)):
                cpu, data = await _asked(by, parts.services)
                times[name].append(cpu)
                answers.append(data)
            assert answers[0] == answers[1], "both answer the same"
    plans, by_core = median(times["plans"]), median(times["core"])
    figures = {"cpu_ms": plans, "core_cpu_ms": by_core, "vs_graphql_core": round(by_core / plans, 2)}
    return [Row("nested_50x10_core", figures, note="CPU of the process per page, database apart")]


def rows(runs: int) -> list[Row]:
    """The rows of this benchmark."""
    settings = Settings(store_backend="memory", root_api_key=SecretStr("root-key-of-the-benchmarks"))
    with provide(settings) as address:
        return asyncio.run(_measured(settings, address, runs))
