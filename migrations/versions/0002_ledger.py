"""The ledger: events, heads, epochs, the erasable side table, leases."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE ledger_events (
  global_sequence bigint PRIMARY KEY CHECK (global_sequence > 0),
  institution_id text COLLATE "C" NOT NULL,
  sequence bigint NOT NULL CHECK (sequence > 0),
  id text COLLATE "C" NOT NULL UNIQUE,
  position_id text COLLATE "C" NOT NULL,
  position_version integer NOT NULL CHECK (position_version > 0),
  kind text COLLATE "C" NOT NULL,
  kind_version smallint NOT NULL,
  previous_state text COLLATE "C",
  new_state text COLLATE "C" NOT NULL,
  previous_stage text COLLATE "C",
  new_stage text COLLATE "C" NOT NULL,
  effect text COLLATE "C" NOT NULL CHECK (effect IN ('NONE', 'FUND', 'RELEASE', 'REFUND')),
  currency text COLLATE "C" NOT NULL,
  amount_moved numeric NOT NULL CHECK (amount_moved >= 0 AND amount_moved < 'Infinity'),
  postings jsonb NOT NULL,
  funded numeric NOT NULL CHECK (funded >= 0 AND funded < 'Infinity'),
  released numeric NOT NULL CHECK (released >= 0 AND released < 'Infinity'),
  refunded numeric NOT NULL CHECK (refunded >= 0 AND refunded < 'Infinity'),
  held numeric NOT NULL CHECK (held >= 0 AND held < 'Infinity'),
  data jsonb NOT NULL,
  evidence jsonb NOT NULL,
  actor_id text COLLATE "C" NOT NULL,
  actor_role text COLLATE "C" NOT NULL,
  request_id text COLLATE "C" NOT NULL,
  key_institution_id text COLLATE "C",
  idempotency_key text COLLATE "C" NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
  template_id text COLLATE "C" NOT NULL,
  policy_id text COLLATE "C",
  lifecycle_name text COLLATE "C" NOT NULL,
  lifecycle_version integer NOT NULL,
  occurred_at timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL,
  holder_commitment bytea CHECK (length(holder_commitment) = 32),
  reason_commitment bytea CHECK (length(reason_commitment) = 32),
  metadata_commitment bytea CHECK (length(metadata_commitment) = 32),
  previous_hash bytea NOT NULL CHECK (length(previous_hash) = 32),
  hash bytea NOT NULL CHECK (length(hash) = 32),
  hash_version smallint NOT NULL,
  UNIQUE (institution_id, sequence),
  UNIQUE (position_id, position_version),
  CONSTRAINT ledger_events_idempotency UNIQUE NULLS NOT DISTINCT (key_institution_id, idempotency_key),
  CONSTRAINT ledger_events_balance CHECK (funded = released + refunded + held)
);
CREATE INDEX ledger_events_recorded ON ledger_events (institution_id, recorded_at, sequence);
CREATE INDEX ledger_events_account ON ledger_events (institution_id, currency, effect, sequence)
  INCLUDE (amount_moved);

-- The last global sequence. Locked last by every writer until its commit: sequence order is commit order.
CREATE TABLE ledger_head (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  log_id text COLLATE "C" NOT NULL,
  global_sequence bigint NOT NULL CHECK (global_sequence >= 0),
  recorded_at timestamptz NOT NULL,
  system_identifier bigint NOT NULL,
  timeline integer NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE institution_heads (
  institution_id text COLLATE "C" PRIMARY KEY REFERENCES institutions (id),
  sequence bigint NOT NULL CHECK (sequence >= 0),
  hash bytea NOT NULL CHECK (length(hash) = 32)
) WITH (fillfactor = 50);

-- A restore starts a new epoch: cursors of the one before are good up to where the new one starts.
-- Scope is an institution, or * for the global order.
CREATE TABLE epochs (
  epoch integer NOT NULL CHECK (epoch > 0),
  scope text COLLATE "C" NOT NULL,
  starts_after bigint NOT NULL CHECK (starts_after >= 0),
  reason text NOT NULL,
  raised_at timestamptz NOT NULL,
  PRIMARY KEY (epoch, scope)
);

-- Values whose commitments the ledger keeps. Erasing a row here leaves every hash valid.
CREATE TABLE personal_data (
  institution_id text COLLATE "C" NOT NULL,
  event_id text COLLATE "C" NOT NULL,
  position_id text COLLATE "C" NOT NULL,
  holder_reference text COLLATE "C",
  holder_salt bytea,
  reason text,
  reason_salt bytea,
  metadata jsonb,
  metadata_salt bytea,
  -- Root asks by the ids of events alone.
  PRIMARY KEY (event_id, institution_id)
);
CREATE INDEX personal_data_position ON personal_data (institution_id, position_id);

CREATE TABLE leases (
  name text COLLATE "C" PRIMARY KEY,
  holder text NOT NULL,
  token bigint NOT NULL CHECK (token > 0),
  expires_at timestamptz NOT NULL
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_events
  EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE ledger_events ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON epochs
  EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE epochs ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON ledger_head EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE ledger_head ENABLE ALWAYS TRIGGER never_deleted;
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON institution_heads EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE institution_heads ENABLE ALWAYS TRIGGER never_deleted;

INSERT INTO epochs VALUES (1, '*', 0, 'the ledger begins', now());
INSERT INTO ledger_head (log_id, global_sequence, recorded_at, system_identifier, timeline)
SELECT replace(gen_random_uuid()::text, '-', ''), 0, now(),
       (SELECT system_identifier FROM pg_control_system()), (SELECT timeline_id FROM pg_control_checkpoint());
"""

