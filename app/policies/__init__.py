"""What an institution allows in a region: pure decisions, with reasons."""
