"""Background work: lost attempts are ended, unreferenced files are deleted."""
