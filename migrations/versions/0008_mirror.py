"""What a second copy of the ledger needs: who may append, what changed beside the ledger, how far a copy has come."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = """
-- Who may append: the servers of this ledger, the mirror that copies another ledger to here, or nobody any more,
-- because the ledger has moved. It is part of the row that every writer locks: whoever waited for it sees the change.
ALTER TABLE ledger_head ADD COLUMN written_by text COLLATE "C" NOT NULL DEFAULT 'SERVERS'
  CHECK (written_by IN ('SERVERS', 'MIRROR', 'NOBODY'));
DROP POLICY writer_all ON ledger_head;
CREATE POLICY writer_reads ON ledger_head FOR SELECT TO escrowgrid_writer USING (true);
CREATE POLICY writer_moves ON ledger_head FOR UPDATE TO escrowgrid_writer
  USING (written_by = 'SERVERS' OR (SELECT current_setting('escrowgrid.keeper', true)) = 'on') WITH CHECK (true);

-- The keys of rows beside the ledger that were made, changed or erased and that the mirror has not copied yet. The
-- follower reads each row as it is then, so that the order and the number of its changes do not matter.
CREATE TABLE mirror_queue (
  place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source text COLLATE "C" NOT NULL,
  key text[] NOT NULL
);

-- How far this database has come as a copy. One row, written in the transactions that bring it on.
CREATE TABLE mirror_copy (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  -- The fencing token of the follower that wrote last: an older one is refused.
  token bigint NOT NULL CHECK (token > 0),
  -- The tables whose rows from before the follower's first start are all here, and in the next one the key of the
  -- last such row.
  seeded text[] NOT NULL,
  seeded_key text[] NOT NULL,
  changed_at timestamptz NOT NULL
);
"""

# Noted only where a mirror is registered: nobody would ever take the notes away elsewhere.
NOTES = """
CREATE FUNCTION escrowgrid_note_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM followers WHERE name = 'mirror') THEN
    EXECUTE format('INSERT INTO mirror_queue (source, key) SELECT %L, ARRAY[%s] FROM changed',
      TG_TABLE_NAME, TG_ARGV[0]);
  END IF;
  RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION escrowgrid_note_change() FROM PUBLIC;
"""
NOTED = (
    ("institutions", "id", ("INSERT",)),
    ("api_keys", "institution_id, id", ("INSERT", "UPDATE")),
    ("asset_templates", "institution_id, id", ("INSERT",)),
    ("assets", "institution_id, id", ("INSERT",)),
    ("policies", "institution_id, id", ("INSERT",)),
    ("webhook_endpoints", "institution_id, id", ("INSERT", "UPDATE")),
    ("webhook_secrets", "institution_id, id", ("INSERT", "UPDATE", "DELETE")),
    ("webhook_deliveries", "institution_id, id", ("INSERT", "UPDATE")),
    ("audit_events", "occurred_at::text, id", ("INSERT",)),
    # Written together with its event, and copied with it: only its erasure is news.
    ("personal_data", "institution_id, event_id", ("UPDATE", "DELETE")),
)

SETTING = "(SELECT current_setting('escrowgrid.scope', true))"
LISTED = (
    "institution_id = ANY ((SELECT string_to_array(current_setting('escrowgrid.scope', true), ','))::text[])"
)
# The one way to erase: values and salts of one event, and the holder that its position repeats.
ERASURE = f"""
CREATE POLICY owner_erases ON personal_data FOR ALL TO escrowgrid_owner USING ({LISTED}) WITH CHECK ({LISTED});
CREATE POLICY owner_erases ON positions FOR ALL TO escrowgrid_owner USING ({LISTED}) WITH CHECK ({LISTED});
CREATE POLICY owner_erases ON ledger_events FOR SELECT TO escrowgrid_owner USING ({LISTED});
CREATE FUNCTION escrowgrid_erase_personal(institution text, event text, erased text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE personal_data SET
    holder_reference = CASE WHEN 'holder' = ANY (erased) THEN NULL ELSE holder_reference END,
    holder_salt = CASE WHEN 'holder' = ANY (erased) THEN NULL ELSE holder_salt END,
    reason = CASE WHEN 'reason' = ANY (erased) THEN NULL ELSE reason END,
    reason_salt = CASE WHEN 'reason' = ANY (erased) THEN NULL ELSE reason_salt END,
    metadata = CASE WHEN 'metadata' = ANY (erased) THEN NULL ELSE metadata END,
    metadata_salt = CASE WHEN 'metadata' = ANY (erased) THEN NULL ELSE metadata_salt END
  WHERE institution_id = institution AND event_id = event;
  IF 'holder' = ANY (erased) THEN
    UPDATE positions SET holder_reference = NULL
    WHERE institution_id = institution AND holder_reference IS NOT NULL AND id = (
      SELECT e.position_id FROM ledger_events e
      WHERE e.institution_id = institution AND e.id = event AND e.position_version = 1);
  END IF;
END
$$;
REVOKE ALL ON FUNCTION escrowgrid_erase_personal(text, text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION escrowgrid_erase_personal(text, text, text[]) TO escrowgrid_writer;
"""

GRANTS = """
GRANT SELECT ON mirror_queue, mirror_copy, alembic_version TO escrowgrid_feed;
GRANT SELECT (place), DELETE ON mirror_queue TO escrowgrid_writer;
GRANT SELECT, INSERT, UPDATE ON mirror_copy TO escrowgrid_writer;
GRANT SELECT ON alembic_version TO escrowgrid_writer;
"""


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def noted(table: str, key: str, event: str) -> str:
    """Note the keys of all rows of a statement at once."""
    rows = "OLD" if event == "DELETE" else "NEW"
    name = f"noted_{event.lower()}"
    return (
        f"CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {rows} TABLE AS changed "
        f"FOR EACH STATEMENT EXECUTE FUNCTION escrowgrid_note_change('{key}');"
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name};"
    )


def upgrade() -> None:
    """Make what the mirror needs."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    script(TABLES)
    script(NOTES)
    for table, key, events in NOTED:
        for event in events:
            script(noted(table, key, event))
    script(ERASURE)
    script(GRANTS)
