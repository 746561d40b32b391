"""Roles and scopes as GraphQL enums; GraphQL modules import them from here, where they are described."""

from app.engine.enums import describe
from app.principal import Role, Scope

__all__ = ["Role", "Scope"]

describe(
    Role,
    "What a key is for.",
    {
        Role.ROOT: "Runs the whole installation and acts for every institution. No API key has it.",
        Role.ADMIN: "Does everything within its institution, its keys included.",
        Role.OPERATOR: "Reads, registers assets, opens and moves positions.",
        Role.READ_ONLY: "Reads its institution, except keys and the audit.",
        Role.AUDITOR: "Reads its institution, the audit included.",
    },
)
describe(
    Scope,
    "One thing that a role may do; a key can be narrowed to some of them.",
    {
        Scope.READ: "Read institutions, assets, positions, policies and the ledger.",
        Scope.AUDIT_READ: "Read the audit, and which keys there are.",
        Scope.POSITIONS_MOVE: "Open positions and move them through their lifecycle.",
        Scope.ASSETS_WRITE: "Register assets.",
        Scope.TEMPLATES_WRITE: "Make asset templates.",
        Scope.POLICIES_WRITE: "Set policies.",
        Scope.KEYS_WRITE: "See, make and revoke the institution's keys.",
        Scope.HOLDERS_ERASE: "Erase what is known of a holder, for good.",
        Scope.WEBHOOKS_WRITE: "Make, change, test and replay webhook endpoints.",
        Scope.INSTITUTIONS_WRITE: "Open institutions; root only.",
    },
)
