"""Folders that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

SUPPORT = Path(__file__).parent
"""What tests share: programs that they start lie here."""

LAB = SUPPORT / "lab"
"""Component files for tests: parts that work, and parts with one mistake each."""
