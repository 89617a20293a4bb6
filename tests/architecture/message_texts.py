"""The texts that users read: arguments of exceptions and problems, hints, help of the CLI and log events."""

import ast
from collections.abc import Iterator
from pathlib import Path

CARRIERS = ("Error", "Exception", "Problem", "Failure", "Finding", "FailureInfo", "ProblemInfo", "Refused", "Unsafe")
"""Endings of the names of classes that carry a message."""
FIELDS = {"message", "hint", "help", "detail", "title", "summary", "description", "reason"}
"""Keywords and variables that hold a message."""
LOGGING = {"debug", "info", "warning", "error", "exception", "critical"}


def message_texts(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each message in a file; a placeholder of an f-string reads as `…`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for expression in _messages(node):
            for text in _texts(expression):
                if " " in text.strip():
                    yield expression.lineno, text


def _messages(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions at a node that hold messages."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield from node.exc.args
    elif isinstance(node, ast.Call):
        name = _name(node.func)
        if name.endswith(CARRIERS) or (isinstance(node.func, ast.Attribute) and name in LOGGING) or name == "echo":
            yield from node.args
        yield from (keyword.value for keyword in node.keywords if keyword.arg in FIELDS)
    elif isinstance(node, ast.Assign) and any(_name(target) in FIELDS for target in node.targets):
        yield node.value


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _texts(node: ast.expr) -> Iterator[str]:
    """The texts of an expression; calls inside it are messages of their own or none."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.BinOp):
        yield from _texts(node.left)
        yield from _texts(node.right)
