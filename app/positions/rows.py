"""Locks, facts and bulk writes of position rows, inside the writer's transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.ledger.model import Balances, Event
from app.ledger.writer import Subject
from app.ledger.writer.contract import Fact
from app.personal.sealing import Envelope, Holder
from app.personal.service import Holders
from app.policies import service as policies
from app.positions.lifecycle import Lifecycle
from app.positions.model import Held, Position, State, stamped
from app.storage.database import Driver, Named

COLUMNS = (
    "institution_id",
    "id",
    "asset_id",
    "holder_id",
    "external_reference",
    "currency",
    "amount",
    "funded",
    "released",
    "refunded",
    "held",
    "state",
    "stage",
    "version",
    "lifecycle_name",
    "lifecycle_version",
    "expires_at",
    "created_at",
    "updated_at",
    "closed_at",
)
SELECT = f"""
SELECT {", ".join("p." + column for column in COLUMNS)}, t.id AS template_id, t.region, h.reference, h.data_key
FROM positions p
-- One by one along the key, whatever is known of how many there are.
LEFT JOIN LATERAL (SELECT reference, data_key FROM holders WHERE institution_id = p.institution_id AND id = p.holder_id
                   LIMIT 1) h ON true
JOIN assets a ON a.institution_id = p.institution_id AND a.id = p.asset_id
JOIN asset_templates t ON t.institution_id = a.institution_id AND t.id = a.template_id
WHERE p.id = ANY($1::text[])
"""
LOCK = f"{SELECT} ORDER BY p.id FOR UPDATE OF p"
EXISTING = "SELECT id FROM positions WHERE id = ANY($1::text[])"
REFERENCES = """
SELECT p.institution_id, p.external_reference, p.id
FROM positions p JOIN unnest($1::text[], $2::text[]) AS n (institution, reference)
  ON p.institution_id = n.institution AND p.external_reference = n.reference
"""
INSERT_TYPES = (
    *("text",) * 6,
    *("numeric",) * 5,
    "text",
    "text",
    "int",
    "text",
    "int",
    *("timestamptz",) * 4,
)
_UNNEST = ", ".join(f"${i}::{kind}[]" for i, kind in enumerate(INSERT_TYPES, start=1))
INSERT = f"INSERT INTO positions ({', '.join(COLUMNS)}) SELECT * FROM unnest({_UNNEST})"
UPDATE = """
UPDATE positions p
SET funded = n.funded, released = n.released, refunded = n.refunded, held = n.held, state = n.state,
    stage = n.stage, version = n.version, updated_at = n.updated_at, closed_at = n.closed_at
