"""Personal values sealed with a key for each holder, so that destroying the key erases them everywhere."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLES = """
-- Which master keys servers of this database have had; the keys themselves are never here.
CREATE TABLE master_keys (
  id text COLLATE "C" PRIMARY KEY,
  noted_at timestamptz NOT NULL DEFAULT now()
);

-- The secret of each institution, sealed by a master key.
CREATE TABLE institution_keys (
  institution_id text COLLATE "C" PRIMARY KEY REFERENCES institutions (id),
  master_id text COLLATE "C" NOT NULL,
  sealed bytea NOT NULL
);

-- A holder: the data key that seals what is known of them, itself sealed by the institution's; what the institution
-- calls them, sealed; and its blind index, by which they are found. Of one who was erased nothing of it is left.
CREATE TABLE holders (
  institution_id text COLLATE "C" NOT NULL REFERENCES institution_keys (institution_id),
  id text COLLATE "C" NOT NULL,
  blind bytea CHECK (length(blind) = 32),
  reference bytea,
  data_key bytea,
  erased_at timestamptz,
  PRIMARY KEY (institution_id, id),
  -- Blind first: of an index that begins like the key, a planner without statistics may take the wrong one.
  UNIQUE (blind, institution_id),
  CONSTRAINT holders_erased
    CHECK (num_nulls(blind, reference, data_key) = CASE WHEN erased_at IS NULL THEN 0 ELSE 3 END)
);

CREATE FUNCTION escrowgrid_stay_erased() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the holder % was erased', OLD.id USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE TRIGGER stays_erased BEFORE UPDATE ON holders FOR EACH ROW
  WHEN (OLD.erased_at IS NOT NULL AND NEW IS DISTINCT FROM OLD) EXECUTE FUNCTION escrowgrid_stay_erased();
ALTER TABLE holders ENABLE ALWAYS TRIGGER stays_erased;
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON holders EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE holders ENABLE ALWAYS TRIGGER never_deleted;
CREATE TRIGGER never_deleted BEFORE DELETE OR TRUNCATE ON institution_keys EXECUTE FUNCTION escrowgrid_refuse();
ALTER TABLE institution_keys ENABLE ALWAYS TRIGGER never_deleted;

-- No foreign key: a creation locks and looks up enough as it is. `escrowgrid verify` looks.
ALTER TABLE positions ADD COLUMN holder_id text COLLATE "C";
ALTER TABLE personal_data RENAME COLUMN reason TO plain_reason;
ALTER TABLE personal_data RENAME COLUMN metadata TO plain_metadata;
ALTER TABLE personal_data ADD COLUMN holder_id text COLLATE "C", ADD COLUMN holder bytea, ADD COLUMN reason bytea,
  ADD COLUMN metadata bytea;
"""

WITHOUT_PLAIN = """
DROP INDEX positions_holder;
ALTER TABLE positions DROP COLUMN holder_reference;
CREATE INDEX positions_holder ON positions (institution_id, holder_id, created_at, id);
ALTER TABLE personal_data DROP COLUMN holder_reference, DROP COLUMN holder_salt, DROP COLUMN plain_reason,
  DROP COLUMN reason_salt, DROP COLUMN plain_metadata, DROP COLUMN metadata_salt;
