"""The folder of what was compiled for earlier jobs."""

from __future__ import annotations

import os
from pathlib import Path

from tapeworks_workers.machine import xla_cache


def test_runners_are_told_the_folder_beside_the_flags_that_the_worker_was_given(tmp_path: Path) -> None:
    folder = xla_cache.folder_of(tmp_path)
    assert folder.is_relative_to(tmp_path)
    told = xla_cache.environment(folder, {"TF_XLA_FLAGS": "--tf_xla_clustering_debug"})["TF_XLA_FLAGS"]
    assert told.split()[0] == "--tf_xla_clustering_debug"
    assert f"--tf_xla_persistent_cache_directory={folder}" in told.split()


def test_what_was_not_used_for_the_longest_goes_first(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    xla_cache.trim(folder)
    (folder / "plans").mkdir()
    for age, name in enumerate(["newest.pb", "plans/second.json", "third.pb", "oldest.pb"]):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1_000_000 - age, 1_000_000 - age))
    (folder / "nowhere").symlink_to(tmp_path / "missing")
    os.utime(folder / "nowhere", (1, 1), follow_symlinks=False)
    xla_cache.trim(folder, 250)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["newest.pb", "second.json"]
    assert not (folder / "nowhere").is_symlink()
