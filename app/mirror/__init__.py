"""A second copy of the ledger, in a database of its own: it is served from there when the ledger moves."""
