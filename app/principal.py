"""Who asks: one institution's key or token in one role, or root."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """What a key is for."""

    ROOT = "ROOT"
    ADMIN = "ADMIN"
    OPERATOR = "OPERATOR"
    READ_ONLY = "READ_ONLY"
    AUDITOR = "AUDITOR"


class Scope(StrEnum):
    """One thing a role may do."""

    READ = "read"
    AUDIT_READ = "audit:read"
    POSITIONS_MOVE = "positions:move"
    ASSETS_WRITE = "assets:write"
    TEMPLATES_WRITE = "templates:write"
    POLICIES_WRITE = "policies:write"
    HOLDERS_ERASE = "holders:erase"
    KEYS_WRITE = "keys:write"
    WEBHOOKS_WRITE = "webhooks:write"
    INSTITUTIONS_WRITE = "institutions:write"


def lack_of(*scopes: Scope) -> str:
    """What somebody without any of `scopes` is told; the API knows scopes by these names."""
    return f"this key may not do that: it needs the scope {' or '.join(scope.name for scope in scopes)}"


_ADMIN = frozenset(Scope) - {Scope.INSTITUTIONS_WRITE}
ROLE_SCOPES = {
    Role.ROOT: frozenset(Scope),
    Role.ADMIN: _ADMIN,
    Role.OPERATOR: frozenset({Scope.READ, Scope.POSITIONS_MOVE, Scope.ASSETS_WRITE}),
    Role.READ_ONLY: frozenset({Scope.READ}),
    Role.AUDITOR: frozenset({Scope.READ, Scope.AUDIT_READ}),
}

ALL_INSTITUTIONS = "*"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a key or a token. `institution_id` is None for root, who sees every institution."""

    id: str
    label: str
    role: Role
    institution_id: str | None
    scopes: frozenset[Scope]
    # From when on it asks no more: the end of its token or key; None for never.
    expires_at: datetime | None = None
    # The latest that a key which it makes or rotates may end; None for never.
    keys_end_by: datetime | None = None

    def may(self, scope: Scope) -> bool:
        """Whether this principal's role and scopes allow it."""
        return scope in self.scopes

    @property
    def tenant(self) -> str:
        """What row-level security is set to: one institution, or all of them for root."""
        return self.institution_id or ALL_INSTITUTIONS

    def reaches_like(self, other: "Principal") -> bool:
        """Whether it is the same one with the same reach, for however long either of them lasts."""
        return (self.id, self.role, self.institution_id, self.scopes) == (
            other.id,
            other.role,
            other.institution_id,
            other.scopes,
        )

    def can_see(self, institution_id: str) -> bool:
        """Whether rows of that institution exist for this principal."""
        return self.institution_id is None or self.institution_id == institution_id


def root(label: str = "root") -> Principal:
    """The operator of the whole installation."""
    return Principal("root", label, Role.ROOT, None, ROLE_SCOPES[Role.ROOT])


# The server itself, when a timer moves a position.
CLERK = Principal("clerk", "expiry clerk", Role.ROOT, None, frozenset({Scope.POSITIONS_MOVE}))
