"""What must hold for a job after any fault, read from the HTTP API and its event log alone."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tapeworks.client.client import Client
from tapeworks.schemas.jobs import FINAL, Event, Job, State

FINAL_STATES = {state.value for state in FINAL}


@dataclass
class Story:
    """A job and its events."""

    job: Job
    events: list[Event]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, client: Client, job_id: str) -> Story:
        """Read it."""
        return cls(client.get(job_id), list(client.events(job_id)))

    def of_type(self, kind: str) -> list[Event]:
        """Its events of one type."""
        return [event for event in self.events if event.type == kind]

    @property
    def published(self) -> set[int]:
        """Attempts that ended the job as succeeded."""
        return {event.attempt for event in self.of_type("state") if event.data["state"] == State.SUCCEEDED.value}

    def codes(self) -> set[str]:
        """Codes of failed attempts and of diagnostics."""
        failures = [event.data["failure"] for event in self.of_type("attempt_failed")]
        found = {str(failure["code"]) for failure in failures if isinstance(failure, dict)}
        return found | {str(event.data.get("code")) for event in self.of_type("diagnostic")}

    def rewound(self, attempt: int) -> Event | None:
        """Where an attempt began, once it said so."""
        return next((event for event in self.of_type("rewound") if event.attempt == attempt), None)

    def announced(self, before: Event) -> int:
        """The step of the last checkpoint that was announced before an event; 0 without any."""
        return max((_step(one) for one in self.of_type("checkpoint") if one.seq < before.seq), default=0)


def _step(event: Event) -> int:
    step = event.data["step"]
    assert isinstance(step, int)
    return step


def check(client: Client, job_id: str, *, steps: int | None, report: int, corrupt: bool = False) -> Story:
    """A finished job's story, with what is wrong in it. `steps`: how many it must have made, told every `report`."""
    story = Story.of(client, job_id)
    found = [*_order(story), *_ends(story), *_checkpoints(story, corrupt=corrupt), *_artifacts(client, story)]
    if steps is not None and story.job.state is State.SUCCEEDED:
        found += _metrics(client, job_id, steps=steps, report=report)
    story.problems = [f"{job_id}: {what}" for what in found]
    return story


def _order(story: Story) -> list[str]:
    found = []
    numbers = [event.seq for event in story.events]
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"events have gaps: {numbers}")
    attempts = [event.attempt for event in story.events]
    if attempts != sorted(attempts):
        found.append("an earlier attempt tells something after a later one")
    times = [transition.at for transition in story.job.transitions]
    if times != sorted(times):
        found.append("transitions go back in time")
    return found


def _ends(story: Story) -> list[str]:
    states = [str(event.data["state"]) for event in story.of_type("state")]
    ended = [state for state in states if state in FINAL_STATES]
    if ended != [story.job.state.value] or states[-1] != ended[0]:
        return [f"it ended {len(ended)} times: {states}, and is {story.job.state.value}"]
    if story.job.state is State.SUCCEEDED and story.published != {story.job.attempt}:
        return [f"published by {story.published}, and is of attempt {story.job.attempt}"]
    return []


def _checkpoints(story: Story, *, corrupt: bool) -> list[str]:
    """A new attempt goes on from the last checkpoint that was announced, or a later one."""
    found = []
    for rewound in story.of_type("rewound"):
        if (announced := story.announced(rewound)) > _step(rewound) and not corrupt:
            found.append(f"attempt {rewound.attempt} began at {_step(rewound)}, step {announced} was saved")
    return found


def _artifacts(client: Client, story: Story) -> list[str]:
    job = story.job
    found = []
    attempts = {artifact.attempt for artifact in client.artifacts(job.id)}
    if job.state is State.SUCCEEDED and attempts - {job.attempt}:
        found.append(f"artifacts of attempts {attempts}")
    if job.state is State.SUCCEEDED and (job.model is None) != (job.spec.export is None):
        found.append("the model is missing")
    if job.model is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = client.download(job.id, Path(folder) / "model.tar.gz")
            if hashlib.sha256(file.read_bytes()).hexdigest() != job.model.sha256:
                found.append("the model's bytes are not those of its digest")
    return found


def _metrics(client: Client, job_id: str, *, steps: int, report: int) -> list[str]:
    wanted = sorted({*range(report, steps + 1, report), steps})
    found = []
    for name, series in client.metrics(job_id).items():
        told = [step for step, _, _ in series.points]
        if told != wanted and not name.startswith(("val_", "test_")):
            missing, more = sorted(set(wanted) - set(told)), sorted(set(told) - set(wanted))
            found.append(f"{name} lacks steps {missing[:5]} and has {more[:5]} that nobody wanted; {len(told)} in all")
    return found


def reached(client: Client, job_id: str) -> int:
    """The last step that a job has told metrics of."""
    points = [series.points for series in client.metrics(job_id).values()]
    return max((step for told in points for step, _, _ in told), default=0)


def weights(http: httpx.Client, job: Job) -> str:
    """The digest of all values that a finished job ended with: its last checkpoint's."""
    assert job.checkpoints.latest is not None
    with tempfile.TemporaryFile() as file:
        answer = http.get(f"/v1/jobs/{job.id}/checkpoints/{job.checkpoints.latest.id}").raise_for_status()
        file.write(answer.content)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            values = archive.extractfile("values.npz")
            assert values is not None
            return hashlib.sha256(values.read()).hexdigest()
