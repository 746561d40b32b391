"""The chain: heads of the ledger anchored by a contract, events recorded there, and what proves them."""
