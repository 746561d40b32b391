"""The tables of institutions, keys, templates, assets, policies and positions."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

REFUSE = """
CREATE FUNCTION escrowgrid_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% on % is refused: its rows are append-only', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'integrity_constraint_violation';
END
$$;
"""

TABLES = """
CREATE TABLE institutions (
  id text COLLATE "C" PRIMARY KEY,
  name text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
  regions text[] NOT NULL
    CHECK (cardinality(regions) > 0 AND regions <@ ARRAY['US', 'EU_UK', 'SG', 'UAE']),
  verticals text[] NOT NULL CHECK (cardinality(verticals) > 0),
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
);

CREATE INDEX institutions_name ON institutions (name, id);
CREATE INDEX institutions_created ON institutions (created_at);

CREATE TABLE api_keys (
  institution_id text COLLATE "C" NOT NULL REFERENCES institutions (id),
  id text COLLATE "C" NOT NULL,
  label text NOT NULL CHECK (length(label) BETWEEN 1 AND 255),
  role text COLLATE "C" NOT NULL CHECK (role IN ('ADMIN', 'OPERATOR', 'READ_ONLY', 'AUDITOR')),
  scopes text[] NOT NULL,
  prefix text COLLATE "C" NOT NULL,
  secret_hash bytea NOT NULL CHECK (length(secret_hash) = 32),
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (institution_id, id),
  UNIQUE (secret_hash)
);
CREATE INDEX api_keys_id ON api_keys (id);

CREATE TABLE asset_templates (
  institution_id text COLLATE "C" NOT NULL REFERENCES institutions (id),
  id text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
  version integer NOT NULL CHECK (version > 0),
  code text COLLATE "C" NOT NULL,
  vertical text COLLATE "C" NOT NULL,
  region text COLLATE "C" NOT NULL CHECK (region IN ('US', 'EU_UK', 'SG', 'UAE')),
  lifecycle_name text COLLATE "C" NOT NULL,
  lifecycle_version integer NOT NULL CHECK (lifecycle_version > 0),
  config jsonb NOT NULL,
  metadata_schema jsonb,
  onchain_enabled boolean NOT NULL,
  onchain_chain_id bigint CHECK (onchain_chain_id > 0),
  created_at timestamptz NOT NULL,
  PRIMARY KEY (institution_id, id),
  UNIQUE (institution_id, name, version),
  CHECK (NOT onchain_enabled OR onchain_chain_id IS NOT NULL)
);
CREATE INDEX asset_templates_created ON asset_templates (institution_id, created_at, id);
CREATE INDEX asset_templates_code ON asset_templates (institution_id, code, created_at, id);
CREATE INDEX asset_templates_id ON asset_templates (id);

CREATE TABLE assets (
  institution_id text COLLATE "C" NOT NULL REFERENCES institutions (id),
  id text COLLATE "C" NOT NULL,
  template_id text COLLATE "C" NOT NULL,
  label text COLLATE "C" NOT NULL CHECK (length(label) BETWEEN 1 AND 255),
  metadata jsonb NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (institution_id, id),
  FOREIGN KEY (institution_id, template_id) REFERENCES asset_templates (institution_id, id)
);
CREATE INDEX assets_created ON assets (institution_id, created_at, id);
CREATE INDEX assets_template ON assets (institution_id, template_id, created_at, id);
CREATE INDEX assets_label ON assets (institution_id, label, id);
CREATE INDEX assets_id ON assets (id);

CREATE TABLE policies (
  institution_id text COLLATE "C" NOT NULL REFERENCES institutions (id),
  id text COLLATE "C" NOT NULL,
  region text COLLATE "C" NOT NULL CHECK (region IN ('US', 'EU_UK', 'SG', 'UAE')),
  version integer NOT NULL CHECK (version > 0),
  min_amount numeric CHECK (min_amount > 0 AND min_amount < 'Infinity'),
  max_amount numeric CHECK (max_amount > 0 AND max_amount < 'Infinity'),
  allowed_currencies text[] CHECK (cardinality(allowed_currencies) > 0),
  created_at timestamptz NOT NULL,
  PRIMARY KEY (institution_id, id),
  UNIQUE (institution_id, region, version),
  CHECK (min_amount <= max_amount)
);
CREATE INDEX policies_created ON policies (institution_id, created_at, id);
CREATE INDEX policies_id ON policies (id);

