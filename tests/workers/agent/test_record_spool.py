"""Records on their way: the spool, lines of output, files of a runner."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qualification.faults.disks import Disks
from tapeworks_workers.agent.record_spool import MAX_BATCH_BYTES, MAX_HELD_BYTES, Spool
from tapeworks_workers.processes import output_lines
from tapeworks_workers.processes.output_lines import BURST, MAX_TEXT, Output
from tapeworks_workers.safe_files import UnsafePath, open_beneath


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "records.jsonl", limit=1 << 20) as spool:
        yield spool


def log(text: str) -> dict[str, Any]:
    return {"record": "log", "stream": "stdout", "text": text}


def test_records_are_numbered_and_kept_until_they_are_stored(spool: Spool) -> None:
    for n in range(5):
        spool.append(log(f"line {n}"))
    first = spool.batch(3)
    assert [record["index"] for record in first] == [1, 2, 3]
    assert all(record["at_offset"] >= 0 for record in first)
    assert [record["text"] for record in spool.batch()] == [f"line {n}" for n in range(5)]
    spool.forget(2)
    assert [record["index"] for record in spool.batch()] == [3, 4, 5]
    spool.forget(1)
    assert [record["index"] for record in spool.batch()] == [3, 4, 5]
    spool.forget(5)
    assert spool.batch() == []
    spool.append(log("later"))
    assert [record["index"] for record in spool.batch()] == [6]
    assert spool.last == 6


def test_the_file_is_emptied_when_all_is_stored(spool: Spool, tmp_path: Path) -> None:
    spool.append(log("x" * 1000))
    assert (tmp_path / "records.jsonl").stat().st_size > 1000
    spool.forget(1)
    assert (tmp_path / "records.jsonl").stat().st_size == 0


def test_a_batch_is_bounded_in_bytes(tmp_path: Path) -> None:
    with Spool(tmp_path / "records.jsonl", limit=1 << 24) as spool:
        for _ in range(100):
            spool.append(log("x" * 16_000))
        assert sum(len(record["text"]) for record in spool.batch()) <= MAX_BATCH_BYTES
        spool.forget(100)
        spool.append(log("x" * 2 * MAX_BATCH_BYTES))
        assert len(spool.batch()) == 1


def test_above_the_limit_logs_are_dropped_and_states_are_kept(tmp_path: Path) -> None:
    with Spool(tmp_path / "records.jsonl", limit=1000) as spool:
        for _ in range(100):
            spool.append(log("x" * 100))
        kept = spool.last
        assert spool.take_dropped() == 100 - kept > 0
        assert spool.take_dropped() == 0, "it is told once"
        spool.append({"record": "state", "state": "running"})
        assert spool.last == kept + 1
        assert [record["index"] for record in spool.batch()] == list(range(1, kept + 2))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 64 KiB."""
    folder = tmp_path / "disk"
    disks = Disks({folder: 64 * 1024})
    yield disks.reach(folder)
    disks.close()


def test_a_full_disk_loses_nothing_while_the_service_takes_records(small_disk: Path) -> None:
    told: list[dict[str, Any]] = []
    with Spool(small_disk / "records.jsonl", limit=1 << 20) as spool:
        for number in range(300):
            spool.append(log(f"{number} " + "x" * 1_000))
            if number % 100 == 99:
                told += spool.batch()
                spool.forget(told[-1]["index"])
        assert [int(record["text"].split()[0]) for record in told] == list(range(300))
        assert [record["index"] for record in told] == list(range(1, 301))
        assert spool.take_dropped() == 0


def test_a_full_disk_and_no_service_lose_log_lines_and_points_first(small_disk: Path) -> None:
    with Spool(small_disk / "records.jsonl", limit=1 << 30) as spool:
        text = "x" * 100_000
        while not (dropped := spool.take_dropped()):
            spool.append(log(text))
        assert dropped == 1
        kept = spool.last
        assert kept * len(text) < MAX_HELD_BYTES + (64 << 10)
        for _ in range(3):
            spool.append({"record": "state", "state": "running"})
        spool.append(log(text))
        assert spool.take_dropped() == 1
        while batch := spool.batch():
            spool.forget(batch[-1]["index"])
        assert spool.stored == spool.last == kept + 3
        with pytest.raises(OSError, match="No space left"):
            _fill(spool, text)


