"""What a job printed cannot steer the terminal of whoever reads it."""

import io
import json

import pytest
from rich.text import Text

from tapeworks.cli.console import SafeConsole, out, show_json, table, visible

HOSTILE = "title\x1b]0;owned\x07 \x1b[2J\x9b31m up\rover \u202etxt"


def harmless(shown: str) -> bool:
    return not any(character in shown for character in "\x1b\x07\x9b\r\u202e")


def test_texts_and_tables_show_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table("NAME")
    rows.add_row(HOSTILE)
    out().print(rows)
    out().print(Text(f"first\n{HOSTILE}\tlast"))
    shown = capsys.readouterr().out
    assert harmless(shown)
    assert r"\x1b]0;owned \x1b[2J\x9b31m up" in shown, "Rich itself drops the bell"
    assert "first\n" in shown
    assert harmless(visible(HOSTILE))


def test_a_terminal_keeps_the_consoles_own_styles() -> None:
    terminal = io.StringIO()
    SafeConsole(file=terminal, force_terminal=True, color_system="standard").print(Text(HOSTILE, style="red"))
    styled = terminal.getvalue()
    assert styled.startswith("\x1b[31m")
    assert harmless(styled.replace("\x1b[31m", "").replace("\x1b[0m", ""))


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"text": HOSTILE, "name": "größe"})
    shown = capsys.readouterr().out
    assert harmless(shown)
    assert json.loads(shown) == {"text": HOSTILE, "name": "größe"}
    assert "größe" in shown
