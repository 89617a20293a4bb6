"""Validation with tracing: what a job would do, and how long it would take."""
