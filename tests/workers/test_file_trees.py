"""Trees that a job left are read and removed however they are nested, and links out of them are not followed."""

import errno
import os
from pathlib import Path

import pytest

from tapeworks_workers.file_trees import entries, remove
from tapeworks_workers.sandbox import usage


def nested(folder: Path, depth: int) -> None:
    """Folders inside each other, deeper than a path can name, each with a file."""
    folder.mkdir()
    current = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=current)
        inner = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        os.close(current)
        current = inner
    os.close(current)


@pytest.mark.slow
def test_five_thousand_folders_inside_each_other_are_removed(tmp_path: Path) -> None:
    nested(tmp_path / "deep", 5_000)
    assert remove(tmp_path / "deep")
    assert not list(tmp_path.iterdir())


def test_wide_trees_links_and_closed_folders_are_removed_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = tmp_path / "tree"
    for one in range(20):
        (tree / f"a{one}" / "b" / "c").mkdir(parents=True)
        (tree / f"a{one}" / "b" / "file").write_text("x")
    (tree / "link").symlink_to(outside)
    (tree / "a1" / "b" / "link").symlink_to(outside / "kept")
    (tree / "a2" / "b").chmod(0)
    os.mkfifo(tree / "pipe")
    assert remove(tree)
    assert remove(tree), "what is gone already is fine"
    (tmp_path / "link").symlink_to(outside)
    assert remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "kept").read_text() == "kept"


@pytest.mark.slow
def test_files_that_cannot_be_counted_are_no_small_number(tmp_path: Path) -> None:
    (tmp_path / "two" / "inside").mkdir(parents=True)
    (tmp_path / "two" / "inside" / "file").write_bytes(bytes(10_000))
    assert usage.disk_bytes(tmp_path / "two") >= 10_000
    assert {entry.name for entry in entries(tmp_path / "two")} == {"inside", "file"}
    nested(tmp_path / "deep", 3_000)
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        usage.disk_bytes(tmp_path / "deep")
    assert remove(tmp_path / "deep"), "pytest could not"
