"""One position has one history, whoever writes it (DESIGN §14); and the check that says so sees what is wrong."""

import random
from dataclasses import replace

import pytest

from tests.reliability.history import Op, violations
from tests.reliability.hot import hot_positions
from tests.reliability.site import Site
from tests.reliability.tally import Limit, Row

# However busy the machine is: what counts are zeros, not seconds.
pytestmark = pytest.mark.timeout(600)

OPERATIONS = 3_000


def sound(length: int = 40) -> tuple[list[Op], dict[int, tuple[object, ...]]]:
    """A history that can be: writers and readers that overlap."""
    chance = random.Random(7)
    folded: dict[int, tuple[object, ...]] = {
        version: (f"as of {version}",) for version in range(1, length + 1)
    }
    ops = []
    for version, state in folded.items():
        happened = float(version)
        for writes in (True, False):
            began, ended = happened - chance.random() * 0.9, happened + chance.random() * 0.9 + 0.01
            ops.append(Op(began, ended, version, writes, state))
            happened += 0.05
    chance.shuffle(ops)
    return ops, folded


def test_a_history_that_can_be_is_not_doubted() -> None:
    assert not list(violations(*sound()))


@pytest.mark.parametrize("writes", [True, False])
def test_who_begins_after_something_has_ended_must_see_it(writes: bool) -> None:
    ops, folded = sound()
    late = next(op for op in ops if op.version == 10 and op.writes is writes)
    ops[ops.index(late)] = replace(late, began=20.0, ended=20.5)
    assert any("10" in told for told in violations(ops, folded))


def test_no_version_is_made_twice_or_by_nobody() -> None:
    ops, folded = sound()
    made = next(op for op in ops if op.version == 10 and op.writes)
    assert list(violations([*ops, made], folded))
    ops.remove(made)
    assert list(violations(ops, folded))


def test_what_is_told_of_a_version_is_what_the_ledger_says_of_it() -> None:
    ops, folded = sound()
    ops[3] = replace(ops[3], seen=("something else",))
    assert list(violations(ops, folded))


@pytest.mark.slow
async def test_64_clients_on_10_positions_across_two_servers_make_one_history_of_each(
    site: Site, row: Row
) -> None:
    tally = row("hot positions", "operations")
    await hot_positions(tally, Limit(OPERATIONS), site)
    assert tally.is_clean, tally
    assert tally.reached >= OPERATIONS
    assert tally.counts["versions"] > OPERATIONS / 4
