"""Followers of the ledger with what they parked, and the ledger's signed checkpoints."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = """
-- A durable consumer: everything up to `cursor` (a global sequence) is done or parked.
CREATE TABLE followers (
  name text COLLATE "C" PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 100),
  cursor bigint NOT NULL CHECK (cursor >= 0),
  token bigint NOT NULL CHECK (token >= 0),
  paused boolean NOT NULL DEFAULT false,
  failure text,
  updated_at timestamptz NOT NULL
);

-- Events a follower could not take, set aside with the reason so that the others go on.
CREATE TABLE parked_events (
  follower text COLLATE "C" NOT NULL REFERENCES followers (name),
  global_sequence bigint NOT NULL CHECK (global_sequence > 0),
  reason text NOT NULL,
  attempts integer NOT NULL CHECK (attempts > 0),
  parked_at timestamptz NOT NULL,
  -- An operator asked for another try.
  retry boolean NOT NULL DEFAULT false,
  PRIMARY KEY (follower, global_sequence)
);

-- Signed heads: the RFC 6962 root over the hashes of events 1..size, in global order.
CREATE TABLE checkpoints (
  log_id text COLLATE "C" NOT NULL,
  size bigint NOT NULL CHECK (size >= 0),
  root bytea NOT NULL CHECK (length(root) = 32),
  frontier bytea[] NOT NULL,
  signed_at timestamptz NOT NULL,
  public_key bytea NOT NULL CHECK (length(public_key) = 32),
  signature bytea NOT NULL CHECK (length(signature) = 64),
  PRIMARY KEY (log_id, size)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
  EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER append_only;

GRANT SELECT ON followers, parked_events, checkpoints TO escrowgrid_feed;
GRANT SELECT, INSERT, UPDATE ON followers TO escrowgrid_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON parked_events TO escrowgrid_writer;
GRANT SELECT, INSERT ON checkpoints TO escrowgrid_writer;
"""


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Make the followers' tables."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    script(TABLES)
