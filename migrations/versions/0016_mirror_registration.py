"""A mirror that was given up and is taken again is another registration, whose copy is seeded anew."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Both sides say which registration they belong to; existing copies are seeded once more."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '60s'")
    op.execute("""
    ALTER TABLE followers ADD COLUMN registration text COLLATE "C" NOT NULL
      DEFAULT replace(gen_random_uuid()::text, '-', '')
    """)
    op.execute("""ALTER TABLE mirror_copy ADD COLUMN registration text COLLATE "C" NOT NULL DEFAULT ''""")
    op.execute("ALTER TABLE mirror_copy ALTER COLUMN registration DROP DEFAULT")
