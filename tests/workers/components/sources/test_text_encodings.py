"""Files of lines in another encoding: read by offset, and closed again."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path

import pytest

from tapeworks_workers.components.sources.text_files import TextFile, Undecodable

LINES = "größe;n\n" * 1000


@pytest.mark.slow
def test_a_recoded_file_is_closed_with_its_reader(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(LINES.encode("cp1252"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            reader = TextFile(tmp_path / "a.csv", "cp1252")
            assert reader.read(10, 20) == LINES.encode()[10:20]
            assert reader.read(0, 5) == LINES.encode()[:5]
            reader.itself = reader  # type: ignore[attr-defined]  # a cycle, whose parts are finalized in any order
            del reader
            gc.collect()


def test_a_read_that_fails_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"abc\n" * 2**20 + b"\xff\xfe\xfd\n")
    reader = TextFile(tmp_path / "a.csv", "euc_jp")
    assert reader.read(0, 4) == b"abc\n"
    with pytest.raises(Undecodable, match="is not euc_jp") as refused:
        reader.read(2**21, 2**22 + 3)
    open_files = [os.readlink(one.path) for one in os.scandir("/proc/self/fd") if os.path.exists(one.path)]
    assert str(tmp_path / "a.csv") not in open_files, refused.value
