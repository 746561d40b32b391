"""Rows that the audit's default partition caught move to the partition of their month, and can be counted."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

FUNCTIONS = """
-- For the functions below alone: the owner cannot log in, and no other role may take it.
CREATE POLICY owner_moves ON audit_events_default FOR ALL TO escrowgrid_owner USING (true) WITH CHECK (true);

-- Makes one month's partition with what the default one caught of it: rows are moved in one statement, none is changed.
-- Whatever goes wrong, the partition is not there and the rows are where they were, under their guard.
CREATE FUNCTION escrowgrid_make_audit_partition(name text, starts_at timestamptz, ends_at timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM audit_events_default WHERE occurred_at >= starts_at AND occurred_at < ends_at) THEN
    EXECUTE format('CREATE TABLE %I (LIKE audit_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    ALTER TABLE audit_events_default DISABLE TRIGGER append_only;
    EXECUTE format('WITH moved AS (
        DELETE FROM audit_events_default WHERE occurred_at >= %L AND occurred_at < %L RETURNING *
      ) INSERT INTO %I SELECT * FROM moved', starts_at, ends_at, name);
    ALTER TABLE audit_events_default ENABLE ALWAYS TRIGGER append_only;
    EXECUTE format('ALTER TABLE audit_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
      name, starts_at, ends_at);
  ELSE
    EXECUTE format('CREATE TABLE %I PARTITION OF audit_events FOR VALUES FROM (%L) TO (%L)',
      name, starts_at, ends_at);
  END IF;
  EXECUTE format('CREATE TRIGGER never_truncated BEFORE TRUNCATE ON %I '
    'EXECUTE FUNCTION escrowgrid_refuse()', name);
  EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER never_truncated', name);
  EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER append_only', name);
  EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
END
$$;
REVOKE ALL ON FUNCTION escrowgrid_make_audit_partition(text, timestamptz, timestamptz) FROM PUBLIC;

-- As before, but a month that cannot be made now takes no other down: it is told as a warning, and tried again.
CREATE OR REPLACE FUNCTION escrowgrid_make_audit_partitions(start timestamptz, months integer) RETURNS integer
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
      BEGIN
        PERFORM escrowgrid_make_audit_partition(
          name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
        made := made + 1;
      EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'the partition % could not be made: % (%)', name, SQLERRM, SQLSTATE;
      END;
    END IF;
  END LOOP;
  RETURN made;
END
$$;

-- How many rows the default partition holds, counted up to 10,000: it should be none.
CREATE FUNCTION escrowgrid_audit_default_rows() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT count(*) FROM (SELECT FROM audit_events_default LIMIT 10000) AS found
$$;
REVOKE ALL ON FUNCTION escrowgrid_audit_default_rows() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION escrowgrid_audit_default_rows() TO escrowgrid_feed;
"""


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Have maintenance go on whatever the default partition holds."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    script(FUNCTIONS)
