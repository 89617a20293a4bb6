"""Measures over a whole split."""
