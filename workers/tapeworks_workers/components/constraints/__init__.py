"""Constraints: what a weight must satisfy after each update."""
