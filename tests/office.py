"""An institution to work for, and its transactions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from app.audit.service import Work
from app.context import Services
from app.institutions import service as institutions
from app.institutions.model import Institution, Region, Vertical
from app.principal import ROLE_SCOPES, Principal, Role, root


@dataclass
class Office:
    """Makes institutions, works on them, and counts what is in the tables."""

    services: Services
    owner: asyncpg.Connection

    @asynccontextmanager
    async def working(self, institution_id: str) -> AsyncIterator[Work]:
        async with self.services.database.writing(institution_id) as connection:
            now, ids = self.services.clock(), self.services.ids
            yield Work(connection, root(), "req_test", None, "test", now, ids)

    async def institution(
        self, *regions: Region, verticals: tuple[Vertical, ...] = tuple(Vertical)
    ) -> Institution:
        new = self.services.ids.new("inst")
        async with self.working(new) as work:
            return await institutions.create_institution(
                work, new, name="Acme", regions=regions or (Region.US,), verticals=verticals
            )

    async def counts(self) -> dict[str, int]:
        """How many rows each table has, whoever may see them; of the audit only what was done."""
        return {
            table: await self.owner.fetchval(f"SELECT count(*) FROM {table} {condition}")
            for table, condition in (
                ("asset_templates", ""),
                ("assets", ""),
                ("policies", ""),
                ("audit_events", "WHERE outcome = 'SUCCESS'"),
            )
        }


def principal_of(institution: Institution, role: Role = Role.ADMIN) -> Principal:
    return Principal("key_test", "test", role, institution.id, ROLE_SCOPES[role])
