"""The chain of a real ledger: it recomputes from its rows, and what is personal can be erased from under it."""

from decimal import Decimal

import asyncpg
import pytest

from app.context import Services
from app.errors import ErrorCode, Refusal
from app.kit.canonical import canonical_json
from app.kit.chain import GENESIS, commit
from app.ledger import sealed
from app.ledger.model import Event, Personal
from app.ledger.spelling import event_hash, spelling
from app.positions import service as positions
from app.positions.model import State
from tests import factories
from tests.conftest import Run
from tests.factories import FUND, Place, release
from tests.ledger.conftest import Ledger

SECRETS = ("Jane Q. Holder", "because Jane asked", "jane@example.org")
METADATA = {"contact": SECRETS[2], "score": Decimal("1.50"), "tags": ["a", None, True]}


def check_chain(events: list[Event]) -> None:
    """Every hash follows from the row alone and hangs on the one before it."""
    previous = GENESIS
    for place, event in enumerate(events, start=1):
        assert event.sequence == place, "sequences have no gap"
        assert event.previous_hash == previous
        assert event.hash == event_hash(previous, spelling(event))
        previous = event.hash


async def test_the_chain_of_each_institution_recomputes_from_its_rows(
    services: Services, place: Place, elsewhere: Place, owner: asyncpg.Connection, ledger: Ledger
) -> None:
    await factories.policy(services, place.institution.id, max_amount=Decimal(1000))
    eth = await factories.place(services, currency="ETH")
    for state in State:
        for where in (place, elsewhere):
            await factories.position(services, where.asset, state=state, reason="é€😀", metadata=METADATA)
        await factories.position(services, eth.asset, "1000000000000000", state=state)
    for where in (place, elsewhere, eth):
        events = await ledger(where.institution.id)
        check_chain(events)
        head = await owner.fetchrow(
            "SELECT sequence, hash FROM institution_heads WHERE institution_id = $1", where.institution.id
        )
        assert (head["sequence"], head["hash"]) == (events[-1].sequence, events[-1].hash)
    everything = await ledger()
    assert [event.global_sequence for event in everything] == list(range(1, len(everything) + 1))
    assert await owner.fetchval("SELECT global_sequence FROM ledger_head") == len(everything)
    recorded = [event.recorded_at for event in everything]
    assert recorded == sorted(recorded), "the time of recording never runs backwards"


async def test_a_changed_row_no_longer_fits_its_hash(
    services: Services, place: Place, ledger: Ledger, owner: asyncpg.Connection
) -> None:
    """What a superuser does after switching the trigger off."""
    await factories.position(services, place.asset, state=State.FUNDED)
    await owner.execute("ALTER TABLE ledger_events DISABLE TRIGGER append_only")
    await owner.execute("UPDATE ledger_events SET actor_id = 'somebody else' WHERE sequence = 1")
    with pytest.raises(AssertionError):
        check_chain(await ledger(place.institution.id))


async def test_personal_values_are_nowhere_in_plain_text(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    await factories.position(
        services, place.asset, holder_reference=SECRETS[0], reason=SECRETS[1], metadata=METADATA
    )
    for secret in SECRETS:
        assert await factories.tables_with(owner, secret) == []


async def test_commitments_verify_with_the_salts_sealed_beside_the_values(
    services: Services, place: Place, owner: asyncpg.Connection, ledger: Ledger
) -> None:
    await factories.position(
        services, place.asset, holder_reference=SECRETS[0], reason=SECRETS[1], metadata=METADATA
    )
    (event,) = await ledger()
    values, salts = (await sealed.fetch(owner, services.holders, [event.id]))[event.id]
    assert values == Personal(SECRETS[0], SECRETS[1], METADATA)
    assert event.commitments.holder == commit(salts.holder, SECRETS[0].encode())
    assert event.commitments.reason == commit(salts.reason, SECRETS[1].encode())
    assert event.commitments.metadata == commit(salts.metadata, canonical_json(METADATA).encode())
    assert len({salts.holder, salts.reason, salts.metadata}) == 3


async def test_equal_values_do_not_have_equal_commitments(
    services: Services, place: Place, ledger: Ledger
) -> None:
    for _ in range(2):
        await factories.position(services, place.asset, holder_reference=SECRETS[0])
    one, two = await ledger()
    assert one.commitments.holder != two.commitments.holder


async def test_what_has_nothing_personal_has_no_commitment_and_no_row(
    services: Services, place: Place, owner: asyncpg.Connection, ledger: Ledger
) -> None:
    await factories.position(services, place.asset, state=State.FUNDED)
    _created, funded = await ledger()
    assert (funded.commitments.holder, funded.commitments.reason, funded.commitments.metadata) == (None,) * 3
    assert await owner.fetchval("SELECT count(*) FROM personal_data WHERE event_id = $1", funded.id) == 0


async def test_erasing_personal_rows_leaves_every_hash_valid_and_replays_working(
    services: Services, place: Place, owner: asyncpg.Connection, ledger: Ledger, run: Run
) -> None:
    create = await factories.opening(
        services, place.asset, reason=SECRETS[1], metadata=METADATA, idempotency_key="once"
    )
    first = await services.writer.submit(create)
    position = first.row.position
    await services.writer.submit(factories.move(services, position, FUND, reason=SECRETS[1]))
    await services.writer.submit(factories.move(services, position, release("40.00"), reason=SECRETS[1]))
    before = [(event.hash, event.commitments) for event in await ledger()]

    async with factories.working(services, place.institution.id) as work:
        await positions.erase_holder(work, place.institution.id, services.holders, position.holder_reference)

    events = await ledger(place.institution.id)
    check_chain(events)
    assert [(event.hash, event.commitments) for event in events] == before
    again = await services.writer.submit(
        await factories.opening(
            services, place.asset, reason=SECRETS[1], metadata=METADATA, idempotency_key="once"
        )
    )
    assert again.replayed
    assert again.event == first.event
    assert again.row.position.version == 1
    told = await run(
        "{ ledgerEvents { edges { node { reason metadata commitments { reason metadata holderReference } } } } "
        "positions { edges { node { holderReference } } } }"
    )
    assert told.errors == []
    assert told.data["positions"]["edges"][0]["node"]["holderReference"] is None
    for edge, event in zip(told.data["ledgerEvents"]["edges"], events, strict=True):
        assert edge["node"]["reason"] is None
        assert edge["node"]["metadata"] is None
        assert edge["node"]["commitments"]["reason"] == event.commitments.reason.hex()


async def test_a_replay_of_erased_values_still_compares_everything_else(
    services: Services, place: Place, owner: asyncpg.Connection
) -> None:
    await services.writer.submit(await factories.opening(services, place.asset, idempotency_key="once"))
    await owner.execute("DELETE FROM personal_data")
    before = await factories.footprint(owner)
    other = await factories.opening(services, place.asset, "100.01", idempotency_key="once")
    with pytest.raises(Refusal) as refused:
        await services.writer.submit(other)
    assert refused.value.code is ErrorCode.IDEMPOTENCY_CONFLICT
    assert await factories.footprint(owner) == before
