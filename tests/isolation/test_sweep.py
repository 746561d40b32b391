"""Every field, connection, filter, id and subscription × every role × ids of another institution: nothing is shown,
and nothing is told, not even that something is there."""

import json
import os
import re
import statistics
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from app.kit.clock import system_clock
from app.ledger.model import Effect
from app.positions.lifecycle import Intent
from app.principal import Role
from tests import factories

from . import values
from .conftest import Pair
from .probes import Maker, Slot
from .worlds import OWNED

ROLES = [Role.ADMIN, Role.OPERATOR, Role.READ_ONLY, Role.AUDITOR]


# Every place for every role takes minutes: but for `make sweep` (SWEEP=full), each role asks at every sixth, each at others.
FULL = os.environ.get("SWEEP") == "full"
EVERY = 6


def thinned(slots: list[Slot], role: Role) -> list[Slot]:
    """Those places that this run looks at."""
    return slots if FULL else slots[ROLES.index(role) :: EVERY]


def maker(pair: Pair) -> Maker:
    return Maker(pair.schema._schema, values.good(pair.mine, system_clock()))


def tell(what: str, **sizes: object) -> None:
    """The size of a sweep, in the output of the tests."""
    print(f"\n| {what} | " + " | ".join(f"{name} {size}" for name, size in sizes.items()) + " |")


def missed(pair: Pair, name: str, text: str) -> list[str]:
    return [f"{name}: {word!r} is told" for word in pair.leaks(text)]


@pytest.mark.parametrize("role", ROLES)
async def test_everything_that_can_be_selected_shows_ones_own_alone(pair: Pair, role: Role) -> None:
    made, by, wrong, filled = maker(pair), pair.mine.principal(role), [], Counter[str]()
    for name, document in made.whole():
        data, errors = await pair.ask(document, by)
        told = {error["extensions"]["code"] for error in errors}
        assert told <= {"FORBIDDEN"}, (name, errors)
        wrong += missed(pair, name, json.dumps([data, errors], default=str))
        filled.update(_filled(data))
    assert not wrong
    fields = made.reached()
    tell(
        f"everything selectable, {role}", fields=len(fields), types=len({kind for kind, _ in fields}), leaks=0
    )
    if role is Role.ADMIN:
        # What was looked at is there: of almost every type something was shown.
        # What proves the growth of the whole ledger is the same for everybody: tests/anchoring/test_consistency.py.
        empty = {kind for kind, _ in fields} - set(filled) - {"Query", "WebhookSecret", "AnchorConsistency"}
        assert not empty, empty


def _filled(data: Any) -> list[str]:
    match data:
        case dict():
            own = [data["__typename"]] if "__typename" in data else []
            return own + [name for item in data.values() for name in _filled(item)]
        case list():
            return [name for item in data for name in _filled(item)]
    return []


async def test_the_walk_above_reaches_every_field(pair: Pair) -> None:
    """But for payloads and messages, which the sweeps of mutations and subscriptions select."""
    every = {
        (kind.name, field)
        for kind in pair.schema._schema.type_map.values()
        if kind.__class__.__name__ == "GraphQLObjectType" and not kind.name.startswith("__")
        for field in kind.fields  # type: ignore[union-attr]
    }
    apart = ("Payload", "Message")
    unreached = {
        f"{kind}.{field}"
        for kind, field in every - maker(pair).reached()
        if not kind.endswith(apart)
        and kind not in ("Mutation", "Subscription", "PositionChange", "UserError")
    }
    assert not unreached


