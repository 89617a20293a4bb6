"""Text as editors and systems write it: byte order marks, encodings, lines."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tests.workers.components.conftest import source

LINES = ["schön film", "", "zweite — Zeile", "  ", "dritte"]


def texts(**config: Any) -> list[str]:
    return [text.decode() for text in source("text", files="*.txt", **config).dataset().as_numpy_iterator()]


def fails(says: str, **config: Any) -> None:
    with pytest.raises(JobFailure, match=says) as caught:
        source("text", files="*.txt", **config).dataset()
    assert caught.value.code is FailureCode.INVALID_DATA


def test_a_byte_order_mark_is_no_part_of_a_text(root: Path) -> None:
    for name in ("a", "b"):
        content = "\ufeffbad film\r\n\r\nsecond \ufeffline\r\n"
        (root / f"{name}.txt").write_bytes(content.encode() if name == "a" else b"plain\n\xef\xbb\xbfkept\n")
    assert texts() == ["bad film", "plain", "second \ufeffline", "\ufeffkept"]
    assert texts(per="file") == ["bad film\r\n\r\nsecond \ufeffline\r\n", "plain\n\ufeffkept\n"]
    (root / "a.txt").write_bytes(b"\xef\xbb\xbf\r\n")
    assert texts() == ["plain", "\ufeffkept"], "a mark alone is an empty line"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "gb18030"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_encoding_gives_the_same_lines(root: Path, encoding: str, end: str) -> None:
    (root / "a.txt").write_bytes(end.join(LINES).encode(encoding))
    assert texts(encoding=encoding) == [line for line in LINES if line.strip()]
    assert texts(encoding=encoding, per="file") == [end.join(LINES)]


def test_what_is_no_utf_8_is_refused_with_file_line_and_remedy(root: Path) -> None:
    (root / "a.txt").write_bytes(b"good\n" * 300_000 + "schön\n".encode("latin-1"))
    fails(r"data/a\.txt, line 300001: byte 0xf6 is not utf-8; give its \"encoding\"")
    (root / "a.txt").write_bytes("film".encode("utf-16"))
    fails(r'a\.txt is UTF-16, not UTF-8; give "encoding": "utf-16"')
    (root / "a.txt").write_bytes("film".encode("utf-16-be"))
    fails(r'a\.txt is UTF-16, not UTF-8; give "encoding": "utf-16-be"')
    (root / "a.txt").write_bytes(b"film\xe2\x82")
    fails(r"a\.txt, line 1: byte 0xe2 is not utf-8")
    with pytest.raises(JobFailure, match="encoding must be one that Python knows"):
        source("text", files="*.txt", encoding="base64")


def test_files_are_skipped_up_to_a_bound(root: Path) -> None:
    (root / "a.txt").write_bytes(b"good\n")
    (root / "b.txt").write_bytes(b"caf\xe9\n")
    one = source("text", files="*.txt", on_error="skip")
    assert list(one.dataset().as_numpy_iterator()) == [b"good"]
    (reason,) = one.skipped()
    assert reason.startswith("data/b.txt, line 1")
    fails("1 of 2 files cannot be read, max_skipped is 0", on_error="skip", max_skipped=0)


def test_an_iterator_over_marked_and_transcoded_lines_can_be_saved(root: Path, tmp_path: Path) -> None:
    for name in "abc":
        (root / f"{name}.txt").write_bytes("\n".join(["\ufeff" + name, *LINES]).encode())
    for index, encoding in enumerate(("utf-8", "utf-8-sig", "gb18030")):
        if encoding == "gb18030":
            for name in "abc":
                (root / f"{name}.txt").write_bytes("\n".join(LINES).encode(encoding))
        one = source("text", files="*.txt", encoding=encoding)
        whole = list(one.dataset().as_numpy_iterator())
        begun, resumed = iter(one.dataset()), iter(one.dataset())
        for _ in range(4):
            next(begun)
        tf.train.Checkpoint(iterator=begun).write(str(tmp_path / f"{index}"))
        tf.train.Checkpoint(iterator=resumed).read(str(tmp_path / f"{index}")).assert_consumed()
        assert [text.numpy() for text in resumed] == whole[4:]
