"""One attempt with a real service and forked runners that misbehave: every end has its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapeworks.schemas import worker_protocol
from tapeworks_workers.agent.service_client import AttemptLink
from tapeworks_workers.safe_files import open_beneath
from tests.support.agent_stage import Stage


@pytest.mark.slow
def test_a_crashed_runner_is_lost_with_its_last_words(stage: Stage) -> None:
    job = stage.play("crash")
    assert (job["state"], job["failure"]["code"]) == ("failed", "worker_lost")
    assert "SIGSEGV" in job["failure"]["message"]
    assert job["failure"]["retryable"]
    assert job["failure"]["attempt"] == 1
    assert "the last words" in job["failure"]["traceback_tail"]


def test_a_runner_that_leaves_without_a_word_is_lost(stage: Stage) -> None:
    job = stage.play("leave")
    assert job["failure"]["code"] == "worker_lost"
    assert "status 3" in job["failure"]["message"]


def test_what_is_not_valid_is_told_and_what_is_not_its_own_left_out(stage: Stage) -> None:
    job = stage.play("garbage")
    assert job["state"] == "succeeded", job["failure"]
    assert job["metrics"] == {"loss": "NaN"}
    messages = [note["message"] for note in stage.notes(job)]
    assert any("not valid" in message for message in messages)
    assert any("link.txt" in message for message in messages)
    assert [one["path"] for one in stage.service.data(f"/v1/jobs/{job['id']}/artifacts")] == ["real.txt"]


def test_a_result_outside_the_folder_is_not_published(stage: Stage) -> None:
    job = stage.play("escape", export={})
    assert (job["state"], job["failure"]["code"]) == ("failed", "internal")
    (note,) = stage.notes(job)
    assert "'manifest.json' cannot be opened" in note["message"]


@pytest.mark.parametrize("export", [None, {}])
def test_what_a_runner_says_was_verified_is_not_published(stage: Stage, export: dict[str, Any] | None) -> None:
    job = stage.play("forge", export=export)
    assert job["model"] is None
    assert stage.service.data(f"/v1/jobs/{job['id']}/artifacts") == []
    if export is not None:
        assert (job["state"], job["failure"]["code"]) == ("failed", "internal")
        assert "its bundle was not verified" in job["failure"]["message"]


def test_a_runner_that_does_not_heed_a_cancel_is_killed_after_a_grace(stage: Stage) -> None:
    job = stage.play("deaf", cancel_in="running", grace_seconds=0.5)
    assert job["state"] == "cancelled"


def test_a_cancel_while_exporting_kills_at_once(stage: Stage) -> None:
    job = stage.play("exporting", cancel_in="exporting", grace_seconds=1000)
    assert job["state"] == "cancelled"


def test_a_runner_beyond_its_time_is_killed(stage: Stage) -> None:
    job = stage.play("deaf", limits={"timeout_seconds": 1}, grace_seconds=0.5)
    assert (job["state"], job["failure"]["code"]) == ("failed", "timeout")


def test_a_job_of_built_in_parts_has_a_memory_limit_too(stage: Stage) -> None:
    job = stage.play("takes_memory", memory=250 << 20)
    assert (job["state"], job["failure"]["code"]) == ("failed", "out_of_memory")
    assert f"of {250 << 20} bytes" in job["failure"]["message"]


def test_a_verification_that_fails_is_answered(stage: Stage) -> None:
    (note,) = stage.notes(stage.play("verify"))
    absent, unknown, outside = note["messages"]
    assert "absent" in absent
    assert "no verifier" in unknown
    assert "no verifier" in outside


def test_output_without_measure_is_counted(stage: Stage) -> None:
    job = stage.play("flood")
    texts = [line["text"] for line in stage.service.data(f"/v1/jobs/{job['id']}/logs")]
    assert 1000 < len(texts) < 10_000
    assert any("lines left out" in text for text in texts)


def flip(folder: Path, content: bytes) -> None:
    """Change one byte of the file with this content in the store."""
    stored(folder, content).write_bytes(content.replace(b"2", b"3"))


def cut(folder: Path, content: bytes) -> None:
    """Take its last bytes."""
    stored(folder, content).write_bytes(content[:-3])


def stored(folder: Path, content: bytes) -> Path:
    """The newest file with this content."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == content]
    return max(files, key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(stage: Stage, damage: Callable[[Path, bytes], None]) -> None:
    async def scene() -> str:
        async with stage.linked() as link:
            job_id = stage.submit("checkpoints", limits={"max_attempts": 3})
            first = stage.attempt(link, await stage.lease(link, job_id, f"{job_id} first"))
            running = asyncio.create_task(first.run())
            await asyncio.to_thread(stage.service.until, job_id, two_checkpoints)
            first.drain()
            await running
            assert stage.service.job(job_id)["state"] == "queued"
            damage(stage.service.folder, b"the state at step 2")
            await stage.attempt(link, await stage.lease(link, job_id, f"{job_id} second")).run()
            return job_id

    def two_checkpoints(job: dict[str, Any]) -> bool:
        return bool(job["checkpoints"]["latest"] and job["checkpoints"]["latest"]["step"] == 2)

    job = stage.service.job(stage.run(scene()))
    diagnostic, note = stage.notes(job)
    assert diagnostic["code"] == "checkpoint_corrupt"
    assert "step 2" in diagnostic["message"]
    assert note["resumes"] == [{"step": 1, "bytes": "the state at step 1"}]


async def leave(link: AttemptLink, bundle: bytes, folder: Path) -> None:
    """End an attempt as an agent does whose job left these bytes."""
    (folder / "model.tar.gz").write_bytes(bundle)
    with open_beneath(folder, "model.tar.gz") as file:
        uploaded = await link.upload(file, "model.tar.gz")
    (folder / "model.tar.gz").unlink()
    published = worker_protocol.Published(bundle=uploaded, formats=["keras"])
    await link.finish(worker_protocol.Finish(outcome="succeeded", published=published))


def go_on(stage: Stage, bundle: str, damage: Callable[[Path, bytes], None] | None = None) -> dict[str, Any]:
    """A job that leaves a bundle, and one that waits for it and goes on from it; the latter as it ended."""

    async def scene() -> str:
        async with stage.linked() as link:
            source = stage.submit("leaves")
            job_id = stage.submit("goes_on", training={"epochs": 1, "initial_state": {"from": source}})
            await leave(link.attempt(await stage.lease(link, source, source)), bundle.encode(), stage.folder)
            if damage is not None:
                damage(stage.service.folder, bundle.encode())
            await stage.attempt(link, await stage.lease(link, job_id, job_id)).run()
            return job_id

    return dict(stage.service.job(stage.run(scene())))


def test_a_runner_finds_what_its_job_goes_on_from(stage: Stage) -> None:
    job = go_on(stage, "the first bundle")
    assert job["state"] == "succeeded", job["failure"]
    (source,) = job["lineage"]["inputs"]
    given = {"from": source["from"], "kind": "bundle", "path": "inputs/0.tar.gz", "bytes": "the first bundle"}
    assert stage.notes(job) == [{"inputs": [given]}]


def remove(folder: Path, content: bytes) -> None:
    stored(folder, content).unlink()


@pytest.mark.parametrize(
    ("damage", "code"), [(flip, "checkpoint_corrupt"), (cut, "checkpoint_corrupt"), (remove, "storage_unavailable")]
)
def test_an_input_that_is_damaged_is_never_given_to_a_runner(
    stage: Stage, damage: Callable[[Path, bytes], None], code: str
) -> None:
    job = go_on(stage, f"bundle 2, to be damaged: {damage.__name__}", damage)
    assert (job["state"], job["failure"]["code"]) == ("failed", code)
    assert job["lineage"]["inputs"][0]["job_id"] in job["failure"]["message"]
    assert stage.notes(job) == []


def test_a_validation_ends_with_its_result_and_leaves_no_files(stage: Stage) -> None:
    spec = {
        "name": "inspects", "data": {"source": "rows", "pipeline": [{"op": "batch", "batch_size": 2}]}, "model": "net",
    }  # fmt: skip

    async def scene() -> str:
        async with stage.linked() as link:
            made = stage.service.api.post("/v1/jobs/validate", params={"trace": True}, json=spec)
            assert made.status_code == 202, made.text
            job_id = str(made.json()["id"])
            await stage.attempt(link, await stage.lease(link, job_id, job_id)).run()
            return job_id

    job = stage.service.job(stage.run(scene()))
    assert job["result"] == {"kind": "validate", "traces": 1}
    assert [step["state"] for step in job["transitions"]] == ["queued", "starting", "running", "succeeded"]
    assert stage.service.data(f"/v1/jobs/{job['id']}/artifacts") == []