def _fill(spool: Spool, text: str) -> None:
    for _ in range(100):
        spool.append({"record": "event", "type": "note", "data": {"message": text}})


def test_a_record_can_be_replaced_in_its_place(spool: Spool) -> None:
    for n in range(3):
        spool.append(log(str(n)))
    spool.forget(1)
    spool.replace_first({"record": "event", "type": "note", "data": {}})
    assert [(record["index"], record["record"]) for record in spool.batch()] == [(2, "event"), (3, "log")]


def test_news_and_emptiness_are_awaited(spool: Spool) -> None:
    async def scene() -> None:
        await spool.emptied()
        news = asyncio.create_task(spool.news())
        await asyncio.sleep(0)
        assert not news.done()
        spool.append(log("a"))
        await news
        emptied = asyncio.create_task(spool.emptied())
        await asyncio.sleep(0)
        assert not emptied.done()
        spool.forget(1)
        await emptied

    asyncio.run(scene())


# ── output ───────────────────────────────────────────────────────────────────────────────────────


def relayed(*chunks: bytes) -> list[str]:
    records: list[dict[str, Any]] = []

    async def relay() -> None:
        reading, writing = os.pipe()
        relaying = asyncio.create_task(Output(records.append).relay(reading, "stdout"))
        for chunk in chunks:
            await asyncio.to_thread(os.write, writing, chunk)
        os.close(writing)
        await relaying

    asyncio.run(relay())
    return [record["text"] for record in records]


def test_lines_are_whole_whatever_the_chunks() -> None:
    assert relayed(b"one\ntw", b"o\n", b"\xc3", b"\xbc\nend") == ["one", "two", "ü", "end"]


def test_a_progress_bar_is_its_last_state_and_nul_is_shown() -> None:
    assert relayed(b"1/10\r5/10\r10/10\n", b"a\0b\n", b"dos\r\n", b"\xff\n") == ["10/10", "a␀b", "dos", "\ufffd"]


def test_a_line_without_end_is_cut() -> None:
    lines = relayed(*[b"x" * 50_000] * 10, b"\nnext\n")
    assert [len(line) for line in lines] == [MAX_TEXT, 4]


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_become_valid_records(data: bytes) -> None:
    records: list[dict[str, Any]] = []
    out = Output(records.append)
    for line in data.split(b"\n"):
        out.line("stdout", line)
    assert all(len(record["text"]) <= MAX_TEXT and "\0" not in record["text"] for record in records)


def test_too_many_lines_are_counted_instead() -> None:
    records: list[dict[str, Any]] = []
    now = 0.0
    out = Output(records.append, clock=lambda: now)
    for n in range(BURST + 500):
        out.line("stdout", b"%d" % n)
    assert len(records) == BURST
    now = 10 / output_lines.LINES_PER_SECOND
    out.line("stdout", b"again")
    assert [record["text"] for record in records[BURST:]] == ["… 500 lines left out: more than 200 a second", "again"]


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_opened_beneath_its_folder_and_outlives_its_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file.tar").write_bytes(b"0123456789")
    with open_beneath(tmp_path, "a/file.tar") as file:
        (tmp_path / "a" / "file.tar").unlink()
        assert file.size == 10
        assert file.read(8, 100) == b"89"
        assert file.sha256() == "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "/etc/passwd",
        "a/../../secret",
        "link",
        "linked/secret",
        "pipe",
        "folder",
        "absent",
        "",
        ".",
        "a//b",
    ],
)
def test_a_runner_cannot_make_us_read_what_is_not_its_own(tmp_path: Path, path: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (outside / "secret").write_text("canary")
    (folder / "folder").mkdir(parents=True)
    (folder / "link").symlink_to(outside / "secret")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    with pytest.raises(UnsafePath):
        open_beneath(folder, path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    with open_beneath(tmp_path, "file") as file:
        os.truncate(tmp_path / "file", 10)
        with pytest.raises(OSError, match="truncated"):
            file.sha256()