"""

SETTING = "(SELECT current_setting('escrowgrid.scope', true))"
SCOPED = f"CASE WHEN {SETTING} = '*' THEN true ELSE institution_id = {SETTING} END"
LISTED = (
    "institution_id = ANY ((SELECT string_to_array(current_setting('escrowgrid.scope', true), ','))::text[])"
)
ERASURE = """
DROP FUNCTION escrowgrid_erase_personal(text, text, text[]);
DROP POLICY owner_erases ON ledger_events;
CREATE FUNCTION escrowgrid_erase_personal(institution text, event text, erased text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  UPDATE personal_data SET
    holder = CASE WHEN 'holder' = ANY (erased) THEN NULL ELSE holder END,
    reason = CASE WHEN 'reason' = ANY (erased) THEN NULL ELSE reason END,
    metadata = CASE WHEN 'metadata' = ANY (erased) THEN NULL ELSE metadata END
  WHERE institution_id = institution AND event_id = event;
END
$$;
REVOKE ALL ON FUNCTION escrowgrid_erase_personal(text, text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION escrowgrid_erase_personal(text, text, text[]) TO escrowgrid_writer;

-- Everything that the key of one holder sealed; returns of how many events.
CREATE FUNCTION escrowgrid_erase_holder(institution text, erased text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  gone bigint;
BEGIN
  UPDATE personal_data SET holder = NULL, reason = NULL, metadata = NULL
  WHERE institution_id = institution AND holder_id = erased AND position_id IN (
    SELECT p.id FROM positions p WHERE p.institution_id = institution AND p.holder_id = erased);
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN gone;
END
$$;
REVOKE ALL ON FUNCTION escrowgrid_erase_holder(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION escrowgrid_erase_holder(text, text) TO escrowgrid_writer;
"""

GRANTS = """
GRANT SELECT ON holders, institution_keys TO escrowgrid_api;
GRANT SELECT ON holders, institution_keys, master_keys TO escrowgrid_feed;
GRANT SELECT, INSERT ON holders, institution_keys, master_keys TO escrowgrid_writer;
GRANT UPDATE (blind, reference, data_key, erased_at) ON holders TO escrowgrid_writer;
GRANT UPDATE (master_id, sealed) ON institution_keys TO escrowgrid_writer;
"""

NOTED = (("holders", "institution_id, id"), ("institution_keys", "institution_id"))
CONVERTED = ("positions", "personal_data", "institutions", "holders", "institution_keys")
IS_COPY = "SELECT EXISTS (SELECT FROM personal_data) AND EXISTS (SELECT FROM mirror_copy)"
PLAIN = """
SELECT p.institution_id, p.event_id, p.position_id, w.holder_reference, p.holder_salt, p.plain_reason, p.reason_salt,
       p.plain_metadata::text, p.metadata_salt, p.holder_reference IS NOT NULL AS names_holder
FROM personal_data p JOIN positions w ON w.institution_id = p.institution_id AND w.id = p.position_id
WHERE w.holder_reference IS NOT NULL AND p.event_id > $1 ORDER BY p.event_id LIMIT 1000
"""
SEALED = """
UPDATE personal_data SET holder_id = $3, holder = $4, reason = $5, metadata = $6
WHERE institution_id = $1 AND event_id = $2
"""
HOLD = "UPDATE positions SET holder_id = $3 WHERE institution_id = $1 AND id = $2"


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def tenant_policies(table: str) -> list[str]:
    """Row-level security of one tenant table."""
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY api_scope ON {table} FOR SELECT TO escrowgrid_api USING ({SCOPED})",
        f"CREATE POLICY writer_scope ON {table} FOR ALL TO escrowgrid_writer USING ({LISTED}) WITH CHECK ({LISTED})",
        f"CREATE POLICY feed_all ON {table} FOR SELECT TO escrowgrid_feed USING (true)",
    ]


async def seal_what_is_there(driver) -> None:  # type: ignore[no-untyped-def]
    """Seal what the versions before kept in plain text, with the master key of this process's settings."""
    if not await driver.fetch(PLAIN, ""):
        return
    if await driver.fetchval(IS_COPY):
        raise RuntimeError(
            "this database is a mirror of before personal values were sealed: empty it and begin anew"
        )
    # Only here: a new database is made without any key.
    from app.kit.canonical import parse_json
    from app.kit.ids import Ids
    from app.ledger import sealed
    from app.ledger.model import Personal, Salts
    from app.personal import store
    from app.personal.masters import masters_of
    from app.personal.service import Holders
    from app.settings import Settings

    masters, ids = masters_of(Settings()), Ids()
    masters.make()
    await driver.execute(store.NOTE_MASTER, masters.current().id)
    holders, last = Holders(masters), ""
    while rows := await driver.fetch(PLAIN, last):
        found = await holders.hold(driver, {(row[0], row["holder_reference"]) for row in rows}, ids)
        for row in rows:
            holder = found[row["institution_id"], row["holder_reference"]]
            metadata = row["plain_metadata"]
            values = Personal(
                row["holder_reference"] if row["names_holder"] else None,
                row["plain_reason"],
                None if metadata is None else parse_json(metadata),
            )
            salts = Salts(row["holder_salt"], row["reason_salt"], row["metadata_salt"])
            place = (row["institution_id"], row["event_id"], row["position_id"])
            one = sealed.row_of(holder, place, values, salts)
            await driver.execute(SEALED, one[0], one[1], *one[3:])
            await driver.execute(HOLD, row["institution_id"], row["position_id"], holder.id)
        last = rows[-1]["event_id"]


def upgrade() -> None:
    """Make the tables of holders, and seal what is there."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    # Long enough to build an index anew; sealing is many short statements.
    op.execute("SET LOCAL statement_timeout = '10min'")
    script(TABLES)
    for table in CONVERTED:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.get_bind().connection.run_async(seal_what_is_there)
    for table in CONVERTED:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    script(WITHOUT_PLAIN)
    for table in ("institution_keys", "holders"):
        for statement in tenant_policies(table):
            op.execute(statement)
    for table, key in NOTED:
        for event in ("INSERT", "UPDATE"):
            script(
                f"CREATE TRIGGER noted_{event.lower()} AFTER {event} ON {table} REFERENCING NEW TABLE AS changed "
                f"FOR EACH STATEMENT EXECUTE FUNCTION escrowgrid_note_change('{key}');"
                f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER noted_{event.lower()};"
            )
    script(ERASURE)
    script(GRANTS)
