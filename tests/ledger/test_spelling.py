"""The bytes that are hashed, frozen: a change here is a new hash version, never an edit."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from app.kit.chain import GENESIS, commit
from app.ledger import spelling
from app.ledger.model import (
    Account,
    Actor,
    Balances,
    Commitments,
    Effect,
    Event,
    Key,
    Kind,
    Personal,
    Posting,
    Salts,
)
from app.ledger.spelling import FIXED_V1, PLACED_V1, event_hash

NOTHING = Decimal("0.00")
CREATED = Event(
    global_sequence=7,
    sequence=1,
    id="evt_01kjmma2g0e008000000000001",
    institution_id="inst_01kjmma2g0e008000000000002",
    position_id="pos_01kjmma2g0e008000000000003",
    position_version=1,
    kind=Kind.POSITION_CREATED,
    kind_version=1,
    previous_state=None,
    new_state="CREATED",
    previous_stage=None,
    new_stage="CREATED",
    effect=Effect.NONE,
    currency="USD",
    amount_moved=NOTHING,
    postings=(),
    balances=Balances(NOTHING, NOTHING, NOTHING, NOTHING),
    data={
        "externalReference": 'a "quoted" é€😀',
        "amount": "1000.00",
        "assetId": "ast_01kjmma2g0e008000000000004",
        "expiresAt": None,
    },
    evidence={},
    actor=Actor("root", "ROOT", "req_01kjmma2g0e008000000000005"),
    key=Key(None, "auto_01kjmma2g0e008000000000006", bytes(range(32))),
    template_id="tmpl_01kjmma2g0e008000000000007",
    policy_id=None,
    lifecycle_name="escrow",
    lifecycle_version=1,
    occurred_at=datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    recorded_at=datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
    commitments=Commitments(holder=commit(bytes(16), b"HOLDER-1")),
    previous_hash=GENESIS,
    hash=b"",
    hash_version=1,
)
CREATED_BYTES = (
    '[1,"evt_01kjmma2g0e008000000000001","inst_01kjmma2g0e008000000000002","pos_01kjmma2g0e008000000'
    '000003",1,"POSITION_CREATED",1,null,"CREATED",null,"CREATED","NONE","USD","0.00",[],"0.00","0.0'
    '0","0.00","0.00","{\\"amount\\":\\"1000.00\\",\\"assetId\\":\\"ast_01kjmma2g0e008000000000004\\",\\"expi'
    'resAt\\":null,\\"externalReference\\":\\"a \\\\\\"quoted\\\\\\" é€😀\\"}","{}","root","ROOT","req_01kjmma2g'
    '0e008000000000005",null,"auto_01kjmma2g0e008000000000006","000102030405060708090a0b0c0d0e0f1011'
    '12131415161718191a1b1c1d1e1f","tmpl_01kjmma2g0e008000000000007",null,"escrow",1,"1fe76b882202f7'
    'a7fbef15ecb1b5c0dd93337b50d98b687de6978cc6fd060436",null,null,7,1,-1,1772366400123456]'
).encode()
CREATED_HASH = "ce8be1b7dccbfeaa2ffd2f802138b2aba3f3e05bad9f1df1b9557546f9bf6cce"

MOVED = Decimal("0.000000000000000001")
RELEASED = replace(
    CREATED,
    global_sequence=9_007_199_254_740_993,
    sequence=2,
    position_version=3,
    kind=Kind.POSITION_STATE_CHANGED,
    previous_state="FUNDED",
    new_state="PARTIALLY_RELEASED",
    previous_stage="FUNDED",
    new_stage="PARTIALLY_RELEASED",
    effect=Effect.RELEASE,
    currency="ETH",
    amount_moved=MOVED,
    postings=(
        Posting(Account.CLEARING_OUT_BENEFICIARY, MOVED, "ETH"),
        Posting("held:pos_01kjmma2g0e008000000000003", -MOVED, "ETH"),
    ),
    balances=Balances(Decimal("1E+15"), MOVED, Decimal(0), Decimal("999999999999999.999999999999999999")),
    data={},
    evidence={"deadline": "2026-04-01T00:00:00+00:00", "deadlinePassed": False, "n": [Decimal("1.50"), 2]},
    actor=Actor("key_01kjmma2g0e008000000000008", "OPERATOR", "req_1"),
    key=Key("inst_01kjmma2g0e008000000000002", "schlüssel\n1", bytes(32)),
    policy_id="pol_01kjmma2g0e008000000000009",
    commitments=Commitments(None, commit(bytes(16), b"why"), commit(bytes(16), b'{"a":1}')),
    occurred_at=datetime(2026, 3, 1, 13, 30, tzinfo=timezone(timedelta(hours=1))),
)
RELEASED_BYTES = (
    '[1,"evt_01kjmma2g0e008000000000001","inst_01kjmma2g0e008000000000002","pos_01kjmma2g0e008000000'
    '000003",3,"POSITION_STATE_CHANGED",1,"FUNDED","PARTIALLY_RELEASED","FUNDED","PARTIALLY_RELEASED'
    '","RELEASE","ETH","0.000000000000000001",[["clearing:out:beneficiary","0.000000000000000001","E'
    'TH"],["held:pos_01kjmma2g0e008000000000003","-0.000000000000000001","ETH"]],"1000000000000000.0'
    '00000000000000000","0.000000000000000001","0.000000000000000000","999999999999999.9999999999999'
    '99999","{}","{\\"deadline\\":\\"2026-04-01T00:00:00+00:00\\",\\"deadlinePassed\\":false,\\"n\\":[1.5,2]'
    '}","key_01kjmma2g0e008000000000008","OPERATOR","req_1","inst_01kjmma2g0e008000000000002","schlü'
    'ssel\\n1","0000000000000000000000000000000000000000000000000000000000000000","tmpl_01kjmma2g0e00'
    '8000000000007","pol_01kjmma2g0e008000000000009","escrow",1,null,"6c3483b01d504d9cd8678e43daa8f7'
    '6c076651f38f3ecf8327efeeb3305365f8","c5961791f82c7a925cef5b9fb7af1e2b205b05ab33c26b1ddabac8b2ff'
    '90930d",9007199254740993,2,1772368200000000,1772366400123456]'
).encode()
RELEASED_HASH = "7545d8fcc51eeb4e86cf1937771b58621f8f6b0b4824d59dedfe0c4e9f912271"


@pytest.mark.parametrize(
    ("event", "content"), [(CREATED, CREATED_BYTES), (RELEASED, RELEASED_BYTES)], ids=["created", "released"]
)
def test_the_bytes_of_an_event_are_frozen(event: Event, content: bytes) -> None:
    assert spelling.spelling(event) == content


def test_the_hashes_of_these_events_are_frozen() -> None:
    first = event_hash(GENESIS, CREATED_BYTES)
    assert first.hex() == CREATED_HASH
    assert event_hash(first, RELEASED_BYTES).hex() == RELEASED_HASH


def test_the_list_of_fields_is_frozen() -> None:
    assert (*FIXED_V1, *PLACED_V1) == (
        "hashVersion", "id", "institutionId", "positionId", "positionVersion", "kind", "kindVersion",
        "previousState", "newState", "previousStage", "newStage", "effect", "currency", "amountMoved", "postings",
        "funded", "released", "refunded", "held", "data", "evidence", "actorId", "actorRole", "requestId",
        "keyInstitutionId", "idempotencyKey", "fingerprint", "templateId", "policyId", "lifecycleName",
        "lifecycleVersion", "holderCommitment", "reasonCommitment", "metadataCommitment",
        "globalSequence", "sequence", "occurredAt", "recordedAt",
    )  # fmt: skip


CHANGES: Mapping[str, Any] = {
    "global_sequence": 8,
    "sequence": 3,
    "id": "evt_x",
    "institution_id": "inst_x",
    "position_id": "pos_x",
    "position_version": 4,
    "kind": Kind.POSITION_CREATED,
    "kind_version": 2,
    "previous_state": None,
    "new_state": "RELEASED",
    "previous_stage": "x",
    "new_stage": "x",
    "effect": Effect.REFUND,
    "amount_moved": Decimal(1),
    "postings": (),
    "balances": Balances(),
    "data": {"a": 1},
    "evidence": {},
    "actor": Actor("root", "OPERATOR", "req_1"),
    "key": Key(None, "schlüssel\n1", bytes(32)),
    "template_id": "tmpl_x",
    "policy_id": None,
    "lifecycle_name": "x",
    "lifecycle_version": 2,
    "occurred_at": RELEASED.recorded_at,
    "recorded_at": RELEASED.recorded_at + timedelta(microseconds=1),
    "commitments": Commitments(),
    "hash_version": 2,
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_is_part_of_the_bytes(field: str) -> None:
    assert spelling.spelling(replace(RELEASED, **{field: CHANGES[field]})) != RELEASED_BYTES


@pytest.mark.parametrize("name", ["funded", "released", "refunded", "held"])
def test_every_balance_is_part_of_the_bytes(name: str) -> None:
    other = replace(RELEASED, balances=replace(RELEASED.balances, **{name: Decimal(3)}))
    assert spelling.spelling(other) != RELEASED_BYTES


@pytest.mark.parametrize("name", ["id", "role", "request_id"])
def test_every_part_of_the_actor_is_part_of_the_bytes(name: str) -> None:
    other = replace(RELEASED, actor=replace(RELEASED.actor, **{name: "x"}))
    assert spelling.spelling(other) != RELEASED_BYTES


@pytest.mark.parametrize(("name", "value"), [("institution_id", "x"), ("value", "x"), ("fingerprint", b"x")])
def test_every_part_of_the_key_is_part_of_the_bytes(name: str, value: Any) -> None:
    assert spelling.spelling(replace(RELEASED, key=replace(RELEASED.key, **{name: value}))) != RELEASED_BYTES


@pytest.mark.parametrize("name", ["holder", "reason", "metadata"])
def test_every_commitment_is_part_of_the_bytes(name: str) -> None:
    other = replace(RELEASED, commitments=replace(RELEASED.commitments, **{name: b"\x01" * 32}))
    assert spelling.spelling(other) != RELEASED_BYTES


def test_the_spelling_of_an_amount_does_not_depend_on_its_digits_nor_that_of_a_time_on_its_zone() -> None:
    utc = RELEASED.occurred_at.astimezone(UTC)
    same = replace(RELEASED, balances=replace(RELEASED.balances, funded=Decimal(10) ** 15), occurred_at=utc)
    assert spelling.spelling(same) == RELEASED_BYTES


def test_a_commitment_binds_to_salt_and_value_and_is_absent_where_there_is_none() -> None:
    salts = Salts(bytes(16), b"\x01" * 16, b"\x02" * 16)
    made = spelling.commitments(Personal("HOLDER-1", "why", {"b": Decimal("1.0"), "a": "é"}), salts)
    assert made == Commitments(
        commit(bytes(16), b"HOLDER-1"),
        commit(b"\x01" * 16, b"why"),
        commit(b"\x02" * 16, '{"a":"é","b":1}'.encode()),
    )
    assert spelling.commitments(Personal(), Salts(None, None, None)) == Commitments()
