"""Checks of data: order, label domains, files that cannot be read, exact resume."""
