"""Tenants, their API keys, and what role each key plays."""
