"""Uploads by parts and downloads by ranges."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.hand_worker import HandLease, HandWorker, sha

PART = 8 * 1024 * 1024


@pytest.fixture
def lease(worker: HandWorker) -> HandLease:
    worker.submit()
    return worker.lease()


def published(lease: HandLease, data: bytes) -> str:
    bundle = lease.upload("bundle.tar.gz", data)
    assert lease.finish("succeeded", published={"bundle": bundle}).status_code == 200
    return f"/v1/jobs/{lease.job_id}/model"


def test_parts_may_come_in_any_order_and_again(lease: HandLease, api: httpx.Client) -> None:
    data = os.urandom(2 * PART + 12_345)
    begun = lease.begin("bundle.tar.gz", data).json()
    assert (begun["part_bytes"], begun["parts"], begun["missing"]) == (PART, 3, [1, 2, 3])
    numbers = [1, 2, 3, 2]
    random.Random(1).shuffle(numbers)
    for number in numbers:
        assert lease.part(begun["id"], number, data[(number - 1) * PART : number * PART]).status_code == 204
    assert lease.complete(begun["id"]).json()["completed"]
    assert lease.complete(begun["id"]).json()["completed"], "completed again, it is complete"
    manifest = {"path": "bundle.tar.gz", "bytes": len(data), "sha256": sha(data), "upload_id": begun["id"]}
    assert lease.finish("succeeded", published={"bundle": manifest}).status_code == 200
    assert api.get(f"/v1/jobs/{lease.job_id}/model").content == data


def test_an_upload_is_resumed_at_its_missing_parts(lease: HandLease, api: httpx.Client) -> None:
    data = os.urandom(PART + 1)
    begun = lease.begin("file.bin", data).json()
    lease.part(begun["id"], 2, data[PART:])
    incomplete = lease.complete(begun["id"])
    assert (incomplete.status_code, incomplete.json()["missing"]) == (409, [1])
    again = lease.begin("file.bin", data).json()
    assert (again["id"], again["missing"]) == (begun["id"], [1])
    assert api.get(f"/v1/uploads/{begun['id']}").json()["missing"] == [1]
    lease.part(begun["id"], 1, data[:PART])
    assert lease.complete(begun["id"]).status_code == 200


def test_a_part_with_another_digest_is_refused(lease: HandLease) -> None:
    begun = lease.begin("file.bin", b"content").json()
    wrong = lease.part(begun["id"], 1, b"kontent", digest=sha(b"content"))
    assert (wrong.status_code, wrong.json()["code"]) == (422, "digest_mismatch")
    assert lease.complete(begun["id"]).json()["missing"] == [1]


def test_a_whole_with_another_digest_is_refused_and_can_be_sent_again(lease: HandLease) -> None:
    begun = lease.begin("file.bin", b"content").json()
    assert lease.part(begun["id"], 1, b"kontent").status_code == 204, "the part itself is sound"
    wrong = lease.complete(begun["id"])
    assert (wrong.status_code, wrong.json()["code"]) == (422, "digest_mismatch")
    assert lease.part(begun["id"], 1, b"content").status_code == 204
    assert lease.complete(begun["id"]).json()["completed"]


def test_sizes_and_numbers_of_parts_are_checked(lease: HandLease) -> None:
    begun = lease.begin("file.bin", b"content").json()
    assert lease.part(begun["id"], 1, b"conten").status_code == 422
    assert lease.part(begun["id"], 2, b"content").status_code == 422
    assert lease.part(begun["id"], 1, b"x" * (PART + 1)).status_code == 413
    assert lease.client.put(f"/v1/uploads/{begun['id']}/parts/1", content=b"", headers=lease.headers).status_code == 422
    bad = {**lease.headers, "Content-Digest": "sha-256=:nonsense:"}
    assert lease.client.put(f"/v1/uploads/{begun['id']}/parts/1", content=b"", headers=bad).status_code == 422


@pytest.mark.parametrize(
    "path", ["../up", "/etc/passwd", "a/../../b", ".hidden", "a//b", "a\x00b", "ünicode", "", "a/.."]
)
def test_paths_that_lead_elsewhere_are_422(lease: HandLease, path: str) -> None:
    assert lease.begin(path, b"x").status_code == 422


def test_an_empty_file_is_a_file(lease: HandLease, api: httpx.Client) -> None:
    empty = lease.upload("empty.txt", b"")
    lease.finish("succeeded", files=[empty])
    answer = api.get(f"/v1/jobs/{lease.job_id}/artifacts/empty.txt")
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "0")


def test_a_file_of_the_same_name_with_other_bytes_is_another_upload(lease: HandLease, api: httpx.Client) -> None:
    first = lease.upload("file.bin", b"first")
    second = lease.upload("file.bin", b"second")
    assert first["upload_id"] != second["upload_id"]
    lease.finish("succeeded", files=[second])
    assert api.get(f"/v1/jobs/{lease.job_id}/artifacts/file.bin").content == b"second"


def test_what_an_attempt_uploaded_in_vain_goes_with_it(own_service: Any, tmp_path: Path) -> None:
    with own_service(reaper_seconds=0.05) as (client, worker):
        worker.register()
        worker.submit()
        lease = worker.lease()
        checkpoint = lease.upload("checkpoints/1.tar", b"kept")
        lease.post("checkpoints", {"upload_id": checkpoint["upload_id"], "step": 1, "epoch": 0})
        file = lease.upload("report.txt", b"kept too")
        lease.upload("left.bin", b"left over")
        half = lease.begin("half.bin", os.urandom(PART + 1)).json()
        lease.part(half["id"], 2, b"x")
        assert lease.finish("succeeded", files=[file]).status_code == 200
        assert client.get(f"/v1/uploads/{half['id']}").status_code == 404
        root = tmp_path / "data" / "artifacts"
        kept = {"probe", "1.tar", "report.txt"}
        while {name for _, _, names in os.walk(root) for name in names} - kept:
            client.get("/healthz")
        assert client.get(f"/v1/jobs/{lease.job_id}/artifacts/report.txt").content == b"kept too"


def test_a_file_that_the_store_lost_is_503_and_not_half_an_answer(own_service: Any, tmp_path: Path) -> None:
    with own_service() as (client, worker):
        worker.register()
        worker.submit()
        path = published(worker.lease(), b"bundle")
        for stored in (tmp_path / "data" / "artifacts").rglob("bundle.tar.gz"):
            stored.unlink()
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")


# ── downloads ────────────────────────────────────────────────────────────────────────────────────


def test_ranges_and_validators(lease: HandLease, api: httpx.Client) -> None:
    data = os.urandom(3_000_000)
    path = published(lease, data)
    whole = api.get(path)
    assert whole.content == data
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["Content-Disposition"].startswith(f'attachment; filename="{lease.job_id}.tar.gz"')
    tag = whole.headers["ETag"]
    cases = {"bytes=0-0": (0, 1), "bytes=1000-2000000": (1000, 2_000_001), "bytes=2999999-": (2_999_999, 3_000_000),
             "bytes=-5": (2_999_995, 3_000_000), "bytes=5-99999999": (5, 3_000_000)}  # fmt: skip
    for header, (start, end) in cases.items():
        part = api.get(path, headers={"Range": header})
        assert (part.status_code, part.content) == (206, data[start:end])
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/3000000"
        assert part.headers["Repr-Digest"] == whole.headers["Repr-Digest"], "the digest is the whole file's"
    for header in ("bytes=3000000-", "bytes=-0"):
        outside = api.get(path, headers={"Range": header})
        assert (outside.status_code, outside.json()["code"]) == (416, "range_not_satisfiable")
        assert outside.headers["Content-Range"] == "bytes */3000000"
    for header in ("bytes=0-1,5-6", "lines=1-2", "bytes=5-1"):
        assert api.get(path, headers={"Range": header}).status_code == 200
    assert api.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert api.get(path, headers={"Range": "bytes=1-2", "If-Range": tag}).status_code == 206
    assert api.get(path, headers={"Range": "bytes=1-2", "If-Range": '"other"'}).status_code == 200


def test_only_what_was_published_is_there(lease: HandLease, api: httpx.Client) -> None:
    lease.upload("left.bin", b"left over")
    path = published(lease, b"bundle")
    assert [one["path"] for one in api.get(f"/v1/jobs/{lease.job_id}/artifacts").json()["data"]] == ["bundle.tar.gz"]
    assert api.get(f"/v1/jobs/{lease.job_id}/artifacts/left.bin").status_code == 404
    assert api.get(f"{path}?format=keras").status_code == 404
    assert api.get(f"{path}?format=onnx").status_code == 422


# ── a store that refuses ─────────────────────────────────────────────────────────────────────────


def test_a_store_that_cannot_be_written_is_told_and_the_service_stays_up(own_service: Any, tmp_path: Path) -> None:
    with own_service() as (client, worker):
        worker.register()
        worker.submit()
        lease = worker.lease()
        begun = lease.begin("bundle.tar.gz", b"bundle").json()
        artifacts = tmp_path / "data" / "artifacts"
        kept = tmp_path / "kept"
        artifacts.rename(kept)
        artifacts.write_text("a file where the folder was")  # root may write into any folder, but not into a file
        refused = lease.part(begun["id"], 1, b"bundle")
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        assert client.get("/readyz").json()["checks"]["store"] != "ok"
        assert client.get("/healthz").status_code == 200
        artifacts.unlink()
        kept.rename(artifacts)
        assert lease.part(begun["id"], 1, b"bundle").status_code == 204
        assert client.get("/readyz").status_code == 200
