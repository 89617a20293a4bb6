"""Files: the store, uploads in parts, deletions."""
