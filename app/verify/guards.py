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
IN_FORCE = """
SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_proc p ON p.oid = t.tgfoid
WHERE c.relnamespace = 'public'::regnamespace AND t.tgenabled = 'A' AND p.proname = 'escrowgrid_refuse'
"""
FORCED = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relrowsecurity AND relforcerowsecurity
"""


async def check(connection: Driver, report: Report) -> None:
    """What somebody took away who wanted to change rows, or to see those of others; the catalogue is everybody's."""
    there = {(row["relname"], row["tgname"]) for row in await connection.fetch(IN_FORCE)}
    for table, trigger in TRIGGERS:
        if (table, trigger) not in there:
            report.add(TABLE, f"{table}.{trigger}", "the trigger that refuses changes is not in force")
    forced = {row["relname"] for row in await connection.fetch(FORCED)}
    for table in SECURED:
        if table not in forced:
            report.add(TABLE, table, "row-level security is not in force")
    report.looked_at[TABLE] += len(TRIGGERS) + len(SECURED)
