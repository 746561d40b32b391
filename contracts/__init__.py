"""The contract on the chain: its source, and what the compiler made of it."""
