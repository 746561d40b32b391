"""Trusted documents: GraphQL documents that an operator has added, asked for by their sha-256."""
