"""Institutions and their keys, and the rules for making them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from app.errors import ErrorCode, Invalid, Refused
from app.kit.chain import digest
from app.kit.text import BadText, check_name
from app.principal import ROLE_SCOPES, Principal, Role, Scope

NAME_LENGTH_MAX = 255
LABEL_LENGTH_MAX = 255
ENTRIES_MAX = 10
SCOPE_SETS_MAX = 1_024
KEY_START = "eg_"
SECRET_BYTES = 32
PREFIX_LENGTH = 10
OVERLAP_SECONDS_MAX = 7 * 24 * 3600
OVERLAP_SECONDS_DEFAULT = 3600


class Region(StrEnum):
    """Where an institution works."""

    US = "US"
    EU_UK = "EU_UK"
    SG = "SG"
    UAE = "UAE"


class Vertical(StrEnum):
    """A line of business."""

    CONSTRUCTION = "CONSTRUCTION"
    TRADE_FINANCE = "TRADE_FINANCE"


@dataclass(frozen=True, slots=True)
class Institution:
    """A tenant: everything else belongs to one."""

    id: str
    name: str
    regions: tuple[Region, ...]
    verticals: tuple[Vertical, ...]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of an institution; its secrets are not part of it, and nobody can tell them again.

    While it is rotated it has two of them: the one in force and, until `previous_ends_at`, the one before.
    """

    id: str
    institution_id: str
    label: str
    role: Role
    scopes: tuple[Scope, ...]
    prefix: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    rotated_at: datetime | None = None
    previous_prefix: str | None = None
    previous_ends_at: datetime | None = None
    previous_used_at: datetime | None = None

    def usable(self, now: datetime) -> bool:
        """Whether it opens anything now."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def allowed(self) -> frozenset[Scope]:
        """What it may do; what its role does not allow it does not allow either."""
        return _allowed(self.scopes, self.role)

    @property
    def principal(self) -> Principal:
        """Who asks with this key."""
        ends = self.expires_at
        return Principal(self.id, self.label, self.role, self.institution_id, self.allowed, ends, ends)


# Live connections keep what they may do for as long as they last: few sets, however many there are.
@lru_cache(maxsize=SCOPE_SETS_MAX)
def _allowed(scopes: tuple[Scope, ...], role: Role) -> frozenset[Scope]:
    return frozenset(scopes) & ROLE_SCOPES[role]


@dataclass(frozen=True, slots=True)
class Held:
    """A key as one of its secrets holds it: the one in force, or the one before."""

    key: ApiKey
    previous: bool = False

    def usable(self, now: datetime) -> bool:
        """Whether that secret opens anything now."""
        ends = self.key.previous_ends_at
        return self.key.usable(now) and (not self.previous or (ends is not None and now < ends))

    @property
    def used_at(self) -> datetime | None:
        """When that secret was last used."""
        return self.key.previous_used_at if self.previous else self.key.last_used_at

    @property
    def principal(self) -> Principal:
        """Who asks with that secret: with the one before, not for longer than it lasts."""
        asks = self.key.principal
        ends = [end for end in (asks.expires_at, self.key.previous_ends_at) if end is not None]
        if not self.previous or not ends:
            return asks
        return replace(asks, expires_at=min(ends), keys_end_by=min(ends))


@dataclass(frozen=True, slots=True)
class Use:
    """Which secret of which key was used."""

    institution_id: str
    key_id: str
    previous: bool


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, and its secret: told once, kept nowhere."""

    key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyDraft:
    """What a new key shall be; `scopes` None: all of its role's."""

    label: str
    role: Role
    scopes: Sequence[Scope] | None = None
    expires_at: datetime | None = None


def new_institution(
    institution_id: str,
    name: str,
    regions: Sequence[Region],
    verticals: Sequence[Vertical] | None,
    now: datetime,
) -> Institution:
    """A well-formed institution; raises `Invalid` otherwise. Without verticals it works in all of them."""
    if verticals is None:
        verticals = tuple(Vertical)
    return Institution(
        institution_id,
        _text(name, NAME_LENGTH_MAX, "name"),
        _distinct(regions, "regions"),
        _distinct(verticals, "verticals"),
        now,
        now,
    )


