"""Plain tools that know none of our nouns."""
