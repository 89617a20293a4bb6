"""Checkpoints: values, files, counters."""
