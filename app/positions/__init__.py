"""Positions: what is held for somebody, and the lifecycle it moves through."""
