"""Two restores of one backup begin epochs of the same number: a nonce tells them apart."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give every epoch its nonce; those that were raised before get one of what only their own raising had."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    op.execute("""ALTER TABLE epochs ADD COLUMN nonce text COLLATE "C" NOT NULL DEFAULT ''""")
    # Rewritten, since the table refuses updates. The first epoch has none: the ledger's id tells it.
    op.execute("""
    ALTER TABLE epochs ALTER COLUMN nonce DROP DEFAULT, ALTER COLUMN nonce TYPE text COLLATE "C" USING
      CASE WHEN epoch = 1 THEN ''
           ELSE left(md5(epoch || ':' || extract(epoch FROM raised_at) || ':' || reason), 8) END
    """)
    op.execute("ALTER TABLE epochs ADD CHECK (nonce ~ '^[0-9a-f]{8}$' OR (epoch = 1 AND nonce = ''))")
