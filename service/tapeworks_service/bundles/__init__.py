"""Uploaded model bundles: what jobs elsewhere left, to go on from."""
