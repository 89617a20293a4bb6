"""The commands that the workers add to the CLI."""
