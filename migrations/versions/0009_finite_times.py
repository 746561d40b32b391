"""Times that clients give are instants: an infinity would come back as something else than was sealed."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

GIVEN = (("ledger_events", "occurred_at"), ("positions", "expires_at"), ("api_keys", "expires_at"))


def upgrade() -> None:
    """Have the database refuse what the API refuses."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '600s'")
    for table, column in GIVEN:
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {table}_{column}_is_finite CHECK (isfinite({column}))"
        )
