"""Whatever is done to positions, in whatever order: money is conserved and history is what it seems.

A state machine of Hypothesis drives the real writer on a real database. Beside it runs a model of the lifecycle that
was written from the design alone; after every step the two agree, and the database is checked for itself.
ESCROWGRID_EXAMPLES chooses how many runs there are (500 in CI, 20,000 in a soak).
"""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.errors import ErrorCode, Refusal
from app.kit import money
from app.kit.money import CURRENCIES
from app.ledger.model import Effect, Event
from app.ledger.store import SELECT_EVENTS, event_of
from app.ledger.writer import Answer, Command
from app.positions.lifecycle import Intent
from app.positions.model import Position, State
from app.storage.database import DatabaseRole
from tests import factories
from tests.factories import Place
from tests.ledger.test_chain import check_chain
from tests.positions.conftest import Now

EXAMPLES = int(os.environ.get("ESCROWGRID_EXAMPLES", "60"))
SECONDS_EACH = 3
STEPS_MAX = 30
DEADLINE_SECONDS = 60
OPEN = (State.FUNDED, State.PARTIALLY_RELEASED)
T = TypeVar("T")
C = ErrorCode
# How often each kind of move was accepted (True) or refused (False) in each state: the machine has to have teeth.
COVERED: Counter[tuple[str, State, bool]] = Counter()