async def test_the_sweep_could_find_something(pair: Pair) -> None:
    """Root, who sees everything, would be found out."""
    made, leaks = maker(pair), 0
    from app.principal import root

    for _name, document in made.whole():
        data, errors = await pair.ask(document, root())
        leaks += len(pair.leaks(json.dumps([data, errors], default=str)))
    assert leaks > 100
    assert len(pair.theirs.texts) > 300
    assert len(pair.theirs.ids) == 10


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("role", ROLES)
async def test_queries_tell_nothing_of_what_is_theirs(
    pair: Pair, role: Role, owner: asyncpg.Connection
) -> None:
    made, by = maker(pair), pair.mine.principal(role)
    moment = await owner.fetchval("SELECT created_at FROM positions WHERE id = $1", pair.theirs.ids["pos"])
    slots, asked, compared, wrong = thinned(list(made.slots("query")), role), 0, 0, []
    for slot in slots:
        for pair_ in [*values.twins(slot, made.schema, pair.theirs, pair.nobody, moment)]:
            told = await _asked(pair, slot, pair_.theirs, by)
            asked += 1
            wrong += missed(pair, slot.name, told)
            if pair_.nobodys is not None:
                asked, compared = asked + 1, compared + 1
                if told != await _asked(pair, slot, pair_.nobodys, by):
                    wrong.append(f"{slot.name}: {pair_.theirs} is answered otherwise than {pair_.nobodys}")
    tell(f"queries, {role}", places=len(slots), asked=asked, compared=compared, leaks=len(wrong))
    assert not wrong, wrong[:20]


async def _asked(pair: Pair, slot: Slot, given: str, by: Any) -> str:
    data, errors = await pair.ask(slot.document.replace("{{value}}", given), by)
    for error in errors:
        assert error["extensions"]["code"] != "INTERNAL", (slot.name, given, error)
        # A document that gives another value is another document: its places are elsewhere.
        error.pop("locations", None)
    return values.spelled(data, errors, given)


@pytest.mark.parametrize("role", ROLES)
async def test_their_cursors_lead_nowhere_of_theirs(pair: Pair, role: Role) -> None:
    made, asked, wrong = maker(pair), 0, []
    slots = [slot for slot in made.slots("query") if slot.argument_path[-1] in ("after", "before")]
    whole = dict(made.whole())
    theirs = Maker(made.schema, values.good(pair.theirs, system_clock()))
    their_documents = dict(theirs.whole())
    for slot in slots:
        name = slot.field_path[0]
        data, _ = await pair.ask(their_documents[name], pair.theirs.principal(Role.ADMIN))
        found = sorted(set(_cursors(data)))[:6]
        for cursor in found:
            data, errors = await pair.ask(
                slot.document.replace("{{value}}", values.literal(cursor)), pair.mine.principal(role)
            )
            asked += 1
            assert "INTERNAL" not in values.codes(data, errors), (slot.name, errors)
            text = json.dumps([data, errors], default=str).replace(cursor, "<given>")
            wrong += missed(pair, slot.name, text)
    assert whole
    tell(f"cursors, {role}", places=len(slots), asked=asked, leaks=len(wrong))
    assert asked > len(slots)
    assert not wrong


def _cursors(data: Any) -> list[str]:
    match data:
        case dict():
            own = [data[name] for name in ("cursor", "endCursor") if isinstance(data.get(name), str)]
            return own + [cursor for item in data.values() for cursor in _cursors(item)]
        case list():
            return [cursor for item in data for cursor in _cursors(item)]
    return []


FOOTPRINT = """
SELECT string_agg(md5(t::text), '' ORDER BY t::text) FROM {table} t
"""
# Written by the way, and not for whoever asks.
UNCOUNTED = {"audit_events"}


async def footprint(owner: asyncpg.Connection) -> dict[str, str | None]:
    """Every row of every table that belongs to somebody."""
    tables = [row["name"] for row in await owner.fetch(OWNED) if row["name"] not in UNCOUNTED]
    return {table: await owner.fetchval(FOOTPRINT.format(table=table)) for table in tables}


