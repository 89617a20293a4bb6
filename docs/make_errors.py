"""Writes docs/errors.md from `tapeworks.errors`: `make docs`. A test checks that the page is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from tapeworks.errors import FAILURES, PROBLEMS

PAGE = Path(__file__).with_name("errors.md")

HEAD = """<!-- Made by docs/make_errors.py from tapeworks/errors.py: change it there, then `make docs`. -->
# What can go wrong

Codes are stable: a program may rely on them. Words may change.

- [Why a job failed](#why-a-job-failed): `failure.code` of a job that ended as `failed`.
- [Why a request was refused](#why-a-request-was-refused): `code` of a problem document (RFC 9457), and of
  each of its `errors`, which carry a JSON pointer into the document that was sent.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, "\n## Why a job failed\n"]
    for code, failure in FAILURES.items():
        again = "Another attempt is made." if failure.retryable else "No other attempt is made: it would fail again."
        parts.append(f"\n### {code.value}\n\n{failure.summary}.\n\n{failure.hint}\n\n{again}\n")
    parts.append("\n## Why a request was refused\n\n| code | status | means | what to do |\n|---|---|---|---|\n")
    for problem_code, problem in PROBLEMS.items():
        hint = problem.hint.replace("|", "\\|")
        parts.append(f"| `{problem_code.value}` | {problem.status} | {problem.title} | {hint} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.name}\n")
