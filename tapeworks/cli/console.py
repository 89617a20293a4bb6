"""What every command shares: where the service is, how results and errors are shown, exit codes.

Results go to standard output (only JSON with `--json`), everything else to standard error. A command
lets a `TapeworksError` pass: `Commands.invoke` shows it and chooses the exit code.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from tapeworks.client.client import Client
from tapeworks.errors import ApiError, Conflict, NotFound, Rejected, SpecInvalid, TapeworksError, Unauthorized
from tapeworks.errors import Unavailable as UnavailableError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""Control characters but tab and newline, and those that are invisible or turn the direction of writing."""
_NO_WIDTH = 10_000
"""Of a pipe or a file: no row is folded."""


class ExitCode(IntEnum):
    """What a script can rely on; docs/cli.md explains each. `NO`: the job did not succeed, no worker is ready."""

    OK = 0
    NO = 1
    USAGE = 2
    UNAVAILABLE = 3
    REFUSED = 4
    NOT_FOUND = 5
    CONFLICT = 6
    UNAUTHORIZED = 7
    ERROR = 8
    DETACHED = 130


@dataclass(frozen=True)
class Candidate:
    """One of several things that a name or the beginning of an id stands for."""

    id: str
    name: str
    state: str
    created: str


class Ambiguous(TapeworksError):
    """A name or the beginning of an id stands for several things: `candidates`."""

    def __init__(self, message: str, candidates: Sequence[Candidate]) -> None:
        super().__init__(message)
        self.candidates = candidates


@dataclass
class Session:
    """The options before the command, and whether it shows JSON."""

    url: str | None = None
    key: str | None = None
    json: bool = False

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client for the service that the options or the environment name."""
        with Client(self.url, self.key) as client:
            yield client


def _remember_json(context: typer.Context, value: bool) -> bool:
    session_of(context).json = value
    return value


Json = Annotated[bool, typer.Option("--json", help="Print only JSON.", callback=_remember_json)]
JobId = Annotated[
    str, typer.Argument(help="The job's id, the first characters of it, or the job's name.", show_default=False)
]


def session_of(context: typer.Context) -> Session:
    """The session that the options before the command made."""
    root = context.find_root()
    if not isinstance(root.obj, Session):
        root.obj = Session()
    return root.obj


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")]


def confirm(what: str, *, yes: bool) -> None:
    """Ask on a terminal before something is deleted, unless `--yes` was given; no ends the command with 1.

    Without a terminal nobody can be asked: a script must say `--yes`, and is never kept waiting. Raises BadParameter.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise typer.BadParameter("give it where there is no terminal to ask on", param_hint="--yes")
    err().print(Text(what))
    if not typer.confirm("Delete it?", err=True):
        raise typer.Exit(ExitCode.NO)


def visible(text: str) -> str:
    r"""Text with its control characters written out (`\x1b`): a job's output must not steer the reader's terminal."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    r"""The same in one line (`\n`, `\t`): a name or a label cannot pass for a line of ours."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


class SafeConsole(Console):
    """A console that shows control characters of a text; its own styles and movements are not concerned."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(visible(text), style)


def out() -> Console:
    """Standard output; made anew so that a test's or a pipe's redirection counts. Only a terminal has a width."""
    console = SafeConsole(soft_wrap=True, highlight=False)
    return console if console.is_terminal else SafeConsole(soft_wrap=True, highlight=False, width=_NO_WIDTH)


def err() -> Console:
    """Standard error."""
    return SafeConsole(stderr=True, soft_wrap=True, highlight=False)


def show_json(value: Any) -> None:
    """A model, or a list of them, as JSON on standard output."""
    typer.echo(_json_text(json.dumps(_plain(value), ensure_ascii=False, indent=2)))


def show_json_line(value: BaseModel) -> None:
    """A model as one line of JSON on standard output."""
    typer.echo(_json_text(value.model_dump_json(by_alias=True)))


def _json_text(text: str) -> str:
    """JSON in which control characters are escapes: it means the same."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def value_text(value: Any) -> str:
    """A value of open JSON as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def show_list(found: Sequence[Any], columns: Mapping[str, Callable[[Any], str]], *, json: bool) -> None:
    """A list as a table, or as JSON. `columns`: heading → the text of an item."""
    if json:
        show_json(found)
        return
    rows = table(*columns)
    for item in found:
        rows.add_row(*(text(item) for text in columns.values()))
    out().print(rows)


def table(*columns: str) -> Table:
    """A table without frames: easy to read and to cut."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column == "ID")  # to be copied whole
    return made


