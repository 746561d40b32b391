"""Since when an endpoint fails, deliveries that may go when they are old, secrets that can be sealed anew."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

CHANGES = """
-- Since when every attempt at an event has failed; null when the last one succeeded.
ALTER TABLE webhook_endpoints ADD COLUMN failing_since timestamptz;
ALTER TABLE webhook_endpoints DROP CONSTRAINT webhook_endpoints_disabled_reason_check;
ALTER TABLE webhook_endpoints ADD CONSTRAINT webhook_endpoints_disabled_reason_check
  CHECK (disabled_reason IN ('ASKED', 'GONE', 'FAILING'));
GRANT UPDATE (failing_since) ON webhook_endpoints TO escrowgrid_writer;

-- With another key, when that is turned over.
GRANT UPDATE (sealed) ON webhook_secrets TO escrowgrid_writer;

-- What was settled long ago goes.
CREATE INDEX webhook_deliveries_settled_at ON webhook_deliveries (updated_at) WHERE state <> 'PENDING';
GRANT DELETE ON webhook_deliveries TO escrowgrid_writer;
CREATE TRIGGER noted_delete AFTER DELETE ON webhook_deliveries REFERENCING OLD TABLE AS changed
  FOR EACH STATEMENT EXECUTE FUNCTION escrowgrid_note_change('institution_id, id');
ALTER TABLE webhook_deliveries ENABLE ALWAYS TRIGGER noted_delete;
"""


def script(sql: str) -> None:
    """Run several statements at once; the driver cannot prepare them as one."""
    op.get_bind().connection.run_async(lambda driver: driver.execute(sql))


def upgrade() -> None:
    """Have webhooks look after themselves."""
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = '600s'")
    script(CHANGES)
