"""The messages between an agent and its runner: what a runner is given, and that nothing of its side is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tapeworks.errors import FailureCode
from tapeworks.schemas.assets import DataFormat
from tapeworks.schemas.jobs import JobKind
from tapeworks.schemas.worker_protocol import Lease
from tapeworks.spec.parsing import parse_spec
from tapeworks_workers.processes import exit_failures
from tapeworks_workers.processes.messages import (
    FetchedFiles,
    InputFile,
    LeasedJob,
    QueryRows,
    ResumeFile,
    StartFrame,
    UploadedDataset,
    VerifierAnswer,
)

SPEC = {
    "data": {
        "source": {"component": "csv", "config": {"files": "a.csv"}},
        "pipeline": [{"op": "batch", "batch_size": 2}],
    },
    "step": "supervised",
    "model": {"component": "mlp", "config": {"outputs": 1}},
    "optimizer": "keras/SGD",
    "loss": "keras/MeanSquaredError",
    "training": {"epochs": 1},
}  # fmt: skip


def lease() -> Lease:
    return Lease(
        job_id="job_1", project_id="project", kind=JobKind.TRAIN, attempt=2, token="secret", lease_seconds=20,
        spec=parse_spec(SPEC), timeout_seconds=60,
    )  # fmt: skip


def start() -> StartFrame:
    return StartFrame(
        lease=LeasedJob.of(lease()),
        folder=Path("/srv/run"),
        data_roots=[Path("/data")],
        inputs=[InputFile(from_="job_0", kind="bundle", path=Path("inputs/0.tar.gz"))],
        uploads=[UploadedDataset(id="ds_1", path=Path("/cache/1"), format=DataFormat.CSV, options={"header": False})],
        external=[
            FetchedFiles(from_="https://host/a.csv", paths=[Path("/cache/a.csv")]),
            QueryRows(connection="main", query="SELECT 1", paths=[Path("/cache/rows.arrow")]),
        ],
        resume=[ResumeFile(path=Path("resume/ckpt.tar"), checkpoint_id="ckpt_1", step=4, epoch=1)],
    )


def test_a_start_frame_arrives_as_it_was_sent() -> None:
    sent = json.loads(json.dumps(start().document()))
    assert sent["type"] == "start"
    assert sent["inputs"] == [{"from": "job_0", "kind": "bundle", "path": "inputs/0.tar.gz"}]
    assert StartFrame.model_validate(sent) == start()


def test_a_runner_learns_of_its_lease_what_it_needs() -> None:
    given = start().document()["lease"]
    assert set(given) == {"kind", "attempt", "spec", "components", "timeout_seconds"}
    assert "secret" not in json.dumps(start().document())


def test_an_answer_keeps_its_failure_as_a_reply() -> None:
    failure = exit_failures.failure(FailureCode.TIMEOUT, "too slow")
    told = VerifierAnswer(ok=False, failure=failure).reply_to(7).document()
    assert (told["reply"], told["ok"], told["failure"]["code"]) == (7, False, "timeout")


@pytest.mark.parametrize(
    "answer",
    [
        {}, {"ok": "maybe"}, {"ok": False}, {"ok": False, "failure": {}}, {"ok": True, "report": []},
        {"ok": False, "failure": {"code": "no such code", "message": "m"}},
        {"ok": True, "failure": {"code": "internal", "message": "m"}},
        {"ok": False, "failure": {"code": "internal", "message": {}}},
    ],
)  # fmt: skip
def test_an_answer_of_a_verifier_is_not_believed(answer: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VerifierAnswer.model_validate(answer)
