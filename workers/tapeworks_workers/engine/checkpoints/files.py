"""Checkpoint files: one tar each, written aside, synced, renamed; the newest few and the best are kept."""

from __future__ import annotations

import errno
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tapeworks import archives
from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.checkpoints.snapshot import Snapshot, read_values, sync, write_values

FOLDER = "checkpoints"


class CheckpointFiles:
    """The checkpoints that one attempt writes below its folder."""

    def __init__(self, folder: Path, *, keep: int, reserve: int = 0) -> None:
        """`reserve`: bytes of the disk that a checkpoint leaves free."""
        self._root = folder
        self._folder = folder / FOLDER
        self._keep, self._reserve = keep, reserve
        self._largest = 0
        self._written: list[tuple[Path, bool]] = []

    def begin(self, state: Snapshot, *, step: int, best: bool, extra: Callable[[Path], object]) -> Callable[[], str]:
        """Begin a checkpoint: `extra` adds files to its folder now. What is returned writes the rest, in any thread.

        It gives the path relative to the attempt's folder. Either raises OSError where there is no room: nothing is
        left of it then, and the earlier ones are as they were. One is written at a time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._check_room(state)
        number = len(self._written)
        final = self._folder / f"step-{step:09d}-{number:04d}{'-best' if best else ''}.tar"
        with ExitStack() as stack:
            aside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".writing-", dir=self._folder)))
            content = aside / "content"
            content.mkdir()
            extra(content)
            begun = stack.pop_all()

        def finish() -> str:
            with begun:
                write_values(state, content)
                _pack(content, aside / final.name)
                (aside / final.name).rename(final)
            sync(self._folder)
            self._largest = max(self._largest, final.stat().st_size)
            self._written.append((final, best))
            self._prune()
            return str(final.relative_to(self._root))

        return finish

    def _check_room(self, state: Snapshot) -> None:
        """The values are written once by themselves and once into the archive. Raises OSError."""
        if not self._reserve:
            return
        size = max(self._largest, sum(value.nbytes for value in state.values.values()))
        free = shutil.disk_usage(self._folder).free
        if free < 2 * size + self._reserve:
            raise OSError(errno.ENOSPC, f"{free} bytes are free for a checkpoint of {size} and a reserve")

    def _prune(self) -> None:
        """Remove what is not among the newest `keep` or the newest best: the agent holds the announced ones open."""
        best = [item for item in self._written if item[1]][-1:]
        for item in self._written[: -self._keep]:
            if item not in best:
                item[0].unlink(missing_ok=True)


def _pack(content: Path, packed: Path) -> None:
    with tarfile.open(packed, "w") as archive:
        for file in sorted(path for path in content.rglob("*") if path.is_file()):
            archive.add(file, arcname=str(file.relative_to(content)), recursive=False)
    sync(packed)


@contextmanager
def opened(file: Path) -> Iterator[tuple[Snapshot, Path]]:
    """A checkpoint's snapshot and the folder with its further files. Raises JobFailure `checkpoint_corrupt`."""
    folder = Path(tempfile.mkdtemp(prefix=".reading-", dir=file.parent))
    try:
        try:
            archives.extract(file, folder)
        except (archives.UnsafeArchive, OSError) as error:
            raise JobFailure(FailureCode.CHECKPOINT_CORRUPT, f"the checkpoint cannot be opened: {error}") from error
        yield read_values(folder), folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
