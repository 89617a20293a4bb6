"""Where an exception comes from: the frames that lie in a component's or a user's own source.

A user's own line comes before one of a built-in component, which only called it: where no line of the user's ran, the
definition that the exception concerns (`error_owners`), then the part of the job that was being called.
"""

from __future__ import annotations

import inspect
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

import tapeworks
import tapeworks_workers
from tapeworks.components.registry import registry
from tapeworks.errors import Location
from tapeworks_workers.engine.diagnostics import error_owners
from tapeworks_workers.engine.diagnostics.error_text import text
from tapeworks_workers.engine.graph.tensorflow_private import call_stack

MAX_SAID = 2_000
"""Characters of an exception's own text below the frames: TensorFlow's may hold whole stacks."""
_COMPONENTS = str(Path(str(tapeworks_workers.__file__)).parent / "components")
_OURS = tuple(str(Path(str(package.__file__)).parent) for package in (tapeworks, tapeworks_workers))


def library_folders(path: Iterable[str]) -> tuple[str, ...]:
    """The folders of Python's and installed packages' files; `path` as sys.path.

    The interpreter names those of its own prefix. A `.pth` file or PYTHONPATH may add the packages of another one.
    """
    own = {sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")} | set(site.getsitepackages())
    return tuple(own | {one for one in path if Path(one).name in ("site-packages", "dist-packages")})


_LIBRARIES = library_folders(sys.path)
_IN_TEXT = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
"""Frames inside a message: AutoGraph's, and those of the node that failed in a running graph."""


@dataclass(frozen=True)
class Frame:
    """A line of source that an exception passed through."""

    file: str
    line: int
    function: str
    code: str = ""


def location(error: BaseException) -> Location | None:
    """The innermost line of a user's source, or what else the error concerns, and the component it belongs to."""
    frames = list(_relevant(error))
    if frames and not is_shipped(frames[-1].file):
        return _at(frames[-1].file, frames[-1].line)
    for item in reversed(_chain(error)):
        if (place := error_owners.concerned(item, is_own)) is not None:
            return _at(*place)
    for item in _chain(error):
        if (part := error_owners.part_of(item)) is not None:
            return Location(component=part.component)
    return _at(frames[-1].file, frames[-1].line) if frames else None


def here() -> Location | None:
    """The innermost line of a user's source that is running now; in what AutoGraph converted, the original's."""
    return _innermost(call_stack())


def of_function(function: Any) -> Location | None:
    """Where a user's function or method begins."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return _at(code.co_filename, code.co_firstlineno) if code is not None and is_users(code.co_filename) else None


def of_tensor(tensor: tf.Tensor) -> Location | None:
    """The line of a user's source that made a tensor of a graph."""
    return of_operation(tensor.op)


def of_operation(operation: tf.Operation) -> Location | None:
    """The line of a user's source that made an operation of a graph."""
    return _innermost(operation.traceback or ())


def _innermost(stack: Iterable[Any]) -> Location | None:
    users = [(frame.filename, frame.lineno) for frame in stack if is_users(frame.filename)]
    return _at(*users[-1]) if users else None


def _at(file: str, line: int) -> Location:
    return Location(file=file, line=line, component=component_at(file, line))


def in_component(error: BaseException) -> bool:
    """Whether an exception passed through a component, or came out of a running graph, which is a component's."""
    if isinstance(error, tf.errors.OpError) or any(True for _ in _relevant(error)):
        return True
    return any(error_owners.concerned(item, is_own) is not None for item in _chain(error))


def tail(error: BaseException) -> str:
    """The relevant frames and the exception, as Python prints them."""
    lines = []
    for frame in _relevant(error):
        lines.append(f'  File "{frame.file}", line {frame.line}, in {frame.function}')
        if frame.code:
            lines.append(f"    {frame.code.strip()}")
    if not lines:
        return "".join(traceback.format_exception(error)[-8:])
    return "\n".join([*lines, f"{type(error).__name__}: {text(error)}"[:MAX_SAID]])


def component_at(file: str, line: int) -> str | None:
    """The name of the component whose source holds a line; of the file's first where no source does."""
    in_file = [item for item in registry if item.file is not None and str(item.file) == file]
    for item in in_file:
        try:
            lines, start = inspect.getsourcelines(inspect.unwrap(item.target))
        except (OSError, TypeError):
            continue
        if start <= line < start + len(lines):
            return item.name
    return in_file[0].name if in_file else None


def _relevant(error: BaseException) -> Iterator[Frame]:
    """User-relevant frames of the innermost exception in the chain that has some, outermost frame first.

    Frames of built-in components count only where the whole chain has no other.
    """
    found = [[frame for frame in _frames(item) if is_users(frame.file)] for item in reversed(_chain(error))]
    own = [frames for frames in found if frames and not is_shipped(frames[-1].file)]
    yield from next(iter([*own, *filter(None, found)]), [])


def _chain(error: BaseException) -> list[BaseException]:
    """The exception, what it was raised from or while handling, and so on."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def _frames(error: BaseException) -> list[Frame]:
    frames = [Frame(f.filename, f.lineno or 0, f.name, f.line or "") for f in traceback.extract_tb(error.__traceback__)]
    metadata = getattr(error, "ag_error_metadata", None)
    if metadata is not None:  # AutoGraph ran a converted copy: it knows the lines of the original, innermost first
        frames += [
            Frame(f.filename, f.lineno, f.function_name, f.code or "") for f in reversed(metadata.translated_stack)
        ]
    return frames + [Frame(file, int(line), function) for file, line, function in _IN_TEXT.findall(str(error))]


def is_shipped(file: str) -> bool:
    """Whether a file is one of the built-in components."""
    return file.startswith(_COMPONENTS)


def is_own(file: str) -> bool:
    """Whether a file is a user's own."""
    return is_users(file) and not is_shipped(file)


def is_users(file: str) -> bool:
    """Whether a file is a component's or a user's own: neither the engine's nor a library's."""
    if "__autograph_generated_file" in file or file.startswith("<"):
        return False
    if any(item.file is not None and str(item.file) == file for item in registry) or file.startswith(_COMPONENTS):
        return True
    return not file.startswith((*_OURS, *_LIBRARIES))
