"""The table of trusted documents. They belong to no institution: whoever operates the server adds them."""

from collections.abc import Sequence

from app.documents.model import Listed
from app.storage.database import Driver

ADD = """
INSERT INTO documents (hash, document, added_by) VALUES ($1, $2, $3) ON CONFLICT (hash) DO NOTHING RETURNING true
"""
LIST = "SELECT hash, document, added_at, added_by FROM documents ORDER BY added_at, hash"
REMOVE = "DELETE FROM documents WHERE hash = $1 RETURNING true"
READ = "SELECT hash, document FROM documents WHERE hash = ANY($1::text[])"
PRESENT = "SELECT hash FROM documents WHERE hash = ANY($1::text[])"


async def add(connection: Driver, hash: str, document: str, added_by: str) -> bool:
    """Add a document; False when it was there."""
    return bool(await connection.fetchval(ADD, hash, document, added_by))


async def every(connection: Driver) -> list[Listed]:
    """All of them, oldest first."""
    return [Listed(**dict(row)) for row in await connection.fetch(LIST)]


async def remove(connection: Driver, hash: str) -> bool:
    """Remove a document; False when it was not there."""
    return bool(await connection.fetchval(REMOVE, hash))


async def read(connection: Driver, hashes: Sequence[str]) -> dict[str, str]:
    """The texts of those that are there, by hash."""
    return {row["hash"]: row["document"] for row in await connection.fetch(READ, hashes)}


async def present(connection: Driver, hashes: Sequence[str]) -> set[str]:
    """Which of them are there."""
    return {row["hash"] for row in await connection.fetch(PRESENT, hashes)}
