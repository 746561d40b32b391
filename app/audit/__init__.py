"""Who asked for what, and what we answered."""