@pytest.mark.sweep
@pytest.mark.parametrize("role", ROLES)
async def test_mutations_refuse_their_ids_as_if_nobody_had_them(
    pair: Pair, role: Role, owner: asyncpg.Connection
) -> None:
    made, by = maker(pair), pair.mine.principal(role)
    slots = [slot for slot in made.slots("mutation") if slot.type == "ID"]
    asked, wrong, told = 0, [], Counter[str]()
    for slot in slots:
        before = await footprint(owner)
        for twins in values.twins(slot, made.schema, pair.theirs, pair.nobody, system_clock()):
            answers = []
            for given in (twins.theirs, twins.nobodys):
                assert given is not None
                data, errors = await pair.ask(slot.document.replace("{{value}}", given), by)
                for error in errors:
                    error.pop("locations", None)
                found = values.codes(data, errors)
                assert len(found) == 1, (slot.name, given, data, errors)
                assert found[0] in ("NOT_FOUND", "FORBIDDEN"), (slot.name, given, found)
                told.update(found)
                asked += 1
                answers.append(values.spelled(data, errors, given))
            wrong += missed(pair, slot.name, answers[0])
            if answers[0] != answers[1]:
                wrong.append(f"{slot.name}: {answers[0]} is not {answers[1]}")
        assert await footprint(owner) == before, slot.name
    tell(f"mutations, {role}", places=len(slots), asked=asked, told=dict(told), leaks=len(wrong))
    assert not wrong, wrong[:20]


# An institution has a bounded number of endpoints.
ROOM = """
UPDATE webhook_endpoints SET enabled = false, disabled_reason = 'ASKED', deleted_at = now()
WHERE institution_id = $1 AND id <> $2
"""


@pytest.mark.sweep
@pytest.mark.parametrize("role", [Role.ADMIN, Role.OPERATOR])
async def test_words_of_theirs_are_free_to_use(pair: Pair, role: Role, owner: asyncpg.Connection) -> None:
    """References, keys and names are unique within an institution: that they have one already is not to be felt."""
    by, asked, wrong = pair.mine.principal(role), 0, []
    places = [
        slot
        for slot in maker(pair).slots("mutation")
        if slot.type in ("String", "JSONObject", "DateTime", "Decimal")
    ]
    places = thinned(places, role)
    theirs_before = await _rows_of(owner, pair.theirs.institution_id)
    given_yet: set[str] = set()
    for slot in places:
        for twins in [*values.twins(slot, pair.schema._schema, pair.theirs, pair.nobody, system_clock())]:
            answers = []
            for given in (twins.theirs, twins.nobodys):
                if given is None:
                    continue
                document = await _fresh(pair, slot)
                if slot.field_path[0] == "createWebhookEndpoint":
                    await owner.execute(ROOM, pair.mine.institution_id, pair.mine.ids["whe"])
                data, errors = await pair.ask(document.replace("{{value}}", given), by)
                asked += 1
                for error in errors:
                    assert error["extensions"]["code"] != "INTERNAL", (slot.name, given, error)
                    error.pop("locations", None)
                answers.append(values.outcome(data, errors, given))
                given_yet.update(re.findall(r'"([^"]*)"', given))
                text = json.dumps([data, errors], default=str)
                for word in given_yet:
                    text = text.replace(word, "<given>")
                wrong += missed(pair, slot.name, text)
            if len(answers) == 2 and answers[0] != answers[1]:
                wrong.append(f"{slot.name}: {twins.theirs}: {answers[0]} is not {answers[1]}")
    tell(f"words in mutations, {role}", places=len(places), asked=asked, leaks=len(wrong))
    assert not wrong, "\n".join(wrong[:20])
    assert await _rows_of(owner, pair.theirs.institution_id) == theirs_before


async def _fresh(pair: Pair, slot: Slot) -> str:
    """The place's document on a position of one's own that can do what is asked."""
    intents = {"releasePosition": 1, "fundPosition": 0}
    if "MovePositionInput.id" not in _needs(slot):
        return slot.document
    opened = await factories.position(
        pair.services, await _asset(pair), "2000.00", by=pair.mine.principal(Role.ADMIN)
    )
    if intents.get(slot.field_path[0]):
        move = factories.move(pair.services, opened, Intent(effect=Effect.FUND))
        await pair.services.writer.submit(move)
    return slot.document.replace(pair.mine.ids["pos"], opened.id)


