"""Which SQL text is one statement that reads rows: a check before a database sees it.

It is the first of two locks. The connection itself is read-only: a statement that writes fails in the database.
"""

from __future__ import annotations

import re

READING = ("SELECT", "WITH", "VALUES", "TABLE")
_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
  | (?P<text> '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
  | (?P<end> ; )
  | (?P<word> \w+ )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


class NotOneQuery(ValueError):
    """The text is not one statement that reads; the message says why."""


def one_query(text: str) -> str:
    """The statement without a semicolon at its end. Raises NotOneQuery."""
    if "\0" in text:
        raise NotOneQuery("holds a character 0")
    first = end = None
    for found in _TOKEN.finditer(text):
        if found["comment"] or found[0].isspace():
            continue
        if end is not None:
            raise NotOneQuery("holds more than one statement")
        if found["end"]:
            end = found.start()
        elif first is None:
            first = found[0].upper()
    if first is None:
        raise NotOneQuery("is empty")
    if first not in READING and first != "(":
        raise NotOneQuery(f"begins with {first}, not with one of {', '.join(READING)}")
    return text if end is None else text[:end]
