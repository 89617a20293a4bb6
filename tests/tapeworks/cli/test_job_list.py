"""`tapeworks jobs` filters and sorts; `delete` asks."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tapeworks_service.settings import ServiceSettings
from tests.service.conftest import serving
from tests.support.hand_worker import HandWorker, spec
from tests.tapeworks.cli.conftest import Tapeworks, runner

LABELS = {"list": "sorted"}
METRICS = [{"val_loss": 0.3, "val_accuracy": 0.91}, {"val_loss": "NaN"}, {"val_loss": 0.1, "val_accuracy": 0.8}]


@pytest.fixture(scope="module")
def listed(hand: HandWorker) -> list[str]:
    """Three finished jobs with metrics, and one that was cancelled."""
    ids = []
    for number, metrics in enumerate(METRICS):
        ids.append(hand.submit(spec(name=f"list {number}", labels=LABELS))["id"])
        lease = hand.lease()
        lease.records(
            {"record": "metric", "step": 1, "values": metrics},
            {"record": "facts", "progress": {"step": 10 - number}},
            {"record": "facts", "lineage": {"device": {"kind": "cpu", "names": ["x"]}}},
        )  # fmt: skip
        lease.succeed()
    last = hand.submit(spec(name="list 3", labels=LABELS))["id"]
    hand.client.post(f"/v1/jobs/{last}/cancel")
    return [*ids, last]


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ([], [3, 2, 1, 0]),
        (["--sort", "val_loss"], [2, 0, 3, 1]),
        (["--sort", "-val_loss", "--limit", "2"], [0, 2]),
        (["--sort", "-step"], [0, 1, 2, 3]),
        (["--sort", "name"], [0, 1, 2, 3]),
        (["--sort", "-created"], [3, 2, 1, 0]),
        (["--where", "val_accuracy>0.9"], [0]),
        (["--where", "val_loss <= 0.3", "--where", "val_accuracy<0.9"], [2]),
        (["--where", "step=9"], [1]),
        (["--state", "cancelled"], [3]),
        (["--name", "list 2"], [2]),
        (["--kind", "validate"], []),
        (["--owner", "nobody"], []),
    ],
)
def test_jobs_are_filtered_and_sorted(
    tapeworks: Tapeworks, listed: list[str], options: Sequence[str], order: Sequence[int]
) -> None:
    found = json.loads(tapeworks("jobs", "--label", "list=sorted", *options, "--json").stdout)
    assert [one["id"] for one in found] == [listed[at] for at in order]


def test_the_table_shows_what_was_asked_about(tapeworks: Tapeworks, listed: list[str]) -> None:
    shown = tapeworks("jobs", "--label", "list=sorted", "--where", "val_accuracy>0.9", "--sort", "val_loss").stdout
    header, row = shown.splitlines()
    assert header.split() == ["ID", "NAME", "STATE", "OWNER", "STEP", "LOSS", "val_accuracy", "val_loss", "DURATION",
                              "DEVICE", "CREATED"]  # fmt: skip
    assert row.split()[:8] == [listed[0], "list", "0", "succeeded", "10", "0.91", "0.3", "0"]
    assert " cpu " in row


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--where", "val_accuracy"], "is not a condition"),
        (["--where", "val_accuracy>high"], "is not a condition"),
        (["--where", "val_acuracy>0.9"], "they have: val_accuracy, val_loss"),
        (["--sort", "val_los"], "they have: val_accuracy, val_loss"),
    ],
)
def test_a_wrong_condition_is_refused(
    tapeworks: Tapeworks, listed: list[str], options: Sequence[str], words: str
) -> None:
    refused = tapeworks("jobs", "--label", "list=sorted", *options, expect=2).stderr
    assert words in " ".join(refused.replace("│", "").split())


def test_the_owner_is_the_key_that_submitted(tmp_path: Path) -> None:
    settings = ServiceSettings(data_dir=tmp_path, port=0, lease_seconds=600)
    with serving(settings) as address, httpx.Client(base_url=address, timeout=60) as client:
        made = client.post("/v1/keys", json={"name": "alice", "scopes": ["read", "submit", "admin", "worker"]}).json()
        client.headers["Authorization"] = f"Bearer {made['key']}"
        bob = client.post("/v1/keys", json={"name": "bob", "scopes": ["read", "submit"]}).json()["key"]
        worker = HandWorker(client)
        worker.register()
        first = worker.submit()
        assert (first["owner"], worker.job(first["id"])["owner"]) == ("alice", "alice")
        client.post(f"/v1/jobs/{first['id']}/cancel")
        again = client.post(f"/v1/jobs/{first['id']}/retry", headers={"Authorization": f"Bearer {bob}"}).json()
        assert again["owner"] == "bob", "who retries owns the new job"
        tapeworks = runner(address, made["key"])
        assert [one["id"] for one in json.loads(tapeworks("jobs", "--owner", "bob", "--json").stdout)] == [again["id"]]
        assert "alice" in tapeworks("jobs", "--sort", "owner").stdout
        assert "owner" in tapeworks("show", first["id"]).stdout


def test_delete_without_a_terminal_needs_yes(tapeworks: Tapeworks, hand: HandWorker) -> None:
    job = hand.submit(spec(name="to go"))["id"]
    hand.client.post(f"/v1/jobs/{job}/cancel")
    refused = tapeworks("delete", "to go", expect=2, input="y\n")
    assert "--yes" in refused.stderr
    assert hand.job(job)["id"] == job
    assert tapeworks("delete", "to go", "--yes").stdout == f"{job} is deleted\n"
    assert hand.client.get(f"/v1/jobs/{job}").status_code == 404


@pytest.mark.parametrize(("reply", "code", "status"), [(b"n\n", 1, 200), (b"y\n", 0, 404)])
def test_delete_asks_on_a_terminal(hand: HandWorker, reply: bytes, code: int, status: int) -> None:
    job = hand.submit(spec(name="asked \x1b[2J"))["id"]
    hand.client.post(f"/v1/jobs/{job}/cancel")
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "tapeworks.cli.main", "--url", str(hand.client.base_url), "delete", job]
    asked = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(controller, 4096)
    assert job.encode() in seen
    assert b"\x1b[2J" not in seen
    os.write(controller, reply)
    assert asked.wait(30) == code
    os.close(controller)
    assert hand.client.get(f"/v1/jobs/{job}").status_code == status
