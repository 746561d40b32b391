"""Audit events, partitioned by month, and the function that makes partitions ahead."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE audit_events (
  id text COLLATE "C" NOT NULL,
  occurred_at timestamptz NOT NULL,
  institution_id text COLLATE "C",
  actor_id text COLLATE "C" NOT NULL,
  actor_role text COLLATE "C" NOT NULL,
  operation text NOT NULL,
  action text COLLATE "C" NOT NULL,
  resource_type text COLLATE "C" NOT NULL,
  resource_id text COLLATE "C",
  outcome text COLLATE "C" NOT NULL CHECK (outcome IN ('SUCCESS', 'FAILURE')),
  code text COLLATE "C",
  request_id text COLLATE "C" NOT NULL,
  client_address text,
  payload jsonb NOT NULL,
  PRIMARY KEY (occurred_at, id)
) PARTITION BY RANGE (occurred_at);
CREATE INDEX audit_events_institution ON audit_events (institution_id, occurred_at, id);
CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_events
  FOR EACH ROW EXECUTE FUNCTION escrowgrid_refuse();
CREATE TRIGGER never_truncated BEFORE TRUNCATE ON audit_events EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE audit_events ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE audit_events ENABLE ALWAYS TRIGGER never_truncated;
CREATE TRIGGER never_truncated BEFORE TRUNCATE ON audit_events_default EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE audit_events_default ENABLE ALWAYS TRIGGER never_truncated;
ALTER TABLE audit_events_default ENABLE ALWAYS TRIGGER append_only;

-- Makes the partitions of the month of `start` and of `months` more; those that exist are left alone.
-- The writer may call it (it runs as the owner), so that a server without the owner's login keeps ahead too.
CREATE FUNCTION escrowgrid_make_audit_partitions(start timestamptz, months integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  first timestamp := date_trunc('month', start AT TIME ZONE 'UTC');
  month timestamp;
  name text;
  made integer := 0;
BEGIN
  IF months NOT BETWEEN 0 AND 120 THEN
    RAISE EXCEPTION 'months must be between 0 and 120';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('escrowgrid.audit_partitions', 0));
  FOR i IN 0..months LOOP
    month := first + make_interval(months => i);
    name := 'audit_events_' || to_char(month, 'YYYYMM');
    IF to_regclass(name) IS NULL THEN
      EXECUTE format('CREATE TABLE %I PARTITION OF audit_events FOR VALUES FROM (%L) TO (%L)',
        name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
      EXECUTE format('CREATE TRIGGER never_truncated BEFORE TRUNCATE ON %I '
        'EXECUTE FUNCTION escrowgrid_refuse()', name);
      EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER never_truncated', name);
      EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER append_only', name);
      EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
      EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
      made := made + 1;
    END IF;
  END LOOP;
  RETURN made;
END
$$;
REVOKE ALL ON FUNCTION escrowgrid_make_audit_partitions(timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION escrowgrid_make_audit_partitions(timestamptz, integer) TO escrowgrid_writer;
ALTER TABLE audit_events_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events_default FORCE ROW LEVEL SECURITY;
SELECT escrowgrid_make_audit_partitions(now(), 3);
GRANT SELECT ON audit_events TO escrowgrid_api;
GRANT INSERT ON audit_events TO escrowgrid_writer;
"""

SETTING = "(SELECT current_setting('escrowgrid.scope', true))"
LISTED = (
    "institution_id = ANY ((SELECT string_to_array(current_setting('escrowgrid.scope', true), ','))::text[])"
)

POLICIES = f"""
ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY api_scope ON audit_events FOR SELECT TO escrowgrid_api
  USING (CASE WHEN {SETTING} = '*' THEN true ELSE institution_id = {SETTING} END);
CREATE POLICY writer_scope ON audit_events FOR INSERT TO escrowgrid_writer
  WITH CHECK (institution_id IS NULL OR {SETTING} = '*' OR {LISTED});
"""


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Make the audit trail."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    script(TABLES)
    script(POLICIES)
