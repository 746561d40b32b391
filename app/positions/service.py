"""What can be done with positions, open one and move one: wishes become checked commands for the writer."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from app.assets.model import Asset, AssetTemplate
from app.assets.objects import check_object
from app.audit import service as audit
from app.audit.model import Action
from app.errors import Invalid, NotFound
from app.kit import chain, money
from app.kit.canonical import Json, plain_json
from app.kit.ids import Ids, is_id
from app.kit.money import CURRENCIES, BadAmount, Currency, plain
from app.kit.text import BadText, check_name, check_text
from app.ledger.model import Actor, Key, Personal
from app.ledger.writer import Listed
from app.personal.service import Holders
from app.positions.commands import CreatePosition, MovePosition
from app.positions.lifecycle import Intent, Lifecycle
from app.positions.model import (
    DEADLINE_MAX,
    KEY_LENGTH_MAX,
    REASON_LENGTH_MAX,
    REFERENCE_LENGTH_MAX,
)
from app.principal import CLERK, Principal
from app.storage.database import driver_of

if TYPE_CHECKING:
    from app.audit.service import Work

OCCURRED_AHEAD_MAX = timedelta(minutes=5)

Lifecycles = Mapping[tuple[str, int], Lifecycle]
Metadata = Mapping[str, Json] | None


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, by which request, when, and with what the server has to answer with."""

    principal: Principal
    request_id: str
    now: datetime
    ids: Ids
    lifecycles: Lifecycles

    @property
    def actor(self) -> Actor:
        """As the ledger notes it."""
        return Actor(self.principal.id, self.principal.role, self.request_id)


