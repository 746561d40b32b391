"""Every subscription, filter and id × every role × ids of another institution: streams that are known to have begun are
told nothing of theirs, and nothing else than those that ask for what nobody has."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from app.context import Context, Request
from app.kit.clock import system_clock
from app.ledger.bell import Topic
from app.ledger.model import Effect
from app.positions import reads
from app.positions.lifecycle import Intent
from app.principal import Principal, Role
from app.settings import Settings
from tests import factories

from . import values
from .conftest import Pair
from .probes import Maker, Slot
from .test_sweep import ROLES, missed, tell, thinned
from .values import Twins
from .worlds import World

# So many places and values are listened to at once, each twice: with theirs and with nobody's.
WAVE = 80
WAVE_SECONDS_MAX = 180.0
# A heartbeat says that a stream stands at the end and waits; the second one after something happened was waited for
# wholly after it.
BEATS_AFTER = 2
# What would say that a stream did not work, and not that it was refused.
BROKEN = {"INTERNAL", "UNAVAILABLE", "OVERLOADED", "LIMIT_EXCEEDED"}
# What a stream of one's own is told of by `_act`.
TOLD_AT_LEAST = {"auditEvents": 2}
HEAD = "query { ledgerHead { cursor } }"
CHANGE = "UPDATE anchors SET revision = revision + 1, changed_at = now()"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Many streams begin at once at a few connections: each waits for its turn."""
    return settings.model_copy(update={"pool_timeout_seconds": WAVE_SECONDS_MAX})


class Listening:
    """A subscription, and what it was told."""

    def __init__(self, pair: Pair, name: str, document: str, by: Principal, given: str = "") -> None:
        self.name = name
        self.given = given
        self.told: list[str] = []
        self.beats = 0
        self.last_beat = ""
        self.mark = 0
        self.task = asyncio.create_task(self._listen(pair, document.replace("{{value}}", given), by))

    async def _listen(self, pair: Pair, document: str, by: Principal) -> None:
        context = Context(pair.services, by, Request("req_of_the_sweep"))
        try:
            async with aclosing(await pair.schema.stream(document, context_value=context)) as stream:
                async for result in stream:
                    self._hear(result)
                    # As the transports do: until the next message others may have the connection.
                    await context.renew()
        finally:
            await context.close()

    def _hear(self, result: Any) -> None:
        errors = [error.formatted for error in result.errors or ()]
        for error in errors:
            assert error["extensions"]["code"] not in BROKEN, (self.name, self.given, error)
            # A document that gives another value is another document: its places are elsewhere.
            error.pop("locations", None)
        text = json.dumps({"data": result.data, "errors": errors}, sort_keys=True, default=str)
        if self.given.startswith('"'):
            text = text.replace(json.loads(self.given), "<given>")
        if not errors and next(iter(result.data.values()))["heartbeat"]:
            # How many there are says nothing; what the last one says does.
            self.beats, self.last_beat = self.beats + 1, text
        else:
            self.told.append(text)

    @property
    def heard(self) -> list[str]:
        """All it was told, in any order: rows and events come to an audit as they come."""
        return [*sorted(self.told), self.last_beat]

    @property
    def ended(self) -> bool:
        """Whether it was refused, and told so."""
        if self.task.done() and not self.task.cancelled():
            self.task.result()
        return self.task.done()

    @property
    def begun(self) -> bool:
        """Whether it has told what there was and waits, or has been refused."""
        return self.ended or self.beats > 0

    @property
    def level(self) -> bool:
        """Whether it has told what came since the mark."""
        return self.ended or self.beats >= self.mark + BEATS_AFTER


@dataclass
class Tried:
    """What came of all the streams of a role."""

    streams: int = 0
    begun: int = 0
    refused: int = 0
    compared: int = 0
    messages: int = 0
    seconds: float = 0.0


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("role", ROLES)
async def test_live_streams_tell_nothing_of_what_is_theirs(
    pair: Pair, role: Role, owner: asyncpg.Connection
) -> None:
    began, tried, wrong = time.monotonic(), Tried(), []
    moment = await owner.fetchval("SELECT created_at FROM positions WHERE id = $1", pair.theirs.ids["pos"])
    made = _maker(pair, pair.mine)
    head, _ = await pair.ask(HEAD, pair.theirs.principal(Role.ADMIN))
    theirs = Twins(values.literal(head["ledgerHead"]["cursor"]), None)
    places = thinned(list(made.slots("subscription")), role)
    for name in dict.fromkeys(slot.field_path[0] for slot in places):
        given = [
            (slot, twins)
            for slot in places
            if slot.field_path[0] == name
            for twins in (
                *values.twins(slot, made.schema, pair.theirs, pair.nobody, moment),
                *([theirs] if slot.argument_path == ("after",) else []),
            )
        ]
        for start in range(0, len(given), WAVE):
            wrong += await _wave(pair, owner, name, given[start : start + WAVE], role, tried)
    tried.seconds = round(time.monotonic() - began, 1)
    sizes = {field: getattr(tried, field) for field in tried.__dataclass_fields__}
    tell(f"subscriptions, {role}", places=len(places), **sizes, leaks=len(wrong))
    assert tried.begun + tried.refused == tried.streams
    assert not wrong, wrong[:10]


