"""What is under way to the chain is copied to a mirror: whoever goes on with the ledger goes on with it, too."""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

NOTED = (
    ("anchors", "id"),
    ("anchor_transactions", "hash::text"),
    ("anchor_records", "institution_id, event_id"),
)


def upgrade() -> None:
    """Note what changes; copies that are there already are given these tables from the beginning."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    for table, key in NOTED:
        for event in ("INSERT", "UPDATE"):
            name = f"noted_{event.lower()}"
            op.execute(
                f"CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING NEW TABLE AS changed "
                f"FOR EACH STATEMENT EXECUTE FUNCTION escrowgrid_note_change('{key}')"
            )
            op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
