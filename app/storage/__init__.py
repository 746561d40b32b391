"""PostgreSQL: connections in the right role, snapshots, keyset pages, migrations, the embedded server."""