FROM unnest($1::text[], $2::text[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[], $7::text[],
            $8::text[], $9::int[], $10::timestamptz[], $11::timestamptz[])
  AS n (institution_id, id, funded, released, refunded, held, state, stage, version, updated_at, closed_at)
WHERE p.institution_id = n.institution_id AND p.id = n.id
"""
DUE = """
SELECT institution_id, id, expires_at FROM positions
WHERE closed_at IS NULL AND expires_at <= $1 AND (expires_at, id) > ($3, $4)
ORDER BY expires_at, id LIMIT $2
"""

Lifecycles = Mapping[tuple[str, int], Lifecycle]


class PositionRows(Subject):
    """What the positions slice registers with the writer."""

    def __init__(self, lifecycles: Lifecycles, holders: Holders) -> None:
        self._lifecycles = lifecycles
        self._holders = holders

    async def lock(self, connection: Driver, ids: Sequence[str], *, wait: bool) -> Mapping[str, Held]:
        """Lock positions in id order; without `wait`, those that others hold are left out."""
        rows = await connection.fetch(LOCK if wait else f"{LOCK} SKIP LOCKED", ids)
        return await self._held(connection, rows)

    async def existing(self, connection: Driver, ids: Sequence[str]) -> frozenset[str]:
        """Which of them exist."""
        return frozenset(row["id"] for row in await connection.fetch(EXISTING, ids))

    async def fetch(self, connection: Driver, ids: Sequence[str]) -> Mapping[str, Held]:
        """Positions as they are."""
        return await self._held(connection, await connection.fetch(SELECT, ids))

    async def read(self, connection: Driver, facts: Sequence[Fact]) -> Mapping[Fact, Any]:
        """Current policies, and the carriers of external references."""
        found: dict[Fact, Any] = {}
        regions = [(str(fact[1]), str(fact[2])) for fact in facts if fact[0] == "policy"]
        if regions:
            current = await policies.current(connection, regions)
            found.update({("policy", *pair): policy for pair, policy in current.items()})
        references = [fact for fact in facts if fact[0] == "reference"]
        if references:
            rows = await connection.fetch(REFERENCES, [f[1] for f in references], [f[2] for f in references])
            found.update(
                {("reference", row["institution_id"], row["external_reference"]): row["id"] for row in rows}
            )
        return found

    async def write(self, connection: Driver, changes: Sequence[tuple[Held, Event]]) -> list[Held]:
        """Insert what is new, update what moved; a position moved twice in a batch is written once."""
        written = [self.as_of(row, event) for row, event in changes]
        newest = {held.position.id: held.position for held in written}
        made = {event.position_id for _row, event in changes if event.position_version == 1}
        inserts = [position for key, position in newest.items() if key in made]
        updates = [position for key, position in newest.items() if key not in made]
        if inserts:
            await connection.execute(INSERT, *_columns(map(_insert_values, inserts)))
        if updates:
            await connection.execute(UPDATE, *_columns(map(_update_values, updates)))
        return written

    def given(self, row: Held, holder: Holder) -> Held:
        """The new position of that holder."""
        return Held(row.position, row.template_id, row.region, holder)

    def as_of(self, row: Held, event: Event) -> Held:
        """The position as that event left it."""
        lifecycle = self._lifecycles[event.lifecycle_name, event.lifecycle_version]
        closed, holder_id = lifecycle.is_terminal(event.new_stage), row.holder.id if row.holder else None
        position = stamped(row.position, event, closed=closed, holder_id=holder_id)
        return Held(position, row.template_id, row.region, row.holder)

    async def _held(self, connection: Driver, rows: Sequence[Named]) -> dict[str, Held]:
        await self._holders.ready(connection, {row["institution_id"] for row in rows})
        return {row["id"]: self._one(row) for row in rows}

    def _one(self, row: Named) -> Held:
        envelope = envelope_of(row)
        position = position_of(row, self._holders.reference(envelope))
        holder = None if envelope.data_key is None else envelope
        return Held(position, row["template_id"], row["region"], holder)


def envelope_of(row: Named) -> Envelope:
    """The holder that a row of positions and holders names."""
    return Envelope(row["institution_id"], row["holder_id"], row["reference"], row["data_key"])


def position_of(row: Named, holder_reference: str | None = None) -> Position:
    """The position a row spells; what its holder is called stands elsewhere."""
    return Position(
        id=row["id"],
        institution_id=row["institution_id"],
        asset_id=row["asset_id"],
        holder_id=row["holder_id"],
        holder_reference=holder_reference,
        external_reference=row["external_reference"],
        currency=row["currency"],
        amount=row["amount"],
        balances=Balances(row["funded"], row["released"], row["refunded"], row["held"]),
        state=State(row["state"]),
        stage=row["stage"],
        version=row["version"],
        lifecycle_name=row["lifecycle_name"],
        lifecycle_version=row["lifecycle_version"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        closed_at=row["closed_at"],
    )


def _columns(rows: Any) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _insert_values(position: Position) -> tuple[Any, ...]:
    balances = position.balances
    return (
        position.institution_id,
        position.id,
        position.asset_id,
        position.holder_id,
        position.external_reference,
        position.currency,
        position.amount,
        balances.funded,
        balances.released,
        balances.refunded,
        balances.held,
        position.state,
        position.stage,
        position.version,
        position.lifecycle_name,
        position.lifecycle_version,
        position.expires_at,
        position.created_at,
        position.updated_at,
        position.closed_at,
    )


def _update_values(position: Position) -> tuple[Any, ...]:
    balances = position.balances
    return (
        position.institution_id,
        position.id,
        balances.funded,
        balances.released,
        balances.refunded,
        balances.held,
        position.state,
        position.stage,
        position.version,
        position.updated_at,
        position.closed_at,
    )
