"""Uploaded component packages: read as text here, tried and run in a sandbox on workers."""
