"""Names and first characters of ids in place of an id."""

from __future__ import annotations

import json

import httpx
import pytest

from tapeworks.cli import name_resolution
from tapeworks.client.client import Client
from tapeworks.errors import NotFound
from tests.support.hand_worker import HandWorker, spec
from tests.tapeworks.cli.conftest import Tapeworks


@pytest.fixture
def client(hand: HandWorker) -> Client:
    return Client(str(hand.client.base_url))


def unique_prefix(job_id: str, others: list[str]) -> str:
    """The shortest beginning of an id that no other has."""
    return next(job_id[:n] for n in range(5, 37) if not any(other.startswith(job_id[:n]) for other in others))


def test_a_name_or_the_first_characters_stand_for_the_id(tapeworks: Tapeworks, hand: HandWorker) -> None:
    job = hand.submit(spec(name="resolved by name"))["id"]
    others = [hand.submit()["id"] for _ in range(3)]
    prefix = unique_prefix(job, others)
    for text in ("resolved by name", prefix, prefix.removeprefix("job_"), job):
        assert tapeworks("pause", text).stdout.startswith(f"{job} is paused")
        assert job in tapeworks("resume", text).stdout
        assert json.loads(tapeworks("change", text, "--priority", "3", "--json").stdout)["id"] == job
    assert tapeworks("checkpoints", "resolved by name").stdout.split()[0] == "ID"
    assert tapeworks("logs", prefix).stdout == ""
    assert tapeworks("cancel", prefix).stdout == f"{job} is cancelled\n"
    assert "cancelled" in tapeworks("watch", "resolved by name", expect=1).stdout
    retried = tapeworks("retry", "resolved by name").stdout.strip()
    assert hand.job(retried)["lineage"]["retry_of"] == job


def test_the_newest_of_several_is_not_taken(tapeworks: Tapeworks, hand: HandWorker) -> None:
    jobs = [hand.submit(spec(name="twice \x1b[2J"))["id"] for _ in range(2)]
    refused = tapeworks("cancel", "twice \x1b[2J", expect=2)
    assert refused.stdout == ""
    assert "stands for 2" in refused.stderr
    assert all(job in refused.stderr for job in jobs)
    assert "\x1b" not in refused.stderr
    problem = json.loads(tapeworks("cancel", "twice \x1b[2J", "--json", expect=2).stdout)
    assert problem["code"] == "ambiguous"
    assert [one["id"] for one in problem["candidates"]] == jobs[::-1]
    assert {hand.job(job)["state"] for job in jobs} == {"queued"}
    assert "stands for" in tapeworks("watch", "job_0", expect=2).stderr
    assert "not_found" in tapeworks("watch", "job_ffff", expect=5).stderr
    assert "not_found" in tapeworks("watch", "nobody's job", expect=5).stderr


def test_a_name_of_hexadecimal_digits_is_a_name_too(tapeworks: Tapeworks, hand: HandWorker) -> None:
    job = hand.submit(spec(name="ffab"))["id"]
    assert job in tapeworks("cancel", "ffab").stdout


def test_many_matches_are_not_all_listed(client: Client, hand: HandWorker) -> None:
    for _ in range(name_resolution.MOST_CANDIDATES + 2):
        hand.submit(spec(name="crowd"))
    with pytest.raises(name_resolution.Ambiguous, match="more than 20") as refused:
        name_resolution.job_id_of(client, "crowd")
    assert len(refused.value.candidates) == name_resolution.MOST_CANDIDATES
    hand.empty_queue()


def test_a_full_id_costs_no_request() -> None:
    nowhere = Client("http://127.0.0.1:1", transport=httpx.HTTPTransport(), timeout=0.1)
    full = "0123456789abcdef" * 2
    assert name_resolution.job_id_of(nowhere, f"job_{full}") == f"job_{full}"
    assert name_resolution.checkpoint_id_of(nowhere, "job_x", f"ckpt_{full}") == f"ckpt_{full}"
    assert name_resolution.checkpoint_id_of(nowhere, "job_x", "best") == "best"
    assert name_resolution.asset_id_of(nowhere.datasets, "ds", f"ds_{full}") == f"ds_{full}"


def test_a_checkpoint_by_its_first_characters(client: Client, tapeworks: Tapeworks, hand: HandWorker) -> None:
    job = hand.submit(spec(name="keeps two"))["id"]
    lease = hand.lease()
    lease.state("running")
    first, second = (lease.checkpoint(bytes([step]), step=step) for step in (1, 2))
    prefix = unique_prefix(first, [second])
    assert name_resolution.checkpoint_id_of(client, job, prefix) == first
    with pytest.raises(NotFound):
        name_resolution.checkpoint_id_of(client, job, "ckpt_ffff")
    lease.fail("internal")
    retried = hand.job(tapeworks("retry", "keeps two", "--from", prefix).stdout.strip())
    assert retried["lineage"]["inputs"][-1]["checkpoint_id"] == first
    assert "not_found" in tapeworks("retry", job, "--from", "ckpt_ffff", expect=5).stderr


def test_a_worker_by_its_first_characters(tapeworks: Tapeworks, hand: HandWorker) -> None:
    assert "draining" in tapeworks("drain", "han").stdout
    assert "ready" in tapeworks("undrain", "hand").stdout
    assert "hand" in tapeworks("workers", "h").stdout
    assert "not_found" in tapeworks("drain", "nobody", expect=5).stderr


def test_a_dataset_by_its_name_and_version(
    client: Client, tapeworks: Tapeworks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    versions = []
    for rows in ("a,y\n1,0\n", "a,y\n2,1\n"):
        (folder / "flowers.csv").write_text(rows)
        versions.append(
            json.loads(tapeworks("data", "push", str(folder / "flowers.csv"), "--no-wait", "--json").stdout)["id"]
        )
        shown = tapeworks("data", "show", f"flowers@{len(versions)}").stdout
        assert versions[-1] in shown
    assert all(one in tapeworks("data", "show", "flowers", expect=2).stderr for one in versions)
    assert versions[0] in tapeworks("data", "show", unique_prefix(versions[0], versions[1:])).stdout
    tapeworks("data", "show", "flowers@3", expect=5)


def test_the_hint_of_a_problem_is_printed_as_in_json(tapeworks: Tapeworks, hand: HandWorker) -> None:
    job = hand.submit()["id"]
    hint = json.loads(tapeworks("retry", job, "--json", expect=6).stdout)["hint"]
    assert f"hint: {hint}" in tapeworks("retry", job, expect=6).stderr
