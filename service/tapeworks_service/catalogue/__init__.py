"""What the registered workers can build."""
