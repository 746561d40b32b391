"""Due positions are read page by page: by their deadline, and of those that share one by their id."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Have the index give that order."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '600s'")
    op.execute("DROP INDEX positions_due")
    op.execute(
        "CREATE INDEX positions_due ON positions (expires_at, id) WHERE closed_at IS NULL AND expires_at IS NOT NULL"
    )
