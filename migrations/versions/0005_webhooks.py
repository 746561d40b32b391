"""Webhook endpoints with their sealed secrets, and the deliveries to them."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = """
-- Where an institution wants events sent. A deleted one keeps its row, because its deliveries stay.
CREATE TABLE webhook_endpoints (
  institution_id text COLLATE "C" NOT NULL REFERENCES institutions (id),
  id text COLLATE "C" NOT NULL,
  url text COLLATE "C" NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
  description text NOT NULL CHECK (length(description) <= 255),
  -- What is wanted; null for all.
  kinds text[] CHECK (cardinality(kinds) > 0),
  states text[] CHECK (cardinality(states) > 0),
  enabled boolean NOT NULL,
  disabled_reason text COLLATE "C" CHECK (disabled_reason IN ('ASKED', 'GONE')),
  -- Events up to this sequence of the institution are not sent by themselves.
  starts_after bigint NOT NULL CHECK (starts_after >= 0),
  created_by text COLLATE "C" NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  deleted_at timestamptz,
  PRIMARY KEY (institution_id, id),
  CONSTRAINT webhook_endpoints_reason CHECK (enabled = (disabled_reason IS NULL)),
  CONSTRAINT webhook_endpoints_deleted CHECK (deleted_at IS NULL OR NOT enabled)
);
CREATE INDEX webhook_endpoints_id ON webhook_endpoints (id);
CREATE INDEX webhook_endpoints_created ON webhook_endpoints (institution_id, created_at, id);

-- Signing secrets, encrypted by the server: the database alone tells none of them.
CREATE TABLE webhook_secrets (
  institution_id text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  endpoint_id text COLLATE "C" NOT NULL,
  sealed bytea NOT NULL CHECK (length(sealed) = 60),
  created_at timestamptz NOT NULL,
  -- When it stops signing; null for the one in force.
  ends_at timestamptz,
  PRIMARY KEY (institution_id, id),
  FOREIGN KEY (institution_id, endpoint_id) REFERENCES webhook_endpoints (institution_id, id)
);
CREATE UNIQUE INDEX webhook_secrets_in_force ON webhook_secrets (institution_id, endpoint_id)
  WHERE ends_at IS NULL;
CREATE INDEX webhook_secrets_endpoint ON webhook_secrets (institution_id, endpoint_id, created_at);

-- One for each event and endpoint that wants it, and one for each test that was asked for (without an event).
CREATE TABLE webhook_deliveries (
  institution_id text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  endpoint_id text COLLATE "C" NOT NULL,
  event_id text COLLATE "C",
  position_id text COLLATE "C",
  sequence bigint CHECK (sequence > 0),
  state text COLLATE "C" NOT NULL CHECK (state IN ('PENDING', 'DELIVERED', 'FAILED', 'CANCELLED')),
  -- Attempts ever made, and those made since the last replay, which say where in the schedule it is.
  attempts integer NOT NULL CHECK (attempts >= 0),
  step integer NOT NULL CHECK (step >= 0),
  -- When it is due; null while it waits behind an earlier one of its position, and when it is settled.
  next_attempt_at timestamptz,
  -- Until when an attempt under way keeps others from making one.
  claimed_until timestamptz,
  last_status integer,
  last_error text CHECK (length(last_error) <= 500),
  last_response text CHECK (length(last_response) <= 500),
  last_attempt_at timestamptz,
  delivered_at timestamptz,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (institution_id, id),
  FOREIGN KEY (institution_id, endpoint_id) REFERENCES webhook_endpoints (institution_id, id),
  CONSTRAINT webhook_deliveries_subject CHECK (num_nulls(event_id, position_id, sequence) IN (0, 3)),
  CONSTRAINT webhook_deliveries_settled
    CHECK (state = 'PENDING' OR (next_attempt_at IS NULL AND claimed_until IS NULL)),
  CONSTRAINT webhook_deliveries_claimed CHECK (claimed_until IS NULL OR next_attempt_at IS NOT NULL)
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX webhook_deliveries_event ON webhook_deliveries (institution_id, event_id, endpoint_id);
CREATE INDEX webhook_deliveries_id ON webhook_deliveries (id);
CREATE INDEX webhook_deliveries_created ON webhook_deliveries (institution_id, created_at, id);
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (institution_id, endpoint_id, created_at, id);
CREATE INDEX webhook_deliveries_state ON webhook_deliveries (institution_id, state, created_at, id);
CREATE INDEX webhook_deliveries_position ON webhook_deliveries (institution_id, position_id, created_at, id);
-- What waits, in the order of its position; and of those the ready ones, at most one for each position.
CREATE INDEX webhook_deliveries_waiting
  ON webhook_deliveries (institution_id, endpoint_id, position_id, sequence) WHERE state = 'PENDING';
CREATE UNIQUE INDEX webhook_deliveries_ready ON webhook_deliveries (institution_id, endpoint_id, position_id)
  WHERE state = 'PENDING' AND next_attempt_at IS NOT NULL;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (institution_id, endpoint_id, next_attempt_at, id)
  WHERE state = 'PENDING' AND next_attempt_at IS NOT NULL;

GRANT SELECT ON webhook_endpoints, webhook_deliveries TO escrowgrid_api, escrowgrid_feed;
GRANT SELECT (institution_id, id, endpoint_id, created_at, ends_at) ON webhook_secrets TO escrowgrid_api;
GRANT SELECT, INSERT ON webhook_endpoints, webhook_secrets, webhook_deliveries TO escrowgrid_writer;
GRANT UPDATE (url, description, kinds, states, enabled, disabled_reason, starts_after, updated_at, deleted_at)
  ON webhook_endpoints TO escrowgrid_writer;
GRANT UPDATE (ends_at), DELETE ON webhook_secrets TO escrowgrid_writer;
GRANT UPDATE (state, attempts, step, next_attempt_at, claimed_until, last_status, last_error, last_response,
              last_attempt_at, delivered_at, updated_at)
  ON webhook_deliveries TO escrowgrid_writer;
"""

SETTING = "(SELECT current_setting('escrowgrid.scope', true))"
ONE = f"CASE WHEN {SETTING} = '*' THEN true ELSE institution_id = {SETTING} END"
LISTED = (
    "institution_id = ANY ((SELECT string_to_array(current_setting('escrowgrid.scope', true), ','))::text[])"
)


def tenant_policies(table: str) -> list[str]:
    """Row-level security of one table, as in 0001."""
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY api_scope ON {table} FOR SELECT TO escrowgrid_api USING ({ONE})",
        f"CREATE POLICY writer_scope ON {table} TO escrowgrid_writer USING ({LISTED}) WITH CHECK ({LISTED})",
    ]


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Make the tables of webhooks."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    script(TABLES)
    for table in ("webhook_endpoints", "webhook_secrets", "webhook_deliveries"):
        for statement in tenant_policies(table):
            op.execute(statement)
    # The follower asks as the feed where something is due; no secret is among it.
    for table in ("webhook_endpoints", "webhook_deliveries"):
        op.execute(f"CREATE POLICY feed_all ON {table} FOR SELECT TO escrowgrid_feed USING (true)")