@dataclass(frozen=True, slots=True)
class Opening:
    """A position as somebody asks for it."""

    asset_id: str
    holder_reference: str
    currency: str
    amount: Decimal
    external_reference: str | None = None
    expires_at: datetime | None = None
    occurred_at: datetime | None = None
    reason: str | None = None
    metadata: Mapping[str, Json] | None = None
    idempotency_key: str | None = None
    listed: Listed | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A transition as somebody asks for it."""

    operation: str
    position_id: str
    intent: Intent
    reason: str | None = None
    metadata: Mapping[str, Json] | None = None
    expected_version: int | None = None
    occurred_at: datetime | None = None
    idempotency_key: str | None = None
    listed: Listed | None = None


def create(asker: Asker, opening: Opening, place: tuple[Asset, AssetTemplate] | None) -> CreatePosition:
    """The command that opens a position on an asset; raises `Refusal` for what is malformed."""
    currency = _currency(opening.currency)
    amount = _amount(opening.amount, currency)
    personal = _personal(opening.holder_reference, opening.reason, opening.metadata)
    reference = _name(opening.external_reference, REFERENCE_LENGTH_MAX, "externalReference")
    if opening.expires_at is not None and opening.expires_at > DEADLINE_MAX:
        raise Invalid("the deadline is too late to be kept; leave it out for none", "expiresAt")
    if place is None:
        raise NotFound("asset", "assetId")
    key = _key(
        asker,
        opening,
        {
            "operation": "createPosition",
            "assetId": opening.asset_id,
            "currency": currency.code,
            "amount": plain(amount),
            "externalReference": reference,
            "expiresAt": _time(opening.expires_at),
            "occurredAt": _time(opening.occurred_at),
        },
    )
    asset, template = place
    return CreatePosition(
        actor=asker.actor,
        key=key,
        personal=personal,
        institution_id=asset.institution_id,
        position_id=asker.ids.new("pos"),
        asset_id=asset.id,
        template=template,
        lifecycle=asker.lifecycles[template.lifecycle_name, template.lifecycle_version],
        external_reference=reference,
        currency=currency.code,
        amount=amount,
        expires_at=opening.expires_at,
        occurred_at=_occurred(asker, opening.occurred_at),
        listed=opening.listed,
    )


def move(asker: Asker, wanted: Move, institution_id: str) -> MovePosition:
    """The command that moves a position of an institution; raises `Refusal` for what is malformed."""
    if not is_id(wanted.position_id, "pos"):
        raise NotFound("position", "id")
    if wanted.expected_version is not None and wanted.expected_version < 1:
        raise Invalid("versions start at 1", "expectedVersion")
    intent = wanted.intent
    if intent.amount is not None and intent.amount <= 0:
        raise Invalid("the amount must be greater than zero", "amount")
    if intent.stage is None and intent.state is None and intent.effect is None:
        raise Invalid("say where to: give toState, or toStage", "toState")
    if intent.stage is not None:
        _text(intent.stage, REFERENCE_LENGTH_MAX, "toStage")
    key = _key(
        asker,
        wanted,
        {
            "operation": wanted.operation,
            "id": wanted.position_id,
            "stage": intent.stage,
            "state": intent.state,
            "effect": intent.effect,
            "amount": None if intent.amount is None else plainest(intent.amount),
            "expectedVersion": wanted.expected_version,
            "occurredAt": _time(wanted.occurred_at),
        },
    )
    return MovePosition(
        actor=asker.actor,
        key=key,
        personal=_personal(None, wanted.reason, wanted.metadata),
        institution_id=institution_id,
        position_id=wanted.position_id,
        intent=intent,
        role=asker.principal.role,
        lifecycles=asker.lifecycles,
        expected_version=wanted.expected_version,
        occurred_at=_occurred(asker, wanted.occurred_at),
        listed=wanted.listed,
    )


@dataclass(frozen=True, slots=True)
class Erased:
    """A holder who is no more: the id that stays, and of how many events values went."""

    holder_id: str
    events: int


async def erase_holder(work: "Work", institution_id: str, holders: Holders, reference: str) -> Erased:
    """Destroy the key of a holder and what it sealed; raises `NotFound` when nobody is called so (any more)."""
    _text(reference, REFERENCE_LENGTH_MAX, "holderReference")
    found = await holders.erase(await driver_of(work.connection), institution_id, reference)
    if found is None:
        raise NotFound("holder", "holderReference")
    await audit.record(
        work,
        action=Action.HOLDER_ERASED,
        resource_type="holder",
        resource_id=found[0],
        institution_id=institution_id,
        payload={"events": found[1]},
    )
    return Erased(*found)


def _currency(code: str) -> Currency:
    currency = CURRENCIES.get(code.upper())
    if currency is None:
        raise Invalid("the currency is not known; `currencies` lists those that are", "currency")
    return currency


def _amount(amount: Decimal, currency: Currency) -> Decimal:
    try:
        return money.check_amount(amount, currency)
    except BadAmount as error:
        raise Invalid(str(error), "amount") from None


def _personal(
    holder_reference: str | None, reason: str | None, metadata: Mapping[str, Json] | None
) -> Personal:
    return Personal(
        holder_reference=_name(holder_reference, REFERENCE_LENGTH_MAX, "holderReference"),
        reason=_text(reason, REASON_LENGTH_MAX, "reason"),
        metadata=None if metadata is None else check_object(metadata, "metadata"),
    )


def _name(value: str | None, length_max: int, field: str) -> str | None:
    try:
        return None if value is None else check_name(value, length_max=length_max)
    except BadText as error:
        raise Invalid(str(error), field) from None


def _text(value: str | None, length_max: int, field: str) -> str | None:
    try:
        return None if value is None else check_text(value, length_max=length_max)
    except BadText as error:
        raise Invalid(str(error), field) from None


def _occurred(asker: Asker, moment: datetime | None) -> datetime | None:
    if moment is not None and moment > asker.now + OCCURRED_AHEAD_MAX:
        raise Invalid("it cannot have occurred in the future", "occurredAt")
    return moment


def _key(asker: Asker, asked: Opening | Move, content: Mapping[str, Json]) -> Key:
    value = _text(asked.idempotency_key, KEY_LENGTH_MAX, "idempotencyKey") or asker.ids.new("auto")
    # Personal values are compared through their commitments: a plain hash of them could be guessed.
    plain_content = chain.digest(plain_json(content).encode())
    fingerprint = plain_content if asked.listed is None else asked.listed.fingerprint
    # The clerk's keys are its own: nobody, not even root, can use one up before a deadline has passed.
    owner = CLERK.id if asker.principal == CLERK else asker.principal.institution_id
    return Key(owner, value, fingerprint)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def plainest(amount: Decimal) -> str:
    """An amount without zeros that say nothing."""
    return plain(amount).rstrip("0").rstrip(".") if "." in plain(amount) else plain(amount)
