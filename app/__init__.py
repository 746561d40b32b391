"""Escrowgrid: a real-time ledger for what is held on somebody's behalf."""