CREATE TABLE positions (
  institution_id text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  asset_id text COLLATE "C" NOT NULL,
  holder_reference text COLLATE "C" CHECK (length(holder_reference) BETWEEN 1 AND 255),
  external_reference text COLLATE "C" CHECK (length(external_reference) BETWEEN 1 AND 255),
  currency text COLLATE "C" NOT NULL,
  amount numeric NOT NULL CHECK (amount > 0 AND amount < 'Infinity'),
  amount_key text COLLATE "C" NOT NULL
    GENERATED ALWAYS AS (lpad(trunc(amount * 1000000000000000000)::text, 36, '0')) STORED,
  funded numeric NOT NULL CHECK (funded >= 0 AND funded < 'Infinity'),
  released numeric NOT NULL CHECK (released >= 0 AND released < 'Infinity'),
  refunded numeric NOT NULL CHECK (refunded >= 0 AND refunded < 'Infinity'),
  held numeric NOT NULL CHECK (held >= 0 AND held < 'Infinity'),
  state text COLLATE "C" NOT NULL
    CHECK (state IN ('CREATED', 'FUNDED', 'PARTIALLY_RELEASED', 'RELEASED', 'CANCELLED', 'EXPIRED')),
  stage text COLLATE "C" NOT NULL,
  version integer NOT NULL CHECK (version > 0),
  lifecycle_name text COLLATE "C" NOT NULL,
  lifecycle_version integer NOT NULL CHECK (lifecycle_version > 0),
  expires_at timestamptz,
  -- A plain column: under row-level security an expression with coalesce is no index condition.
  expires_key timestamptz NOT NULL GENERATED ALWAYS AS (coalesce(expires_at, 'infinity'::timestamptz)) STORED,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  closed_at timestamptz,
  PRIMARY KEY (institution_id, id),
  FOREIGN KEY (institution_id, asset_id) REFERENCES assets (institution_id, id),
  CONSTRAINT positions_balance CHECK (funded = released + refunded + held),
  CONSTRAINT positions_funded CHECK (funded <= amount),
  CONSTRAINT positions_closed CHECK (closed_at IS NULL OR held = 0)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX positions_external_reference ON positions (institution_id, external_reference)
  WHERE external_reference IS NOT NULL;
-- No index names a column that every transition changes, so that updates stay HOT.
CREATE INDEX positions_id ON positions (id);
CREATE INDEX positions_created ON positions (institution_id, created_at, id);
CREATE INDEX positions_asset ON positions (institution_id, asset_id, created_at, id);
CREATE INDEX positions_holder ON positions (institution_id, holder_reference, created_at, id);
CREATE INDEX positions_currency ON positions (institution_id, currency, created_at, id);
CREATE INDEX positions_amount ON positions (institution_id, amount_key, id);
CREATE INDEX positions_expires ON positions (institution_id, expires_key, id);
CREATE INDEX positions_open ON positions (institution_id, created_at, id) WHERE closed_at IS NULL;
CREATE INDEX positions_due ON positions (expires_at) WHERE closed_at IS NULL AND expires_at IS NOT NULL;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON asset_templates
  EXECUTE FUNCTION escrowgrid_refuse();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policies
  EXECUTE FUNCTION escrowgrid_refuse();
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON positions
  EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE asset_templates ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE policies ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE positions ENABLE ALWAYS TRIGGER never_deleted;
"""

GRANTS = """
GRANT SELECT ON institutions, api_keys, asset_templates, assets, policies, positions TO escrowgrid_api;
GRANT SELECT, INSERT ON institutions, api_keys, asset_templates, assets, policies, positions TO escrowgrid_writer;
GRANT UPDATE (label, revoked_at, last_used_at, updated_at) ON api_keys TO escrowgrid_writer;
GRANT UPDATE (funded, released, refunded, held, state, stage, version, updated_at, closed_at)
  ON positions TO escrowgrid_writer;
GRANT SELECT ON institutions, asset_templates, assets, policies, positions TO escrowgrid_feed;
"""


def policies(table: str, column: str = "institution_id") -> list[str]:
    """Row-level security of one tenant table.

    The transaction's setting `escrowgrid.scope` holds one institution, a comma-separated list (writer), or * (root).
    The api sees its scope, the writer its list, the feed everything. CASE, because the planner takes an OR for rare and
    would read whole tables for root.
    """
    setting = "(SELECT current_setting('escrowgrid.scope', true))"
    one = f"CASE WHEN {setting} = '*' THEN true ELSE {column} = {setting} END"
    listed = (
        f"{column} = ANY ((SELECT string_to_array(current_setting('escrowgrid.scope', true), ','))::text[])"
    )
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY api_scope ON {table} FOR SELECT TO escrowgrid_api USING ({one})",
        f"CREATE POLICY writer_scope ON {table} FOR ALL TO escrowgrid_writer USING ({listed}) WITH CHECK ({listed})",
        f"CREATE POLICY feed_all ON {table} FOR SELECT TO escrowgrid_feed USING (true)",
    ]


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Make the tenants' tables."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    for part in (REFUSE, TABLES, GRANTS):
        script(part)
    for statement in policies("institutions", "id"):
        op.execute(statement)
    for table in ("api_keys", "asset_templates", "assets", "policies", "positions"):
        for statement in policies(table):
            op.execute(statement)
