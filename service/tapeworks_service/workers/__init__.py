"""Worker machines, as they registered."""
