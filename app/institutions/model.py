"""Institutions and their keys, and the rules for making them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from app.errors import ErrorCode, Invalid, Refused
from app.kit.chain import digest
from app.kit.text import BadText, check_text
from app.principal import ROLE_SCOPES, Principal, Role, Scope

NAME_LENGTH_MAX = 255
LABEL_LENGTH_MAX = 255
ENTRIES_MAX = 10
KEY_START = "eg_"
SECRET_BYTES = 32
PREFIX_LENGTH = 10


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
    """A key of an institution; the secret is not part of it, and nobody can tell it again."""

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

    def usable(self, now: datetime) -> bool:
        """Whether it opens anything now."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def principal(self) -> Principal:
        """Who asks with this key; what its role does not allow it does not allow either."""
        allowed = frozenset(self.scopes) & ROLE_SCOPES[self.role]
        return Principal(self.id, self.label, self.role, self.institution_id, allowed)


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
    """A well-formed key; raises `Invalid` otherwise, and `Refused` when it could do more than its maker."""
    _text(draft.label, LABEL_LENGTH_MAX, "label")
    if draft.role is Role.ROOT:
        raise Invalid("a key is ADMIN, OPERATOR, READ_ONLY or AUDITOR", "role")
    scopes = _scopes(draft.role, draft.scopes)
    if not actor.scopes.issuperset(scopes):
        missing = ", ".join(sorted(scope.name for scope in set(scopes) - actor.scopes))
        raise Refused(ErrorCode.ROLE_REFUSED, f"you cannot give what you do not have: {missing}", "scopes")
    if draft.expires_at is not None and draft.expires_at <= now:
        raise Invalid("the key would have expired already", "expiresAt")
    return ApiKey(
        id=key_id,
        institution_id=institution_id,
        label=draft.label,
        role=draft.role,
        scopes=scopes,
        prefix=secret[:PREFIX_LENGTH],
        created_at=now,
        updated_at=now,
        expires_at=draft.expires_at,
        last_used_at=None,
        revoked_at=None,
    )


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
        return check_text(value, length_max=length_max)
    except BadText as error:
        raise Invalid(str(error), name) from None