GRANTS = """
GRANT SELECT ON ledger_events, ledger_head, institution_heads, epochs, personal_data TO escrowgrid_api;
GRANT SELECT ON ledger_events, ledger_head, institution_heads, epochs, personal_data, leases TO escrowgrid_feed;
GRANT SELECT, INSERT ON ledger_events, personal_data, institution_heads, epochs TO escrowgrid_writer;
GRANT SELECT, UPDATE ON ledger_head TO escrowgrid_writer;
GRANT UPDATE (sequence, hash) ON institution_heads TO escrowgrid_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON leases TO escrowgrid_writer;
"""

SETTING = "(SELECT current_setting('escrowgrid.scope', true))"
SCOPED = f"CASE WHEN {SETTING} = '*' THEN true ELSE institution_id = {SETTING} END"
LISTED = (
    "institution_id = ANY ((SELECT string_to_array(current_setting('escrowgrid.scope', true), ','))::text[])"
)


def tenant_policies(table: str) -> list[str]:
    """Row-level security of one table of the ledger."""
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY api_scope ON {table} FOR SELECT TO escrowgrid_api USING ({SCOPED})",
        f"CREATE POLICY writer_scope ON {table} FOR ALL TO escrowgrid_writer USING ({LISTED}) WITH CHECK ({LISTED})",
        f"CREATE POLICY feed_all ON {table} FOR SELECT TO escrowgrid_feed USING (true)",
    ]


# Keys are unique per asker, not per institution moved: the writer must see every use of a key of its scope.
KEY_POLICY = f"""
CREATE POLICY writer_keys ON ledger_events FOR SELECT TO escrowgrid_writer
  USING (key_institution_id IS NULL OR key_{LISTED})
"""

HEAD_POLICIES = f"""
ALTER TABLE ledger_head ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger_head FORCE ROW LEVEL SECURITY;
CREATE POLICY api_root ON ledger_head FOR SELECT TO escrowgrid_api USING ({SETTING} = '*');
CREATE POLICY writer_all ON ledger_head FOR ALL TO escrowgrid_writer USING (true) WITH CHECK (true);
CREATE POLICY feed_all ON ledger_head FOR SELECT TO escrowgrid_feed USING (true);
ALTER TABLE epochs ENABLE ROW LEVEL SECURITY;
ALTER TABLE epochs FORCE ROW LEVEL SECURITY;
CREATE POLICY api_scope ON epochs FOR SELECT TO escrowgrid_api
  USING (CASE WHEN {SETTING} = '*' THEN true ELSE scope = {SETTING} END);
CREATE POLICY writer_all ON epochs FOR ALL TO escrowgrid_writer USING (true) WITH CHECK (true);
CREATE POLICY feed_all ON epochs FOR SELECT TO escrowgrid_feed USING (true);
"""


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Make the ledger."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    script(TABLES)
    script(GRANTS)
    for table in ("ledger_events", "institution_heads", "personal_data"):
        for statement in tenant_policies(table):
            op.execute(statement)
    script(KEY_POLICY)
    script(HEAD_POLICIES)
