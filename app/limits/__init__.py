"""How much each key may ask for: token buckets on cost, shared by all processes."""
