"""Documents, messages and docstrings are plain technical English."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.message_texts import message_texts
from tests.support.paths import ROOT

PAGES = {str(page.relative_to(ROOT)): page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
PACKAGES = ("tapeworks", "service/tapeworks_service", "workers/tapeworks_workers")

BANNED = {
    r"told|tells?": "reports, returns, describes, logs",
    r"mend|mends|mended": "fix, suggested fix",
    r"hand on": "custom gradient processing",
    r"(?:a|an|the|one|two|each|every|another|further|of) looks?|looked (?:into|through)": "read, request, inspection",
    r"house|rooms?|guests?|cells?": "application context, sandbox, sandboxed process",
    r"is wanted|are wanted": "target",
    r"go on|goes on|going on|went on|gone on": "continue, resume",
    r"so many|so long|whoever|those who": "a number, a duration, users",
}
"""Words (regular expressions) → what to write instead."""
BANNED_IN_MESSAGES = {
    r"nobody|anew": "no user, again",
    r"wants?": "expects, needs",
    r"by hand": "the manual step itself",
    r"look(?:s|ed)? at": "read, inspect",
    r"(?:is|was) taken|are taken|not taken": "in use, accepted",
    r"(?<!there\s)(?:is|are) no (?!longer)\w+": "is not a, are not",
    r"bytes of it|may have|had any more": "the limit and the value",
}
"""More words that messages, hints, help texts and log events do without → what to write instead."""
ALLOWED = (r"(?:RNN|LSTM|GRU|recurrent|table|notebook|each) cells?", r"StackedRNNCells?")
"""Technical uses of banned words."""

_FRAGMENT = re.compile(r"(?:The same,|Of|As|To|With) ")
_START = re.compile(r"[A-Z`\"'0-9(]|tf\.")
_END = re.compile(r"[.?:!…]$")


def banned_words(text: str, banned: dict[str, str] = BANNED) -> list[str]:
    """Each banned word of a Markdown text with its replacement; code is left out."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]*`|\]\([^)]*\)", "", text)
    for allowed in ALLOWED:
        text = re.sub(rf"\b(?:{allowed})\b", "", text, flags=re.IGNORECASE)
    found = []
    for words, instead in banned.items():
        pattern = rf"\b(?:{words})\b".replace(" ", r"\s+")
        found += [f"{' '.join(hit[0].split())!r}: write {instead}" for hit in re.finditer(pattern, text, re.IGNORECASE)]
    return found


@pytest.mark.parametrize("name", PAGES)
def test_pages_have_no_banned_words(name: str) -> None:
    assert banned_words(PAGES[name].read_text()) == []


def test_banned_words_are_found() -> None:
    page = "A user is told, goes\non, and takes a look. `told` ```told``` An LSTM cell. The cell."
    assert [hit.partition(":")[0] for hit in banned_words(page)] == ["'told'", "'a look'", "'cell'", "'goes on'"]


def messages() -> Iterator[tuple[str, str]]:
    """Place and text of each message of the packages."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for line, text in message_texts(file):
                yield f"{file.relative_to(ROOT)}:{line}", text


def test_messages_have_no_banned_words() -> None:
    found = [(place, banned_words(text, BANNED | BANNED_IN_MESSAGES)) for place, text in messages()]
    assert [entry for entry in found if entry[1]] == []
    assert len(found) > 2000, "messages are no longer found: see message_texts"


def test_messages_are_found(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        """
def f(log, name):
    if name:
        raise ValueError(f"{name} is no number" if name else "nobody asked")
    log.warning("the client wants it", name="is not a text")
    hint = "Do it " + "by hand."
    typer.Option(help="Has a look at it.")
    return Problem(code, f"{name} was told", hint=hint)
"""
    )
    hits = [hit for _, text in message_texts(source) for hit in banned_words(text, BANNED | BANNED_IN_MESSAGES)]
    words = {hit.partition(":")[0] for hit in hits}
    assert words == {"'is no number'", "'nobody'", "'wants'", "'by hand'", "'a look'", "'look at'", "'told'"}


@functools.cache
def summaries() -> tuple[tuple[str, str], ...]:
    """Place and first paragraph, on one line, of each public docstring."""
    found = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if file.name != "__init__.py" and "migrations" not in file.parts:
                for name, node in public(ast.parse(file.read_text(encoding="utf-8")), ""):
                    if text := ast.get_docstring(node):
                        first = re.split(r"\n\s*\n|\n(?=Args:|Raises:|Returns:)", text)[0]
                        found.append((f"{file.relative_to(ROOT)}:{name}", " ".join(first.split())))
    return tuple(found)


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public(node: Documented, above: str) -> Iterator[tuple[str, Documented]]:
    """A module or class with its public classes, functions and methods."""
    yield above or "the module", node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            name = f"{above}.{child.name}".removeprefix(".")
            if isinstance(child, ast.ClassDef):
                yield from public(child, name)
            else:
                yield name, child


def is_sentence(summary: str) -> bool:
    """Whether a summary line stands by itself: a capital or a name, at least two words, an end, no loose opening."""
    words = summary.split()
    whole = _START.match(summary) and _END.search(summary) and len(words) > 1
    return bool(whole) and not _FRAGMENT.match(summary)


def test_public_docstrings_begin_with_a_sentence() -> None:
    assert [(place, summary) for place, summary in summaries() if not is_sentence(summary)] == []


@pytest.mark.parametrize(
    "summary", ["The same, sorted.", "Of a batch.", "As JSON.", "Remember.", "no capital.", "No end"]
)
def test_loose_summaries_are_found(summary: str) -> None:
    assert not is_sentence(summary)


def test_there_are_docstrings_to_check() -> None:
    assert len(summaries()) > 2000
