"""Proves the ledger: no gap, every link, every balance, every row that says it follows from it."""
