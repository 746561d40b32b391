"""Token buckets shared by all processes, and the trusted documents."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BUCKETS = """
-- `full_at`: the instant at which the bucket, left alone, is full again; a bucket without a row is full.
-- UNLOGGED: nothing of it has to survive a crash, and its commits wait for no disk.
CREATE UNLOGGED TABLE rate_buckets (
  name text COLLATE "C" PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 255),
  full_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Takes from several buckets what is wanted, or what there is; what is wanted may be less than nothing, to give back.
-- In the order of their names, so that no two processes wait for each other; by the database's clock alone.
CREATE FUNCTION escrowgrid_lease_tokens(names text[], wants float8[], capacities float8[], refills float8[])
RETURNS TABLE (bucket text, granted float8, remaining float8)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  asked record;
  clock timestamptz;
  known timestamptz;
  held float8;
BEGIN
  FOR asked IN
    SELECT * FROM unnest(names, wants, capacities, refills) AS a (name, wanted, capacity, refill)
    ORDER BY a.name COLLATE "C"
  LOOP
    INSERT INTO rate_buckets (name, full_at) VALUES (asked.name, clock_timestamp()) ON CONFLICT DO NOTHING;
    SELECT b.full_at INTO known FROM rate_buckets b WHERE b.name = asked.name FOR UPDATE;
    clock := clock_timestamp();
    known := coalesce(known, clock); -- it was full, and has just been forgotten
    held := asked.capacity - asked.refill * greatest(extract(epoch FROM known - clock), 0)::float8;
    bucket := asked.name;
    granted := least(asked.wanted, greatest(held, 0));
    remaining := least(held - granted, asked.capacity);
    UPDATE rate_buckets b SET full_at = clock + make_interval(secs => (asked.capacity - remaining) / asked.refill)
    WHERE b.name = asked.name;
    RETURN NEXT;
  END LOOP;
END
$$;
REVOKE ALL ON FUNCTION escrowgrid_lease_tokens(text[], float8[], float8[], float8[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION escrowgrid_lease_tokens(text[], float8[], float8[], float8[]) TO escrowgrid_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON rate_buckets TO escrowgrid_writer;
"""

DOCUMENTS = """
-- Documents that may be asked for by their sha-256; what a hash stands for never changes.
CREATE TABLE documents (
  hash text COLLATE "C" PRIMARY KEY,
  document text NOT NULL CHECK (length(document) BETWEEN 1 AND 262144),
  added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  added_by text NOT NULL CHECK (length(added_by) BETWEEN 1 AND 255),
  CONSTRAINT documents_hash CHECK (hash = encode(sha256(convert_to(document, 'UTF8')), 'hex'))
);
GRANT SELECT ON documents TO escrowgrid_feed;
GRANT SELECT, INSERT, DELETE ON documents TO escrowgrid_writer;
"""


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Make the tables of limits and trusted documents."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    script(BUCKETS)
    script(DOCUMENTS)
