"""Read and remove trees of files that jobs left, however they are nested.

`shutil.rmtree`, `Path.rglob` and (before Python 3.12) `os.walk` recurse: a thousand folders inside each other end them,
and with them whoever called. `remove` moves folders up before it empties them, so that it needs neither recursion nor
a path longer than the system takes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import structlog

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

log = structlog.get_logger(__name__)


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All that lies below a folder; links are not followed, and what is gone meanwhile is left out.

    Raises OSError with ENAMETOOLONG where folders are nested deeper than a path can say.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as found:
                inside = list(found)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in inside:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)


def remove(path: Path) -> bool:
    """Remove a folder with all below it, or a file. Links are not followed. Never raises: whether all is gone.

    What could not be removed is logged with the first reason.
    """
    problems: list[OSError] = []
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return True
        root = os.open(path, _FOLDER)
    except FileNotFoundError:
        return True
    except OSError as error:
        problems.append(error)
    else:
        try:
            _empty(root, problems)
        finally:
            os.close(root)
        try:
            path.rmdir()
            return True
        except FileNotFoundError:
            return True
        except OSError as error:
            problems.append(error)
    log.error("files could not be removed", path=str(path), error=str(problems[0]))
    return False


def remove_below(folder: int, name: str, problems: list[OSError]) -> None:
    """Remove an entry of an open folder with all below it. What stands in the way is added to `problems`."""
    try:
        try:
            os.unlink(name, dir_fd=folder)
            return
        except IsADirectoryError:
            inner = _opened(folder, name)
        try:
            _empty(inner, problems)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(error)


def _empty(root: int, problems: list[OSError]) -> None:
    """Remove all that lies in an open folder: the folders in its folders come up to it first, one level at a time."""
    number = 0
    stuck: set[str] = set()
    while folders := [name for name in _unlinked(root, problems) if name not in stuck]:
        for name in folders:
            try:
                inner = _opened(root, name)
            except OSError as error:
                problems.append(error)
                stuck.add(name)
                continue
            try:
                for below in _unlinked(inner, problems):
                    number += 1
                    os.rename(below, f".removed-{os.getpid()}-{number}", src_dir_fd=inner, dst_dir_fd=root)
                os.rmdir(name, dir_fd=root)
            except OSError as error:
                problems.append(error)
                stuck.add(name)
            finally:
                os.close(inner)


def _opened(parent: int, name: str) -> int:
    """A folder, opened. One that its owner closed is opened to its owner again."""
    try:
        inner = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        if os.geteuid() == 0:  # a mode is no hindrance then, and a link in the folder's place must not be followed
            raise
        os.chmod(name, stat.S_IRWXU, dir_fd=parent)
        inner = os.open(name, _FOLDER, dir_fd=parent)
    with suppress(OSError):
        os.fchmod(inner, stat.S_IRWXU)
    return inner


def _unlinked(folder: int, problems: list[OSError]) -> Iterator[str]:
    """Remove what is no folder from an open one; the names of the folders in it."""
    with os.scandir(folder) as inside:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in inside]
    for name, is_folder in found:
        if is_folder:
            yield name
            continue
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(error)
