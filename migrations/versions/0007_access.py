"""Second secrets of keys while they are rotated, when audit rows arrived, and the audit's seals."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEYS = """
-- The secret before the one in force opens the same until it ends.
ALTER TABLE api_keys
  ADD COLUMN rotated_at timestamptz,
  ADD COLUMN previous_hash bytea CHECK (length(previous_hash) = 32),
  ADD COLUMN previous_prefix text COLLATE "C",
  ADD COLUMN previous_ends_at timestamptz,
  ADD COLUMN previous_used_at timestamptz,
  ADD CONSTRAINT api_keys_previous CHECK (num_nulls(previous_hash, previous_prefix, previous_ends_at) IN (0, 3));
CREATE UNIQUE INDEX api_keys_previous_hash ON api_keys (previous_hash) WHERE previous_hash IS NOT NULL;
GRANT UPDATE (secret_hash, prefix, rotated_at, previous_hash, previous_prefix, previous_ends_at, previous_used_at)
  ON api_keys TO escrowgrid_writer;
"""

AUDIT = """
-- When a row came, by the database's clock: the time it tells of may be earlier. Null for rows before this column.
ALTER TABLE audit_events ADD COLUMN arrived_at timestamptz;
ALTER TABLE audit_events ALTER COLUMN arrived_at SET DEFAULT clock_timestamp();
CREATE INDEX audit_events_arrived ON audit_events (arrived_at, id) WHERE arrived_at IS NOT NULL;

-- Each seal binds audit rows and the seal before it. Rows are named, not referred to: a seal outlives their partition.
CREATE TABLE audit_seals (
  number bigint PRIMARY KEY CHECK (number > 0),
  -- Whether its rows came after their time was sealed; the others follow one another in the order of time.
  late boolean NOT NULL,
  starts_at timestamptz NOT NULL,
  starts_id text COLLATE "C" NOT NULL,
  ends_at timestamptz NOT NULL,
  ends_id text COLLATE "C" NOT NULL,
  ids text[] COLLATE "C" NOT NULL CHECK (cardinality(ids) > 0),
  hashes bytea[] NOT NULL CHECK (cardinality(hashes) = cardinality(ids)),
  sealed_at timestamptz NOT NULL,
  caught_up_to timestamptz NOT NULL,
  previous_hash bytea NOT NULL CHECK (length(previous_hash) = 32),
  hash bytea NOT NULL CHECK (length(hash) = 32),
  public_key bytea NOT NULL CHECK (length(public_key) = 32),
  signature bytea NOT NULL CHECK (length(signature) = 64),
  CHECK ((starts_at, starts_id) <= (ends_at, ends_id))
);
CREATE INDEX audit_seals_sealed ON audit_seals (sealed_at);
CREATE INDEX audit_seals_regular ON audit_seals (number) WHERE NOT late;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seals
  EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE audit_seals ENABLE ALWAYS TRIGGER append_only;
GRANT SELECT ON audit_seals TO escrowgrid_feed;
GRANT SELECT, INSERT ON audit_seals TO escrowgrid_writer;
"""


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Prepare keys for rotation and the audit for seals."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    script(KEYS)
    script(AUDIT)
