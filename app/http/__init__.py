"""How the outside reaches the schema: HTTP, WebSockets, event streams. Starlette only; no rules, no SQL."""
