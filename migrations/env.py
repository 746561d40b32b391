"""Runs the migrations over the connection that app/storage/migrate.py gives, as the owner role."""

from alembic import context

connection = context.config.attributes["connection"]
connection.exec_driver_sql("SET ROLE escrowgrid_owner")
connection.commit()
context.configure(connection=connection, target_metadata=None, transaction_per_migration=True)

with context.begin_transaction():
    context.run_migrations()