def new_key(
    key_id: str, institution_id: str, draft: KeyDraft, *, secret: str, actor: Principal, now: datetime
) -> ApiKey:
    """A well-formed key; raises `Invalid` otherwise, and `Refused` when it can do more than its maker, or longer."""
    _text(draft.label, LABEL_LENGTH_MAX, "label")
    if draft.role is Role.ROOT:
        raise Invalid("a key is ADMIN, OPERATOR, READ_ONLY or AUDITOR", "role")
    scopes = _scopes(draft.role, draft.scopes)
    _check_reach(actor, scopes, "scopes")
    if draft.expires_at is not None and draft.expires_at <= now:
        raise Invalid("the key would have expired already", "expiresAt")
    if (latest := _outlived(actor, draft.expires_at)) is not None:
        words = f"you can make no key that lasts longer than {latest}: name an expiresAt by then"
        raise Refused(ErrorCode.ROLE_REFUSED, words, "expiresAt")
    return ApiKey(
        id=key_id,
        institution_id=institution_id,
        label=draft.label,
        role=draft.role,
        scopes=scopes,
        prefix=prefix_of(secret),
        created_at=now,
        updated_at=now,
        expires_at=draft.expires_at,
        last_used_at=None,
        revoked_at=None,
    )


def overlap_end(key: ApiKey, overlap_seconds: int, *, actor: Principal, now: datetime) -> datetime | None:
    """Until when the secret in force opens what it opens, once another one is in force; None: no longer.

    Raises `Refused` when the key can do more than who asks, or for longer: its new secret would be theirs.
    """
    if not 0 <= overlap_seconds <= OVERLAP_SECONDS_MAX:
        raise Invalid(f"overlapSeconds is between 0 and {OVERLAP_SECONDS_MAX}", "overlapSeconds")
    if not key.usable(now):
        raise Invalid("the key is revoked or has expired: make a new one", "id")
    _check_reach(actor, key.allowed, "id")
    if (latest := _outlived(actor, key.expires_at)) is not None:
        words = f"you can rotate no key that lasts longer than {latest}: its new secret would be yours"
        raise Refused(ErrorCode.ROLE_REFUSED, words, "id")
    return now + timedelta(seconds=overlap_seconds) if overlap_seconds else None


def prefix_of(secret: str) -> str:
    """What may be shown of a secret, to tell keys apart."""
    return secret[:PREFIX_LENGTH]


def secret_hash(secret: str) -> bytes:
    """What is kept of a secret. It has 256 random bits, so that a plain hash cannot be guessed back."""
    return digest(secret.encode("utf-8", "surrogatepass"))


def _scopes(role: Role, scopes: Sequence[Scope] | None) -> tuple[Scope, ...]:
    allowed = ROLE_SCOPES[role]
    if scopes is None:
        return _in_order(allowed)
    if not scopes:
        raise Invalid("name at least one scope, or leave scopes out for all of the role's", "scopes")
    if len(set(scopes)) < len(scopes):
        raise Invalid("scopes names the same one twice", "scopes")
    if beyond := set(scopes) - allowed:
        names = ", ".join(sorted(scope.name for scope in beyond))
        raise Invalid(f"the role {role} does not have the scopes {names}", "scopes")
    return _in_order(scopes)


def _check_reach(actor: Principal, scopes: Collection[Scope], name: str) -> None:
    if not actor.scopes.issuperset(scopes):
        missing = ", ".join(sorted(scope.name for scope in set(scopes) - actor.scopes))
        raise Refused(ErrorCode.ROLE_REFUSED, f"you cannot give what you do not have: {missing}", name)


def _outlived(actor: Principal, ends: datetime | None) -> str | None:
    """Where the actor's keys have to end by, when one that ends then would outlive that; None when it would not."""
    latest = actor.keys_end_by
    return None if latest is None or (ends is not None and ends <= latest) else latest.isoformat()


def _in_order(scopes: Collection[Scope]) -> tuple[Scope, ...]:
    return tuple(scope for scope in Scope if scope in scopes)


E = TypeVar("E", bound=StrEnum)


def _distinct(entries: Sequence[E], name: str) -> tuple[E, ...]:
    if not 1 <= len(entries) <= ENTRIES_MAX:
        raise Invalid(f"{name} has between 1 and {ENTRIES_MAX} entries", name)
    if len(set(entries)) < len(entries):
        raise Invalid(f"{name} names the same one twice", name)
    return tuple(entries)


def _text(value: str, length_max: int, name: str) -> str:
    try:
        return check_name(value, length_max=length_max)
    except BadText as error:
        raise Invalid(str(error), name) from None