class Server:
    """A server process without its HTTP side, on a loop in a thread of its own: the machine is not asynchronous."""

    def __init__(self, admin_url: str, template: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.now = Now()
        self._served = factories.served(admin_url, template, clock=self.now)
        self.parts, self.owner = self.run(self._served.__aenter__())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    def stop(self) -> None:
        self.run(self._served.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


@pytest.fixture(scope="module")
def server(admin_url: str, template: str) -> Iterator[Server]:
    made = Server(admin_url, template)
    yield made
    made.stop()


@dataclass(frozen=True)
class Model:
    """A position as the design has it, in smallest units."""

    amount: int
    deadline: datetime | None
    most: int
    state: State = State.CREATED
    funded: int = 0
    released: int = 0
    refunded: int = 0
    version: int = 1

    @property
    def held(self) -> int:
        return self.funded - self.released - self.refunded

    def violations(self, wanted: "Wanted", now: datetime, limit: int | None) -> set[ErrorCode]:
        """Every rule that stands against it; none: it is accepted."""
        return {*self._in_time(wanted, now), *self._in_place(wanted, limit), *self._in_amount(wanted)}

    def _in_time(self, wanted: "Wanted", now: datetime) -> Iterator[ErrorCode]:
        if wanted.version not in (None, self.version):
            yield C.VERSION_CONFLICT
        if wanted.kind != "expire" and self.deadline is not None and self.deadline <= now:
            yield C.POSITION_EXPIRED

    def _in_place(self, wanted: "Wanted", limit: int | None) -> Iterator[ErrorCode]:
        sources = {
            "fund": (State.CREATED,),
            "release": OPEN,
            "part": OPEN,
            "whole": OPEN,
            "cancel": (State.CREATED, *OPEN),
            "expire": (State.CREATED, *OPEN),
        }
        if self.state not in sources[wanted.kind]:
            yield C.TRANSITION_NOT_ALLOWED
        if wanted.kind == "fund" and limit is not None and self.amount > limit:
            yield C.POLICY_REFUSED

    def _in_amount(self, wanted: "Wanted") -> Iterator[ErrorCode]:
        if wanted.units is None:
            if wanted.kind == "part":
                yield C.VALIDATION_FAILED
            return
        if wanted.units > self.most:
            yield C.VALIDATION_FAILED
        if wanted.units <= 0:
            yield C.VALIDATION_FAILED
        elif wanted.kind == "fund":
            if wanted.units != self.amount:
                yield C.VALIDATION_FAILED
        elif wanted.units > self.held:
            yield (
                C.INSUFFICIENT_HELD
                if self.held or wanted.kind in ("release", "part", "whole")
                else C.VALIDATION_FAILED
            )
        elif wanted.kind == "part" and wanted.units == self.held:
            yield C.TRANSITION_NOT_ALLOWED
        elif wanted.kind in ("whole", "cancel", "expire") and wanted.units != self.held:
            yield C.VALIDATION_FAILED

    def after(self, wanted: "Wanted") -> "Model":
        """What it becomes."""
        moved = replace(self, version=self.version + 1)
        match wanted.kind:
            case "fund":
                return replace(moved, state=State.FUNDED, funded=self.amount)
            case "cancel" | "expire":
                ended = State.CANCELLED if wanted.kind == "cancel" else State.EXPIRED
                return replace(moved, state=ended, refunded=self.refunded + self.held)
        units = self.held if wanted.units is None else wanted.units
        ended = State.RELEASED if units == self.held else State.PARTIALLY_RELEASED
        return replace(moved, state=ended, released=self.released + units)


@dataclass(frozen=True)
class Wanted:
    """A move, as the model takes it."""

    kind: str
    units: int | None = None
    version: int | None = None

    def intent(self, amount: Decimal | None) -> Intent:
        """As the service takes it."""
        return {
            "fund": Intent(effect=Effect.FUND, amount=amount),
            "release": Intent(effect=Effect.RELEASE, amount=amount),
            "part": Intent(state=State.PARTIALLY_RELEASED, amount=amount),
            "whole": Intent(stage="RELEASED", amount=amount),
            "cancel": Intent(state=State.CANCELLED, amount=amount),
            "expire": Intent(state=State.EXPIRED, amount=amount),
        }[self.kind]


# How an amount is chosen: of what is held, or of the whole, with a little more or less. One list, drawn from evenly.
AMOUNTS = st.sampled_from(
    [
        None,
        None,
        *[("third", 0)] * 4,
        ("third", 1),
        ("held", -1),
        *[("held", 0)] * 2,
        ("held", 1),
        ("amount", 0),
        ("amount", 1),
        ("nothing", -1),
        ("nothing", 0),
        ("nothing", 1),
        ("nothing", 7),
        ("nothing", 10**33),
    ]
)
TERMS = st.tuples(
    st.sampled_from([1, 2, 3, 10, 99, 100, 10_000, 12_345, 10**9 + 1, 10**15 - 1, 10**15]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([True, True, False]),
)
KINDS = st.sampled_from(["fund", "release", "part", "whole", "cancel", "expire"])
RELEASES = st.sampled_from(["release", "part"])
VERSIONS = st.sampled_from([None, None, None, 0, 0, -1, 1])


class Positions(RuleBasedStateMachine):
    """One institution, one asset, one currency; any number of positions."""

    ids = Bundle("ids")

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.services = server.parts.services
        self.models: dict[str, Model] = {}
        self.positions: dict[str, Position] = {}
        self.done: list[tuple[Command, Answer]] = []
        self.limit: int | None = None
        self.told = 0

    @initialize(
        target=ids,
        currency=st.sampled_from(["USD", "JPY", "ETH"]),
        terms=st.lists(TERMS, min_size=2, max_size=4),
    )
    def begin(self, currency: str, terms: list[tuple[int, bool, bool, bool]]) -> Any:
        """An institution and its first positions."""
        self.currency = CURRENCIES[currency]
        self.place: Place = self.server.run(factories.place(self.services, currency=currency))
        return multiple(*(self.open(*some) for some in terms))

    def amount(self, units: int) -> Decimal:
        return money.EXACT.scaleb(Decimal(units), -self.currency.exponent)

    def units(self, amount: Decimal) -> int:
        return int(money.EXACT.scaleb(amount, self.currency.exponent))

    @rule(target=ids, terms=TERMS)
    def open_a_position(self, terms: tuple[int, bool, bool, bool]) -> str:
        return self.open(*terms)

    def open(self, units: int, timed: bool, whole: bool, funded: bool) -> str:
        """`whole`: of whole coins, up to the largest amount there is; `funded`: and take it one step further."""
        units = units * 10**self.currency.exponent if whole else units
        deadline = self.server.now.ahead(DEADLINE_SECONDS) if timed else None
        amount = f"{self.amount(units):f}"
        command = self.server.run(
            factories.opening(self.services, self.place.asset, amount, expires_at=deadline, reason="r")
        )
        if self.limit is not None and units > self.limit:
            self.refuse([command], {C.POLICY_REFUSED})
            self.allow(None)
        answer = self.server.run(self.services.writer.submit(command))
        self.learn(command, answer, Model(units, deadline, 10 ** (15 + self.currency.exponent)))
        if funded:
            self.take(command.position_id, Wanted("fund"))
        return command.position_id

    def learn(self, command: Command, answer: Answer, model: Model) -> None:
        """It was accepted; what is told is what the model says."""
        position: Position = answer.row.position
        self.models[position.id], self.positions[position.id] = model, position
        self.done.append((command, answer))
        self.told += 1
        assert not answer.replayed
        assert (position.version, position.state) == (model.version, model.state)
        assert answer.event.position_version == model.version
        balances = position.balances
        assert answer.event.balances == balances
        told = (balances.funded, balances.released, balances.refunded, balances.held)
        assert tuple(map(self.units, told)) == (model.funded, model.released, model.refunded, model.held)

    def refuse(self, commands: list[Command], codes: set[ErrorCode]) -> None:
        """It is refused for one of those reasons; the invariants see that nothing changed."""
        with pytest.raises(Refusal) as refused:
            self.server.run(self.services.writer.submit_all(commands))
        assert refused.value.code in codes

    def wanted(self, model: Model, kind: str, chosen: Any, version: int | None) -> Wanted:
        units = None
        if chosen is not None:
            name, number = chosen
            base = {
                "held": model.held,
                "amount": model.amount,
                "third": model.held // 3,
                "nothing": 0,
                "units": 0,
            }
            units = base[name] + number
        return Wanted(kind, units, None if version is None else model.version + version)

    def command(self, id_: str, wanted: Wanted, key: str | None = None) -> Command | ErrorCode:
        """The command, or how it is refused before it is one."""
        amount = None if wanted.units is None else self.amount(wanted.units)
        try:
            return factories.move(
                self.services,
                self.positions[id_],
                wanted.intent(amount),
                expected_version=wanted.version,
                idempotency_key=key,
            )
        except Refusal as refusal:
            return ErrorCode(refusal.code)

    def violations(self, model: Model, wanted: Wanted) -> set[ErrorCode]:
        limit = self.limit
        found = model.violations(wanted, self.server.now(), limit)
        if wanted.version is not None and wanted.version < 1:
            found.add(C.VALIDATION_FAILED)
        return found

    def take(self, id_: str, wanted: Wanted) -> None:
        """What is wanted happens, or is refused for a reason that the model knows."""
        model = self.models[id_]
        codes = self.violations(model, wanted)
        command = self.command(id_, wanted)
        if isinstance(command, ErrorCode):
            assert command in codes
        elif codes:
            self.refuse([command], codes)
        else:
            self.learn(command, self.server.run(self.services.writer.submit(command)), model.after(wanted))
        COVERED[wanted.kind, model.state, not codes] += 1

    @rule(id_=ids, kind=KINDS, chosen=AMOUNTS, version=VERSIONS)
    def move_anything(self, id_: str, kind: str, chosen: Any, version: int | None) -> None:
        self.take(id_, self.wanted(self.models[id_], kind, chosen, version))

    def created(self) -> list[str]:
        return [id_ for id_, model in self.models.items() if model.state is State.CREATED]

    @precondition(created)
    @rule(data=st.data(), limit=st.sampled_from([None, None, 1, 100, 10**14]))
    def fund_what_is_created(self, data: st.DataObject, limit: int | None) -> None:
        """Under the policy as it is, or another one that was set since the position was opened."""
        if limit is not None:
            self.allow(limit)
        self.take(data.draw(st.sampled_from(self.created())), Wanted("fund"))

    def holding(self) -> list[str]:
        return [id_ for id_, model in self.models.items() if model.held]

    @precondition(holding)
    @rule(data=st.data(), kind=RELEASES, chosen=AMOUNTS, times=st.integers(1, 4))
    def release_what_is_held(self, data: st.DataObject, kind: str, chosen: Any, times: int) -> None:
        id_ = data.draw(st.sampled_from(self.holding()))
        for _ in range(times):
            self.take(id_, self.wanted(self.models[id_], kind, chosen, None))

    @precondition(holding)
    @rule(data=st.data(), kind=st.sampled_from(["cancel", "expire", "whole"]), exact=st.booleans())
    def end_what_is_held(self, data: st.DataObject, kind: str, exact: bool) -> None:
        id_ = data.draw(st.sampled_from(self.holding()))
        self.take(id_, self.wanted(self.models[id_], kind, ("held", 0) if exact else None, 0))

    @rule(moves=st.lists(st.tuples(ids, KINDS, AMOUNTS), min_size=2, max_size=4))
    def move_several_as_one(self, moves: list[tuple[str, str, Any]]) -> None:
        scratch = dict(self.models)
        commands: list[Command] = []
        steps: list[Model] = []
        for id_, kind, chosen in moves:
            wanted = self.wanted(scratch[id_], kind, chosen, None)
            command = self.command(id_, wanted)
            if isinstance(command, ErrorCode):
                return
            commands.append(command)
            codes = self.violations(scratch[id_], wanted)
            if codes:
                self.refuse(commands, codes)
                return
            scratch[id_] = scratch[id_].after(wanted)
            steps.append(scratch[id_])
        answers = self.server.run(self.services.writer.submit_all(commands))
        for command, answer, model in zip(commands, answers, steps, strict=True):
            self.learn(command, answer, model)

    @rule(id_=ids, chosen=AMOUNTS, count=st.integers(2, 6))
    def release_many_times_at_once(self, id_: str, chosen: Any, count: int) -> None:
        """They are decided in the order they came, whether in one batch or in several."""
        wanted = self.wanted(self.models[id_], "release", chosen, None)
        commands = [self.command(id_, wanted) for _ in range(count)]
        if any(isinstance(command, ErrorCode) for command in commands):
            return

        async def all_at_once() -> list[Any]:
            sent = (self.services.writer.submit(command) for command in commands)  # type: ignore[arg-type]
            return await asyncio.gather(*sent, return_exceptions=True)

        for command, result in zip(commands, self.server.run(all_at_once()), strict=True):
            model = self.models[id_]
            codes = self.violations(model, wanted)
            if codes:
                assert isinstance(result, Refusal)
                assert result.code in codes
            else:
                self.learn(command, result, model.after(wanted))  # type: ignore[arg-type]

    @precondition(lambda self: self.done)
    @rule(data=st.data(), times=st.integers(1, 3))
    def repeat_something(self, data: st.DataObject, times: int) -> None:
        command, told = data.draw(st.sampled_from(self.done))

        async def again() -> list[Answer]:
            return await asyncio.gather(*(self.services.writer.submit(command) for _ in range(times)))

        for answer in self.server.run(again()):
            assert answer.replayed
            assert (answer.event, answer.row) == (told.event, told.row)

    @precondition(lambda self: self.done)
    @rule(data=st.data(), id_=ids)
    def use_a_key_again_for_something_else(self, data: st.DataObject, id_: str) -> None:
        used = data.draw(st.sampled_from(self.done))[0]
        other = self.command(id_, Wanted("cancel", None, 2**30), used.key.value)
        assert not isinstance(other, ErrorCode)
        self.refuse([other], {C.IDEMPOTENCY_CONFLICT})

    def allow(self, limit: int | None) -> None:
        self.limit = limit
        amount = None if limit is None else self.amount(limit)
        self.server.run(factories.policy(self.services, self.place.institution.id, max_amount=amount))

    def timed(self) -> bool:
        return any(model.deadline and model.state in (State.CREATED, *OPEN) for model in self.models.values())

    @precondition(timed)
    @rule(seconds=st.sampled_from([1, DEADLINE_SECONDS - 1, DEADLINE_SECONDS]))
    def let_time_pass(self, seconds: int) -> None:
        self.server.now.advance(seconds)

    @precondition(timed)
    @rule()
    def let_the_clerk_come(self) -> None:
        self.server.run(self.server.parts.clerk.settle_due())
        now = self.server.now()
        for id_, model in self.models.items():
            due = model.deadline is not None and model.deadline <= now
            if due and not model.violations(Wanted("expire"), now, None):
                self.models[id_] = model.after(Wanted("expire"))
                self.told += 1

    async def _read(self) -> tuple[list[Event], list[asyncpg.Record]]:
        pool = self.services.database.pool(DatabaseRole.FEED)
        mine = self.place.institution.id
        rows = await pool.fetch(f"{SELECT_EVENTS} WHERE institution_id = $1 ORDER BY sequence", mine)
        return (
            [event_of(row) for row in rows],
            await self.server.owner.fetch("SELECT * FROM positions WHERE institution_id = $1", mine),
        )

    @invariant()
    def the_database_says_the_same(self) -> None:
        events, rows = self.server.run(self._read())
        assert len(events) == self.told, "what was refused left nothing behind"
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert {row["id"] for row in rows} == set(self.models)
        histories: dict[str, list[Event]] = {row["id"]: [] for row in rows}
        for event in events:
            histories[event.position_id].append(event)
        for row in rows:
            self._check(row, histories[row["id"]], self.models[row["id"]])

    def _check(self, row: asyncpg.Record, history: list[Event], model: Model) -> None:
        """A position is the fold of its events, and both are what the model says."""
        moved = {effect: Decimal(0) for effect in Effect}
        state = None
        for version, event in enumerate(history, start=1):
            assert event.position_version == version
            assert event.previous_state == state
            state = event.new_state
            moved[event.effect] = money.add(moved[event.effect], event.amount_moved)
            assert money.add(*(leg.amount for leg in event.postings)) == 0
            assert {leg.amount.copy_abs() for leg in event.postings} <= {event.amount_moved}
            folded = (moved[Effect.FUND], moved[Effect.RELEASE], moved[Effect.REFUND])
            balances = event.balances
            assert (balances.funded, balances.released, balances.refunded) == folded
            assert balances.hold()
        last = history[-1]
        stored = tuple(row[name] for name in ("funded", "released", "refunded", "held"))
        assert stored == (
            last.balances.funded,
            last.balances.released,
            last.balances.refunded,
            last.balances.held,
        )
        assert (row["version"], row["state"], row["stage"]) == (len(history), state, last.new_stage)
        assert (row["version"], row["state"]) == (model.version, model.state)
        assert self.units(row["held"]) == model.held
        assert (row["closed_at"] is not None) == (not ESCROW_OPEN.issuperset({row["state"]}))
        assert row["updated_at"] == last.recorded_at

    def teardown(self) -> None:
        if hasattr(self, "place"):
            events, _rows = self.server.run(self._read())
            check_chain(events)


ESCROW_OPEN = {State.CREATED.value, State.FUNDED.value, State.PARTIALLY_RELEASED.value}


@pytest.mark.slow
@pytest.mark.timeout(max(180, EXAMPLES * SECONDS_EACH))
def test_money_is_conserved_whatever_is_done(server: Server) -> None:
    run_state_machine_as_test(
        lambda: Positions(server),  # type: ignore[arg-type]
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS_MAX,
            deadline=None,
            derandomize=EXAMPLES <= 60,
            suppress_health_check=list(HealthCheck),
            # Shrinking takes minutes here; the steps of a run that fails are printed as they are.
            phases=[Phase.generate],
            report_multiple_bugs=False,
        ),
    )
    accepted = {(kind, state) for kind, state, done in COVERED if done}
    assert {state for _kind, state in accepted} == {State.CREATED, *OPEN}
    assert {kind for kind, _state in accepted} == {"fund", "release", "part", "whole", "cancel", "expire"}
    assert sum(COVERED.values()) > 3 * EXAMPLES
