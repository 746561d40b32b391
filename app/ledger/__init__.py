"""The ledger: one way in (the writer), one way out (the tail), and what lies between."""