def _maker(pair: Pair, world: World) -> Maker:
    kind = pair.schema._schema.subscription_type
    assert kind is not None
    beats = {f"Subscription.{name}.heartbeatSeconds": "1" for name in kind.fields}
    return Maker(pair.schema._schema, values.good(world, system_clock()) | beats)


async def _wave(
    pair: Pair,
    owner: asyncpg.Connection,
    name: str,
    given: list[tuple[Slot, Twins]],
    role: Role,
    tried: Tried,
) -> list[str]:
    """Listens with all of these, lets things happen, and says what was told that should not have been."""
    # What earlier streams were refused is not to arrive in these.
    await pair.services.recorder.flush()
    by = pair.mine.principal(role)
    both = [
        (
            Listening(pair, slot.name, slot.document, by, twins.theirs),
            twins.nobodys and Listening(pair, slot.name, slot.document, by, twins.nobodys),
        )
        for slot, twins in given
    ]
    streams = [one for pair_ in both for one in pair_ if one]
    # They tell that what happens is there to be told.
    own = [
        Listening(pair, name, _plain(pair, world, name), world.principal(Role.ADMIN))
        for world in _worlds(pair)
    ]
    try:
        await _until(lambda: all(one.begun for one in [*streams, *own]), streams, "have not begun")
        refused = [one for one in streams if one.ended]
        assert all(one.told for one in refused)
        marks = [len(one.told) for one in own]
        for world in _worlds(pair):
            await _act(pair, world)
        await owner.execute(CHANGE)
        pair.services.tell(Topic.ANCHORS)
        least = TOLD_AT_LEAST.get(name, 1)
        await _until(
            lambda: all(len(one.told) >= mark + least for one, mark in zip(own, marks, strict=True)),
            own,
            "were not told of their own",
        )
        for one in streams:
            one.mark = one.beats
        await _until(lambda: all(one.level for one in streams), streams, "have not told all")
    finally:
        await _end([*streams, *own])
    tried.streams += len(streams)
    tried.refused += len(refused)
    tried.begun += len([one for one in streams if one.beats])
    tried.compared += len([1 for _, other in both if other])
    tried.messages += sum(len(one.told) for one in streams)
    return [word for one, other in both for word in _wrong(pair, one, other or None)]


def _worlds(pair: Pair) -> tuple[World, World]:
    return pair.theirs, pair.mine


def _plain(pair: Pair, world: World, name: str) -> str:
    """The subscription without a filter."""
    made = _maker(pair, world)
    field = pair.schema._schema.subscription_type.fields[name]  # type: ignore[union-attr]
    given = made.arguments("Subscription", name, field, {})
    return f"subscription {{ {name}{given}{made.selection(field.type, 1, ())} }}"


def _wrong(pair: Pair, theirs: Listening, nobodys: Listening | None) -> Iterator[str]:
    for text in theirs.heard:
        yield from missed(pair, theirs.name, text)
        if pair.theirs.institution_id in text or f"{pair.theirs.tag}-" in text.replace("<given>", ""):
            yield f"{theirs.name}: {text}"
    if nobodys is not None and theirs.heard != nobodys.heard:
        yield f"{theirs.name} {theirs.given}: {theirs.heard} is not {nobodys.heard}"


async def _until(seen: Callable[[], bool], streams: list[Listening], words: str) -> None:
    """Waits, but not for ever; says which streams it waited for."""
    deadline = time.monotonic() + WAVE_SECONDS_MAX
    while not seen():
        left = [f"{one.name} {one.given}: {len(one.told)} told, {one.beats} beats" for one in streams]
        assert time.monotonic() < deadline, (words, left)
        await asyncio.sleep(0.05)


async def _end(streams: list[Listening]) -> None:
    for one in streams:
        one.task.cancel()
    for outcome in await asyncio.gather(*(one.task for one in streams), return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def _act(pair: Pair, world: World) -> None:
    """Something of everything happens to a world."""
    by = world.principal(Role.ADMIN)
    async with pair.services.database.reading(world.institution_id) as connection:
        holders = pair.services.holders
        found = await reads.fetch_many(connection, world.institution_id, holders, [world.ids["pos"]])
    part = Intent(effect=Effect.RELEASE, amount=factories.Decimal("1.00"))
    move = factories.move(
        pair.services, found[world.ids["pos"]], part, by=by, reason=f"{world.tag} because live"
    )
    await pair.services.writer.submit(move)
    data, _ = await pair.ask(
        'mutation { createAsset(input: {templateId: "none", label: "x"}) { userErrors { code } } }', by
    )
    assert json.dumps(data).count("NOT_FOUND") == 1
    await pair.services.recorder.flush()
    pair.services.tell(Topic.AUDIT)
