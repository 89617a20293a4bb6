"""Limits of connections, headers, bodies and checks, before and after a key is known."""
