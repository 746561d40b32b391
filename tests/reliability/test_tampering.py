"""Tampering shows: every column of every covered table, every row, every rewriting of history (DESIGN §14)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from app.storage.database import Address
from tests.reliability import ledger_to_tamper, rearranging, tampering
from tests.reliability.ledger_to_tamper import Evidence
from tests.reliability.tally import Limit, Row, Tally
from tests.reliability.tampering import Inspector

# However busy the machine is: what counts are zeros, not seconds.
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Scene:
    """A ledger in the hands of a superuser."""

    evidence: Evidence
    inspector: Inspector
    tally: Tally


@pytest.fixture
async def scene(
    address: Address, owner: asyncpg.Connection, tmp_path: Path, row: Row, request: pytest.FixtureRequest
) -> AsyncIterator[Scene]:
    evidence = await ledger_to_tamper.write(address, tmp_path)
    tally = row(f"tampering: {request.node.originalname}", "changes")
    inspector = Inspector(address, evidence, tally)
    await inspector.clean("it was written")
    await ledger_to_tamper.take_over(owner)
    await inspector.clean("it was taken over")
    yield Scene(evidence, inspector, tally)
    await inspector.clean("everything was undone")
    assert tally.is_clean, tally


@pytest.mark.slow
async def test_a_change_of_any_column_is_found_and_located(scene: Scene, owner: asyncpg.Connection) -> None:
    await tampering.every_column(scene.tally, Limit(), owner, scene.inspector, rows=1)
    assert scene.tally.reached > 200


async def test_every_table_is_covered_or_it_is_said_what_there_is_instead(owner: asyncpg.Connection) -> None:
    tables = await owner.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition"
    )
    placed = [*ledger_to_tamper.COVERED, *ledger_to_tamper.OTHERWISE]
    assert sorted(row["relname"] for row in tables) == sorted(placed), "each once"


async def test_rows_deleted_inserted_swapped_or_moved_are_found_and_located(
    scene: Scene, owner: asyncpg.Connection
) -> None:
    for case in rearranging.CASES:
        await case(owner, scene.inspector)


async def test_history_rewritten_with_all_that_follows_from_it_is_found_by_what_was_signed(
    scene: Scene, owner: asyncpg.Connection
) -> None:
    await rearranging.rewritten(owner, scene.inspector, scene.tally)
