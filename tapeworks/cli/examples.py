"""`tapeworks example`: the guide's examples, with the components and data files that they need.

A wheel holds them in `tapeworks/example_files` (hatch_build.py); a source tree has them in `examples/`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

import tapeworks
from tapeworks.cli.console import out, table
from tapeworks.cli.new_files import write_files

_PACKAGE = Path(tapeworks.__file__).parent
_WITHOUT_SPECS = frozenset({"data", "packages", "scripts"})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(example)


def example(
    name: Annotated[
        str | None, typer.Argument(help="Such as standard/sequential; without it: list all.", show_default=False)
    ] = None,
    folder: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path("."),
) -> None:
    """Write an example of the guide into a folder, or list the examples. Existing files are not overwritten."""
    specs = example_specs()
    if name is None:
        rows = table("NAME", "JOB")
        for one, path in specs.items():
            rows.add_row(one, Text(str(json.loads(path.read_text(encoding="utf-8")).get("name", ""))))
        out().print(rows)
        return
    chosen = name.removesuffix(".json")
    if chosen not in specs:
        raise typer.BadParameter(f"{name!r} is not an example: `tapeworks example` lists them", param_hint="NAME")
    files = files_of_example(chosen)
    written = write_files(folder, {target: source.read_bytes() for target, source in files.items()})
    console = out()
    for path in written:
        console.print(Text(f"wrote {path}"))
    for line in _next(chosen, folder, list(files)):
        console.print(Text(line))


def example_specs() -> dict[str, Path]:
    """Name → file of each spec."""
    root = _root()
    found = [*root.glob("*.json"), *root.glob("*/*.json")]
    names = {path.relative_to(root).with_suffix("").as_posix(): path for path in found}
    return {name: names[name] for name in sorted(names) if name.partition("/")[0] not in _WITHOUT_SPECS}


def files_of_example(name: str) -> dict[str, Path]:
    """Where each file of an example is written (below the target folder) → where it is read."""
    root, spec = _root(), example_specs()[name]
    text = spec.read_text(encoding="utf-8")
    document, files = json.loads(text), {spec.name: spec}
    for earlier in _earlier(document):
        files |= files_of_example(earlier)
    own = set(re.findall(r'"(acme/\w+)"', text))
    for module in root.glob("*/*.py"):
        code = module.read_text(encoding="utf-8") if module.parent.name not in _WITHOUT_SPECS else ""
        if any(f'"{component}"' in code for component in own):
            files[module.name] = module
    for pattern in _texts_of(document, "files"):
        for path in sorted((root / "data").glob(pattern)):
            files[path.relative_to(root).as_posix()] = path
    return files


def _root() -> Path:
    packed = _PACKAGE / "example_files"
    return packed if packed.is_dir() else _PACKAGE.parent / "examples"


def _next(name: str, folder: Path, files: list[str]) -> list[str]:
    """The commands that run what was written."""
    own = [part for file in files if file.endswith(".py") for part in ("--components", str(folder / file))]
    data = ["--data-root", str(folder / "data")] if any(file.startswith("data/") for file in files) else []
    spec = example_specs()[name]
    lines = [f"Run a server:              {shlex.join(['tapeworks', 'serve', *own, *data])}"]
    for earlier in _earlier(json.loads(spec.read_text(encoding="utf-8"))):
        first = example_specs()[earlier].name
        lines.append(f"First submit {first}; write the id of its job for {earlier + '.json'!r} in {spec.name}.")
    submit = shlex.join(["tapeworks", "submit", str(folder / spec.name), "--watch"])
    return [*lines, f"Then, in another terminal: {submit}"]


def _earlier(document: Any) -> list[str]:
    """The examples whose jobs a spec starts from: `from` names their files."""
    return [text.removesuffix(".json") for text in _texts_of(document, "from") if text.endswith(".json")]


def _texts_of(value: Any, field: str) -> Iterator[str]:
    """The text, or each text of the list, that a spec has as `field`, at any depth."""
    if isinstance(value, list):
        for one in value:
            yield from _texts_of(one, field)
    elif isinstance(value, dict):
        named = value.get(field, [])
        yield from [named] if isinstance(named, str) else (one for one in named if isinstance(one, str))
        for key, one in value.items():
            if key != field:
                yield from _texts_of(one, field)