class Commands(TyperGroup):
    """The command group that turns errors into words and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error of ours ends it with its own exit code."""
        try:
            return super().invoke(ctx)
        except TapeworksError as error:
            show_error(error, as_json=session_of(ctx).json)
            raise typer.Exit(exit_code(error)) from None
        except FileNotFoundError as error:
            err().print(Text(f"error: file not found: {error.filename}", style="red"))
            raise typer.Exit(ExitCode.USAGE) from None
        except OSError as error:
            if error.filename is None:
                raise  # a closed pipe: click ends quietly
            err().print(Text(f"error: {error.filename}: {error.strerror}", style="red"))
            raise typer.Exit(ExitCode.ERROR) from None


def exit_code(error: TapeworksError) -> ExitCode:
    """The exit code that an error ends the program with."""
    kinds = {
        Ambiguous: ExitCode.USAGE,
        SpecInvalid: ExitCode.REFUSED,
        Rejected: ExitCode.REFUSED,
        UnavailableError: ExitCode.UNAVAILABLE,
        NotFound: ExitCode.NOT_FOUND,
        Conflict: ExitCode.CONFLICT,
        Unauthorized: ExitCode.UNAUTHORIZED,
    }
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), ExitCode.ERROR)


def show_error(error: TapeworksError, *, as_json: bool) -> None:
    """The error and every finding in it: for people on standard error, as JSON on standard output."""
    findings = _findings(error)
    if as_json:
        code = _code(error)
        detail = error.detail if isinstance(error, ApiError) else str(error)
        known = error.problem if isinstance(error, ApiError) else {}
        candidates = {"candidates": [asdict(one) for one in error.candidates]} if isinstance(error, Ambiguous) else {}
        show_json({**known, "code": code, "detail": detail, "errors": findings, **candidates})
        return
    console = err()
    if isinstance(error, SpecInvalid):
        console.print(Text("error: the spec is not valid", style="red"))
    else:
        console.print(Text(f"error: {error}", style="red"))
    for finding in findings:
        console.print(Text.assemble("  ", (str(finding.get("pointer") or "/"), "bold"), f": {finding.get('message')}"))
        if finding.get("hint"):
            console.print(Text(f"      {finding['hint']}", style="dim"))
    if isinstance(error, ApiError) and isinstance(hint := error.problem.get("hint"), str) and hint:
        console.print(Text(f"hint: {hint}", style="dim"))
    if isinstance(error, Ambiguous):
        rows = table("ID", "", "", "")
        for one in error.candidates:
            rows.add_row(*map(one_line, (one.id, one.name, one.state, one.created)))
        console.print(rows)
    if isinstance(error, UnavailableError) and error.status == 0:
        console.print("Is the service running (`tapeworks serve`)? Set its address with --url or TAPEWORKS_URL.")


def _code(error: TapeworksError) -> str:
    """The code of an error in JSON."""
    if isinstance(error, ApiError):
        return error.code
    if isinstance(error, SpecInvalid):
        return "invalid_spec"
    return "ambiguous" if isinstance(error, Ambiguous) else "error"


def _findings(error: TapeworksError) -> list[dict[str, Any]]:
    if isinstance(error, SpecInvalid):
        return [dict(finding.document()) for finding in error.findings]
    if isinstance(error, ApiError):
        return [finding for finding in error.errors if isinstance(finding, dict)]
    return []


def labels(given: list[str]) -> dict[str, str] | None:
    """Labels as they are written, KEY=VALUE; None where there are none."""
    for text in given:
        if "=" not in text:
            raise typer.BadParameter(f"{text!r} is not of the form KEY=VALUE", param_hint="--label")
    return dict(text.split("=", 1) for text in given) or None
