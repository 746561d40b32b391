"""The database's own guards are in force: triggers that refuse changes, and row-level security."""

from app.storage.database import Driver
from app.verify.findings import Report

TABLE = "guards"
# (table, trigger): what refuses, whatever `session_replication_role` says.
TRIGGERS = (
    ("asset_templates", "append_only"),
    ("policies", "append_only"),
    ("positions", "never_deleted"),
    ("ledger_events", "append_only"),
    ("epochs", "append_only"),
    ("ledger_head", "never_deleted"),
    ("institution_heads", "never_deleted"),
    ("checkpoints", "append_only"),
    ("audit_seals", "append_only"),
    ("audit_events", "append_only"),
    ("audit_events", "never_truncated"),
    ("holders", "never_deleted"),
    ("institution_keys", "never_deleted"),
    ("anchor_nodes", "append_only"),
)
# Tables that are seen row by row by those who may, their owner included.
SECURED = (
    "anchor_chains", "anchor_records", "anchors", "api_keys", "asset_templates", "assets", "audit_events", "epochs",
    "holders", "institution_heads", "institution_keys", "institutions", "ledger_events", "ledger_head", "personal_data",
    "policies", "positions", "webhook_deliveries", "webhook_endpoints", "webhook_secrets",
)  # fmt: skip
# Whose partitions have guards of their own, which can be taken away one by one.
PARTITIONED, OF_PARTITIONS = "audit_events", ("append_only", "never_truncated")
PARTITIONS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass('public.' || $1) ORDER BY 1
"""
# Of what each has to refuse, none may be left out: by its kind (8 DELETE, 16 UPDATE, 32 TRUNCATE), by a condition, or
# for other columns.
IN_FORCE = """
SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_proc p ON p.oid = t.tgfoid
JOIN (VALUES ('append_only', 24), ('never_deleted', 8), ('never_truncated', 32)) AS n (name, kinds)
  ON n.name = t.tgname AND t.tgtype & n.kinds = n.kinds
WHERE c.relnamespace = 'public'::regnamespace AND t.tgenabled = 'A' AND t.tgqual IS NULL AND t.tgattr::text = ''
  AND p.proname = 'escrowgrid_refuse' AND btrim(regexp_replace(p.prosrc, '\\s+', ' ', 'g')) = $1
"""
REFUSES = (
    "BEGIN RAISE EXCEPTION '% on % is refused: its rows are append-only', TG_OP, TG_TABLE_NAME "
    "USING ERRCODE = 'integrity_constraint_violation'; END"
)
FORCED = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relrowsecurity AND relforcerowsecurity
"""


async def check(connection: Driver, report: Report) -> None:
    """What somebody took away who wanted to change rows, or to see those of others; the catalogue is everybody's."""
    there = {(row["relname"], row["tgname"]) for row in await connection.fetch(IN_FORCE, REFUSES)}
    parts = [row["relname"] for row in await connection.fetch(PARTITIONS, PARTITIONED)]
    triggers = (*TRIGGERS, *((part, trigger) for part in parts for trigger in OF_PARTITIONS))
    for table, trigger in triggers:
        if (table, trigger) not in there:
            report.add(TABLE, f"{table}.{trigger}", "the trigger that refuses changes is not in force")
    forced = {row["relname"] for row in await connection.fetch(FORCED)}
    for table in (*SECURED, *parts):
        if table not in forced:
            report.add(TABLE, table, "row-level security is not in force")
    report.looked_at[TABLE] += len(triggers) + len(SECURED) + len(parts)
