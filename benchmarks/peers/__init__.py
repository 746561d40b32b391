"""What we are measured against: others' servers on the same database, and the same work without a server."""
