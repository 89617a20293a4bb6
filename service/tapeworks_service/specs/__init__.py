"""Checks of a submitted spec against the catalogue."""
