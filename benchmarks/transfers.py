"""A gibibyte up and down: .venv/bin/python -m benchmarks.transfers

A file of random bytes goes to a service in parts, as a worker sends it, and becomes a job's artifact; then it is
downloaded in turns from the service, from `python -m http.server`, and read from the disk. Before each download and
read the file is dropped from the page cache. Prints MiB/s, ratios, and how much the service's memory grew.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.claims import answering, free_port, service
from benchmarks.http_load import get
from tapeworks_workers.agent.service_client import PARTS_AT_ONCE
from tests.support.hand_worker import HandLease, HandWorker, spec

MIB = 1 << 20
PIECE = 8 * MIB


def write(file: Path, mebibytes: int) -> str:
    """Random bytes, synced; their sha-256."""
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for _ in range(mebibytes):
            piece = os.urandom(MIB)
            digest.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def forget(file: Path) -> None:
    """Drop a file from the page cache."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(file: Path) -> float:
    """Seconds to read it."""
    forget(file)
    buffer, began = bytearray(PIECE), time.perf_counter()
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass
    return time.perf_counter() - began


def copied(file: Path) -> float:
    """Seconds to copy it, synced, and to read the copy for its digest: what an upload has to do at least."""
    forget(file)
    copy, buffer, began = file.with_suffix(".copy"), bytearray(PIECE), time.perf_counter()
    with file.open("rb", buffering=0) as opened, copy.open("wb", buffering=0) as out:
        while (count := opened.readinto(buffer)) > 0:
            out.write(memoryview(buffer)[:count])
        os.fsync(out.fileno())
    with copy.open("rb") as opened:
        hashlib.file_digest(opened, "sha256")
    taken = time.perf_counter() - began
    copy.unlink()
    return taken


def downloaded(port: int, path: str, size: int) -> float:
    """Seconds until all of its bytes are here; they are thrown away."""
    buffer, began = bytearray(PIECE), time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(get(path, connection="close"))
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        assert b" 200 " in head[:20], head
        left = size - len(head.partition(b"\r\n\r\n")[2])
        while left > 0 and (count := connection.recv_into(buffer)) > 0:
            left -= count
    assert left == 0, left
    return time.perf_counter() - began


def uploaded(lease: HandLease, file: Path, sha256: str) -> tuple[float, dict[str, Any]]:
    """Seconds from the first part to the completed upload, and its entry of the manifest."""
    forget(file)
    began, size = time.perf_counter(), file.stat().st_size
    body = {"bytes": size, "sha256": sha256, "job_id": lease.job_id, "attempt": lease.attempt, "path": "big.bin"}
    upload = lease.client.post("/v1/uploads", json=body, headers=lease.headers).json()
    part = upload["part_bytes"]

    def send(number: int) -> None:
        with file.open("rb") as opened:
            opened.seek((number - 1) * part)
            answer = lease.part(upload["id"], number, opened.read(part))
        assert answer.status_code == 204, answer.text

    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        list(pool.map(send, range(1, upload["parts"] + 1)))
    assert lease.complete(upload["id"]).json()["completed"]
    entry = {"path": "big.bin", "bytes": size, "sha256": sha256, "upload_id": upload["id"]}
    return time.perf_counter() - began, entry


@contextmanager
def watched(process: psutil.Process) -> Iterator[Callable[[], float]]:
    """By how many MiB a process was larger, at most, than at the start."""
    first, done = process.memory_info().rss, threading.Event()
    most = [first]

    def look() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: (most[0] - first) / MIB
    finally:
        done.set()
        thread.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        os.environ["TAPEWORKS_LEASE_SECONDS"] = "600"  # nobody sends heartbeats here
        file = folder / "big.bin"
        sha256, size = write(file, given.mebibytes), given.mebibytes * MIB
        with service(folder / "data", f"sqlite+aiosqlite:///{folder / 'tapeworks.db'}") as client:
            _measure(client, file, sha256, size, given.turns)


def _measure(client: httpx.Client, file: Path, sha256: str, size: int, turns: int) -> None:
    (process,) = [one for one in psutil.Process().children() if "tapeworks_service" in one.cmdline()]
    worker = HandWorker(client)
    worker.register()
    with watched(process) as grown:
        up: list[tuple[float, float]] = []
        for _ in range(turns):
            worker.submit(spec(export=None))
            lease = worker.lease()
            seconds, entry = uploaded(lease, file, sha256)
            up.append((seconds, copied(file)))
            assert lease.finish("succeeded", files=[entry]).status_code == 200
        sent = grown()
    stored = max(
        (one for one in file.parent.joinpath("data").rglob("big.bin") if one.is_file()),
        key=lambda one: one.stat().st_mtime,
    )
    port, down = free_port(), []
    arguments = ["-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(file.parent)]
    path = f"/v1/jobs/{lease.job_id}/artifacts/big.bin"
    with answering(arguments, port, "/big.bin?", file.parent / "http.log"), watched(process) as grown:
        for _ in range(turns):
            forget(stored)
            ours = downloaded(int(client.base_url.port or 0), path, size)
            forget(file)
            down.append((ours, downloaded(port, "/big.bin", size), read(file)))
        received = grown()
    print(f"{size // MIB} MiB, medians of {turns} turns with the spread of the ratio\n")
    print("| | Tapeworks, MiB/s | beside it, MiB/s | ratio | wanted |\n|---|---|---|---|---|")
    _row("upload: a synced copy and its digest", [(ours, other) for ours, other in up], size, 0.8)
    _row("download: `python -m http.server`", [(ours, other) for ours, other, _ in down], size, 1.0)
    _row("download: reading the file", [(ours, other) for ours, _, other in down], size, 0.8)
    print(f"\nthe service's memory grew by {sent:.0f} MiB in uploads, {received:.0f} MiB in downloads (wanted 50)")


def _row(what: str, pairs: list[tuple[float, float]], size: int, wanted: float) -> None:
    ours, other = (size / MIB / statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(beside / mine for mine, beside in pairs)
    spread = f"{ratios[0]:.2f}–{ratios[-1]:.2f}"
    print(f"| {what} | {ours:.0f} | {other:.0f} | {ours / other:.2f} ({spread}) | {wanted} |")


if __name__ == "__main__":
    main()
