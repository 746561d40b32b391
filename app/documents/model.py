"""What a trusted document is, and how its id is spelled."""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime

LENGTH_MAX = 262_144
ID = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Listed:
    """A document as its operator sees it."""

    hash: str
    document: str
    added_at: datetime
    added_by: str


def hash_of(text: str) -> str:
    """The sha-256 of a document's text, byte by byte as it is: spaces count."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_in(id: str) -> str | None:
    """The hash that an id spells, `sha256:<hex>` or the hex alone; None when it spells none."""
    found = ID.fullmatch(id)
    return None if found is None else found[1].lower()
