"""Verification of exported bundles, and the certificate."""
