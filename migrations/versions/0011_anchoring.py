"""What is anchored on a chain: the tree over the ledger, what was submitted and how far it has come."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = """
-- The RFC 6962 tree over the hashes of all events, in global order, as far as the follower has come.
CREATE TABLE anchor_tree (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  size bigint NOT NULL CHECK (size >= 0),
  frontier bytea[] NOT NULL
);
INSERT INTO anchor_tree (size, frontier) VALUES (0, '{}');

-- Roots of its perfect subtrees of 2^8, 2^16 … leaves, so that a proof reads some hundred rows and never all.
CREATE TABLE anchor_nodes (
  level smallint NOT NULL CHECK (level IN (8, 16, 24, 32, 40)),
  place bigint NOT NULL CHECK (place >= 0),
  hash bytea NOT NULL CHECK (length(hash) = 32),
  PRIMARY KEY (level, place)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON anchor_nodes EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE anchor_nodes ENABLE ALWAYS TRIGGER append_only;

-- One call of the contract each, in the order in which they are made: a head of the tree, some events to record, or
-- the beginning of a new log after a restore.
CREATE TABLE anchors (
  id text COLLATE "C" PRIMARY KEY,
  number bigint NOT NULL UNIQUE CHECK (number > 0),
  -- Grows with every change of any of them: what changed since is what has a greater one.
  revision bigint NOT NULL UNIQUE CHECK (revision > 0),
  mode text COLLATE "C" NOT NULL CHECK (mode IN ('ANCHOR', 'RECORD', 'BEGIN')),
  state text COLLATE "C" NOT NULL CHECK (
    state IN ('PENDING', 'SIGNED', 'BROADCAST', 'MINED', 'FINAL', 'REORGED', 'FAILED', 'SUPERSEDED')),
  chain_id bigint NOT NULL CHECK (chain_id > 0),
  contract text COLLATE "C" NOT NULL CHECK (contract ~ '^0x[0-9a-f]{40}$'),
  log_id bytea NOT NULL CHECK (length(log_id) = 32),
  -- The ledger's epoch in which this log began.
  epoch integer NOT NULL CHECK (epoch > 0),
  -- ANCHOR: the head before it, and itself.
  previous_size bigint CHECK (previous_size >= 0),
  previous_root bytea CHECK (length(previous_root) = 32),
  size bigint CHECK (size > previous_size),
  root bytea CHECK (length(root) = 32),
  -- RECORD: the number of the first event, and how many.
  first bigint CHECK (first > 0),
  count integer CHECK (count > 0),
  -- BEGIN: the log before it, and how many of its events the restored ledger kept.
  follows bytea CHECK (length(follows) = 32),
  since bigint CHECK (since >= 0),
  tx_hash bytea CHECK (length(tx_hash) = 32),
  block_number bigint,
  block_hash bytea CHECK (length(block_hash) = 32),
  gas_used bigint,
  reverts integer NOT NULL DEFAULT 0,
  reorgs integer NOT NULL DEFAULT 0,
  failure text,
  created_at timestamptz NOT NULL,
  changed_at timestamptz NOT NULL,
  final_at timestamptz,
  CHECK (num_nonnulls(previous_size, previous_root, size, root) = CASE mode WHEN 'ANCHOR' THEN 4 ELSE 0 END),
  CHECK (num_nonnulls(first, count) = CASE mode WHEN 'RECORD' THEN 2 ELSE 0 END),
  CHECK (num_nonnulls(follows, since) = CASE mode WHEN 'BEGIN' THEN 2 ELSE 0 END),
  CHECK ((state IN ('MINED', 'FINAL')) <= (tx_hash IS NOT NULL AND block_number IS NOT NULL)),
  CHECK ((state = 'FINAL') = (final_at IS NOT NULL))
);
CREATE INDEX anchors_covering ON anchors (size) WHERE mode = 'ANCHOR';
CREATE INDEX anchors_of_mode ON anchors (mode, number);
CREATE INDEX anchors_in_state ON anchors (state, number);
CREATE INDEX anchors_open ON anchors (number) WHERE state <> 'FINAL' AND state <> 'SUPERSEDED';

-- Every transaction that was ever signed for them, kept before it was sent.
CREATE TABLE anchor_transactions (
  hash bytea PRIMARY KEY CHECK (length(hash) = 32),
  anchor_id text COLLATE "C" NOT NULL REFERENCES anchors (id),
  account text COLLATE "C" NOT NULL,
  nonce bigint NOT NULL CHECK (nonce >= 0),
  raw bytea NOT NULL,
  fee_max numeric NOT NULL,
  tip_max numeric NOT NULL,
  signed_at timestamptz NOT NULL,
  sent_at timestamptz,
  -- It cannot be mined any more: another one took its nonce, or it was reverted.
  dead boolean NOT NULL DEFAULT false
);
CREATE INDEX anchor_transactions_of ON anchor_transactions (anchor_id);

-- How the chain looked when it was last asked.
CREATE TABLE anchor_chains (
  chain_id bigint NOT NULL,
  contract text COLLATE "C" NOT NULL,
  account text COLLATE "C" NOT NULL,
  balance numeric,
  balance_low boolean NOT NULL DEFAULT false,
  block_number bigint,
  failure text,
  answered_at timestamptz,
  checked_at timestamptz NOT NULL,
  PRIMARY KEY (chain_id, contract)
);

-- Events of templates that go on a chain: recorded by an anchor, waiting for it, or skipped with the reason.
CREATE TABLE anchor_records (
  institution_id text COLLATE "C" NOT NULL REFERENCES institutions (id),
  event_id text COLLATE "C" NOT NULL,
  global_sequence bigint NOT NULL UNIQUE CHECK (global_sequence > 0),
  -- Of no institution, so that nothing refers to it across them.
  anchor_id text COLLATE "C",
  number bigint,
  skipped text,
  noted_at timestamptz NOT NULL,
  PRIMARY KEY (institution_id, event_id),
  CHECK (anchor_id IS NULL OR skipped IS NULL),
  CHECK ((anchor_id IS NULL) = (number IS NULL))
);
CREATE INDEX anchor_records_waiting ON anchor_records (global_sequence) WHERE anchor_id IS NULL AND skipped IS NULL;
CREATE INDEX anchor_records_skipped ON anchor_records (skipped) WHERE skipped IS NOT NULL;
CREATE INDEX anchor_records_of ON anchor_records (anchor_id);
"""

SETTING = "(SELECT current_setting('escrowgrid.scope', true))"
LISTED = (
    "institution_id = ANY ((SELECT string_to_array(current_setting('escrowgrid.scope', true), ','))::text[])"
)
# What is on a chain is public: whoever has any scope may see it.
PUBLIC = "".join(
    f"""
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY api_scope ON {table} FOR SELECT TO escrowgrid_api USING ({SETTING} <> '');
CREATE POLICY writer_all ON {table} FOR ALL TO escrowgrid_writer USING (true) WITH CHECK (true);
CREATE POLICY feed_all ON {table} FOR SELECT TO escrowgrid_feed USING (true);
"""
    for table in ("anchors", "anchor_chains")
)
POLICIES = f"""
{PUBLIC}
ALTER TABLE anchor_records ENABLE ROW LEVEL SECURITY;
ALTER TABLE anchor_records FORCE ROW LEVEL SECURITY;
CREATE POLICY api_scope ON anchor_records FOR SELECT TO escrowgrid_api
  USING ({SETTING} = '*' OR institution_id = {SETTING});
CREATE POLICY writer_scope ON anchor_records FOR ALL TO escrowgrid_writer USING ({LISTED}) WITH CHECK ({LISTED});
CREATE POLICY feed_all ON anchor_records FOR SELECT TO escrowgrid_feed USING (true);

GRANT SELECT ON anchors, anchor_chains, anchor_records TO escrowgrid_api;
GRANT SELECT ON anchor_tree, anchor_nodes, anchors, anchor_transactions, anchor_chains, anchor_records
  TO escrowgrid_feed;
GRANT SELECT, UPDATE ON anchor_tree TO escrowgrid_writer;
GRANT SELECT, INSERT ON anchor_nodes TO escrowgrid_writer;
GRANT SELECT, INSERT, UPDATE ON anchors, anchor_transactions, anchor_chains, anchor_records TO escrowgrid_writer;
"""


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Make what anchoring needs."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    script(TABLES)
    script(POLICIES)