def _needs(slot: Slot) -> str:
    moves = ("fund", "release", "cancel", "expire", "transition")
    return "MovePositionInput.id" if slot.field_path[0].startswith(moves) else ""


async def _asset(pair: Pair) -> Any:
    found = await pair.services.assets.get(
        pair.services.database, pair.mine.institution_id, pair.mine.ids["ast"]
    )
    assert found is not None
    return found[0]


async def _rows_of(owner: asyncpg.Connection, institution_id: str) -> dict[str, str | None]:
    return {
        row["name"]: await owner.fetchval(
            f"SELECT md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM {row['name']} t WHERE {row['column']} = $1",
            institution_id,
        )
        for row in await owner.fetch(OWNED)
    }


# By variables: a document that is new has to be parsed, whoever it is about.
PROBES = {
    "node": "query ($id: ID!) { node(id: $id) { id } }",
    "position": "query ($id: ID!) { position(id: $id) { id held events(first: 5) { totalCount } } }",
    "asset": "query ($id: ID!) { asset(id: $id) { id positions(first: 5) { totalCount } } }",
    "filter": "query ($id: ID!) { positions(where: {assetId: {eq: $id}}, first: 5) { totalCount } }",
    "events": "query ($id: ID!) { ledgerEvents(where: {positionId: {eq: $id}}, first: 5) { totalCount } }",
    "audit": "query ($id: ID!) { auditEvents(where: {resourceId: {eq: $id}}, first: 5) { totalCount } }",
    "fund": "mutation ($id: ID!) { fundPosition(input: {id: $id}) { userErrors { code } } }",
    "create": 'mutation ($id: ID!) { createPosition(input: {assetId: $id, holderReference: "h", currency: "USD", '
    'amount: "1500"}) { userErrors { code } } }',
    "asset of": 'mutation ($id: ID!) { createAsset(input: {templateId: $id, label: "l"}) { userErrors { code } } }',
    "revoke": "mutation ($id: ID!) { revokeApiKey(input: {id: $id}) { userErrors { code } } }",
    "replay": "mutation ($id: ID!) { replayWebhooks(input: {endpointId: $id}) { userErrors { code } } }",
}
OF = {"asset": "ast", "filter": "ast", "create": "ast", "asset of": "tmpl", "revoke": "key", "replay": "whe"}
ROUNDS = 80
RATIO_MAX = 1.5


@pytest.mark.sweep
async def test_it_takes_as_long_to_find_nothing_as_to_find_what_is_theirs(pair: Pair) -> None:
    by, ratios = pair.mine.principal(Role.ADMIN), {}
    for name, document in PROBES.items():
        prefix = OF.get(name, "pos")
        for attempt in range(3):
            ratios[name] = await _ratio(pair, by, document, prefix)
            # A machine that does something else at the wrong moment is given another chance.
            if 1 / RATIO_MAX < ratios[name] < RATIO_MAX or attempt == 2:
                break
    tell("time, theirs to nobody's", **{name: f"{ratio:.2f}" for name, ratio in ratios.items()})
    assert all(1 / RATIO_MAX < ratio < RATIO_MAX for ratio in ratios.values()), ratios


async def _ratio(pair: Pair, by: Any, document: str, prefix: str) -> float:
    theirs: list[float] = []
    nobodys: list[float] = []
    for number in range(ROUNDS):
        # In turns, and which comes first in turns, too.
        for times in (theirs, nobodys) if number % 2 else (nobodys, theirs):
            id_ = pair.theirs.ids[prefix] if times is theirs else pair.services.ids.new(prefix)
            began = time.perf_counter()
            await pair.ask(document, by, {"id": id_})
            times.append(time.perf_counter() - began)
    return statistics.median(theirs) / statistics.median(nobodys)


async def test_time_of_their_rows_is_known_to_the_test(pair: Pair, owner: asyncpg.Connection) -> None:
    """The instant that filters are given is one of theirs."""
    at = await owner.fetchval("SELECT created_at FROM positions WHERE id = $1", pair.theirs.ids["pos"])
    assert system_clock() - at < timedelta(minutes=10)
