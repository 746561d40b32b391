"""Webhooks: the ledger's events, signed and sent to where an institution wants them."""
