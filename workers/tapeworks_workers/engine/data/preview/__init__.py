"""What an uploaded dataset holds."""
