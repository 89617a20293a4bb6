"""Functions over whole datasets, for `apply`."""
