"""The client: one call of the service, one method; typed models in and out.

    client = tapeworks.Client("http://127.0.0.1:8000")
    job = client.wait(client.submit("job.json").id)
    client.download(job.id, "model.tar.gz")

Answers are models of `tapeworks.schemas.jobs`; errors are `ApiError` and its children (`tapeworks.errors`).
Calls that are safe to repeat are repeated with jitter while the service is away for a moment
(`tapeworks.client.connection`). Tests pass `transport=httpx.MockTransport(...)`.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload
from urllib.parse import quote

import httpx

from tapeworks.client import record_streams
from tapeworks.client.assets import Bundles, Datasets, Packages
from tapeworks.client.connection import Connection, body, decoded
from tapeworks.client.downloads import download
from tapeworks.client.job_view import JobView
from tapeworks.errors import Finding, ProblemCode, SpecInvalid
from tapeworks.schemas.jobs import (
    Artifact,
    Checkpoint,
    ComponentInfo,
    Event,
    Job,
    LogLine,
    MetricSeries,
    MetricSeriesList,
    Page,
    State,
    ValidationResult,
    WorkerInfo,
)
from tapeworks.spec.job_spec import JobSpec
from tapeworks.spec.references import Kind

DEFAULT_URL = "http://127.0.0.1:8000"
WAIT_SECONDS = 30
PAGE = 100

T = TypeVar("T")
Spec = JobSpec | Mapping[str, Any] | str | os.PathLike[str]
"""A job spec: the model, the JSON object as a dict, or the path of a JSON file."""


class Client:
    """A Tapeworks service. `url` and `key` default to TAPEWORKS_URL and TAPEWORKS_KEY.

    `timeout`: seconds to connect, and between two bytes of an answer.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: float = 30.0,
    ) -> None:
        url = url or os.environ.get("TAPEWORKS_URL") or DEFAULT_URL
        key = key or os.environ.get("TAPEWORKS_KEY") or None
        self._connection = Connection(url, key=key, transport=transport, timeout=timeout)
        self.datasets = Datasets(self._connection)
        """Uploaded data: `push`, `settled`, `list`, `get`, `delete`."""
        self.packages = Packages(self._connection)
        """Uploaded component packages, likewise."""
        self.bundles = Bundles(self._connection)
        """Uploaded model bundles, likewise."""

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._connection.url

    def close(self) -> None:
        """Close the pooled connections; a `with` statement does it too."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────

    def submit(self, spec: Spec, *, idempotency_key: str | None = None) -> Job:
        """Queue a job. Raises `Rejected` with a finding for every wrong place of the spec.

        The same key with the same spec gives the same job; by default every call has a key of its own,
        so that a repeated request cannot queue the job twice.
        """
        return decoded(Job, self._create("/v1/jobs", spec, idempotency_key=idempotency_key))

    @overload
    def validate(self, spec: Spec, *, trace: Literal[False] = False) -> ValidationResult: ...

    @overload
    def validate(self, spec: Spec, *, trace: Literal[True]) -> Job: ...

    def validate(self, spec: Spec, *, trace: bool = False) -> ValidationResult | Job:
        """Check a spec against its schema and the catalogue; nothing is queued. Raises `Rejected`.

        `trace`: and have a worker build it, trace it and try a few steps. Gives that job, of kind `validate`, at once:
        `wait` for it, and read its `result`, or the `failure` that training would have met.
        """
        if trace:
            return decoded(Job, self._create("/v1/jobs/validate", spec, params={"trace": "true"}))
        answer = self._connection.request("POST", "/v1/jobs/validate", content=_document(spec), repeatable=True)
        return decoded(ValidationResult, answer)

    def fit(
        self,
        model: Any,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[Any] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
        **fields: Any,
    ) -> Any:
        """Train a compiled Keras model as a job: the arguments of `model.fit`, a History with the job as `job`.

        The data is uploaded once for the same content. The job starts from the model's weights, and the model has the
        trained ones afterwards. `fields`: further fields of the spec (`name`, `resources`, `training`, …). Raises
        ComponentError that lists all that a job cannot do, `Rejected`, and JobFailure where the job fails.
        """
        from tapeworks.client.fit import FitCall, fit

        call = FitCall(
            x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, shuffle, class_weight,
            sample_weight, initial_epoch, steps_per_epoch, validation_steps, validation_batch_size, validation_freq,
        )  # fmt: skip
        return fit(self, model, call, fields)

    def get(self, job_id: str) -> Job:
        """The job as it is now. Raises `NotFound`."""
        return decoded(Job, self._connection.request("GET", _job(job_id)))

    def job(self, job_id: str) -> JobView:
        """The job as a notebook shows it, live while it runs; also after a restart of the kernel."""
        return JobView(self, job_id)

    def changed(self, job: Job, *, wait: float = WAIT_SECONDS) -> Job:
        """The job as soon as its revision has moved on, or as it is after `wait` seconds (at most 30)."""
        wait = min(max(wait, 0.0), WAIT_SECONDS)
        answer = self._connection.request(
            "GET",
            _job(job.id),
            params={"wait": wait, "unless": job.revision},
            wait=wait,
            patience=record_streams.OUTAGE_SECONDS + wait,
        )
        return decoded(Job, answer)

    def wait(self, job_id: str, timeout: float | None = None, on_change: Callable[[Job], object] | None = None) -> Job:
        """Wait until the job has finished, well or not; look at its `state`.

        `on_change` is called with the job as it is first, and at each change that is seen, of whether a worker can
        take it too. Raises TimeoutError after `timeout` seconds; the job goes on.
        """
        end = None if timeout is None else time.monotonic() + timeout
        job, last = self.get(job_id), None
        while True:
            if on_change is not None and (job.revision, job.unschedulable) != last:
                on_change(job)
                last = (job.revision, job.unschedulable)
            if job.finished:
                return job
            left = WAIT_SECONDS if end is None else end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{job_id} is {job.state.value} after {timeout:g} s; it is still running")
            job = self.changed(job, wait=left)

    def list(
        self,
        *,
        state: State | str | Sequence[State | str] | None = None,
        kind: str | None = None,
        label: Mapping[str, str] | None = None,
        name: str | None = None,
        owner: str | None = None,
        created_after: datetime | None = None,
        id_prefix: str | None = None,
    ) -> Iterator[Job]:
        """The project's jobs, newest first, fetched page by page as they are read. `id_prefix`: at most 200 of them."""
        states = [state] if isinstance(state, str) else state
        filters = {
            "state": None if states is None else [State(one).value for one in states],
            "kind": kind,
            "label": None if label is None else [f"{key}={value}" for key, value in label.items()],
            "name": name,
            "owner": owner,
            "created_after": None if created_after is None else created_after.isoformat(),
            "id_prefix": id_prefix,
        }
        yield from self._all(Job, "/v1/jobs", filters)

    def cancel(self, job_id: str) -> Job:
        """Ask for the job's end at its next call boundary. Raises `Conflict` where it has finished."""
        return decoded(Job, self._connection.request("POST", f"{_job(job_id)}/cancel"))

    def pause(self, job_id: str) -> Job:
        """Stop the job at its next call boundary, with a checkpoint. Raises `Conflict` where it trains no more."""
        return decoded(Job, self._connection.request("POST", f"{_job(job_id)}/pause"))

    def resume(self, job_id: str) -> Job:
        """Queue a paused job again: it goes on from its last checkpoint. Raises `Conflict` for any other."""
        return decoded(Job, self._connection.request("POST", f"{_job(job_id)}/resume"))

    def retry(self, job_id: str, from_: str = "scratch", *, idempotency_key: str | None = None) -> Job:
        """Run a finished job again, as a new job.

        `from_`: "scratch", or the checkpoint to go on from: "latest", "best" or its id. Raises `Conflict` while the job
        has not finished, `Rejected` where there is no such checkpoint or the spec is not valid any more.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        content = body({"from": from_})
        path = f"{_job(job_id)}/retry"
        return decoded(Job, self._connection.request("POST", path, content=content, headers=headers, repeatable=True))

    def update(
        self,
        job_id: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
    ) -> Job:
        """Change what is given; the rest stays."""
        given = {"name": name, "labels": None if labels is None else dict(labels), "priority": priority}
        content = body({key: value for key, value in given.items() if value is not None})
        return decoded(Job, self._connection.request("PATCH", _job(job_id), content=content, repeatable=True))

    def delete(self, job_id: str) -> None:
        """Delete a finished job with its artifacts. Raises `Conflict` while it runs or something refers to it."""
        self._connection.request("DELETE", _job(job_id))

    # ── what a job tells and leaves ──────────────────────────────────────────────────────────────

    def events(self, job_id: str, *, follow: bool = False, after: int = 0) -> Iterator[Event]:
        """Events after a number; `follow`: and those to come, until the job has finished."""
        return self._records(job_id, "events", Event, follow=follow, after=after)

    def logs(self, job_id: str, *, follow: bool = False, after: int = 0) -> Iterator[LogLine]:
        """Lines that the runner printed, after a number; `follow`: and those to come."""
        return self._records(job_id, "logs", LogLine, follow=follow, after=after)

    def metrics(self, job_id: str, *, points: int | None = None) -> dict[str, MetricSeries]:
        """Each metric's points by name; `points`: no more than so many of each, the last one exact."""
        answer = self._connection.request("GET", f"{_job(job_id)}/metrics", params={"points": points})
        return {series.name: series for series in decoded(MetricSeriesList, answer).data}

    def history(self, job_id: str) -> dict[str, Sequence[float]]:
        """What `fit(...).history` would hold: name → one value for each epoch, of the attempt that counts."""
        epochs: dict[int, tuple[int, Mapping[str, Any]]] = {}
        for event in self.events(job_id):
            data: dict[str, Any] = dict(event.data)
            if event.type == "rewound":
                epochs = {epoch: logged for epoch, logged in epochs.items() if logged[0] <= data["step"]}
            elif event.type == "epoch":
                epochs[data["epoch"]] = (data["step"], data["logs"])
        history: dict[str, list[float]] = {}
        for epoch in sorted(epochs):
            for name, value in epochs[epoch][1].items():
                history.setdefault(name, []).append(float(value))
        return dict(history)

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """The files that the job left."""
        return tuple(self._all(Artifact, f"{_job(job_id)}/artifacts"))

    def checkpoints(self, job_id: str) -> Sequence[Checkpoint]:
        """The checkpoints that are kept, newest first."""
        return tuple(self._all(Checkpoint, f"{_job(job_id)}/checkpoints"))

    def download_checkpoint(self, job_id: str, checkpoint_id: str, path: str | os.PathLike[str]) -> Path:
        """Fetch one of `checkpoints` by its id, as a `.tar`."""
        return download(self._connection, f"{_job(job_id)}/checkpoints/{quote(checkpoint_id)}", Path(path))

    def download(
        self,
        job_id: str,
        path: str | os.PathLike[str],
        format: Literal["keras", "saved_model"] | None = None,
    ) -> Path:
        """Fetch the model's bundle (`format`: that part alone) to a file, or into a folder. Returns the file.

        What stands there is whole: see `tapeworks.client.downloads`. Raises `NotFound` while there is no model.
        """
        params: dict[str, str] | None = None if format is None else {"format": format}
        return download(self._connection, f"{_job(job_id)}/model", Path(path), params=params)

    def download_artifact(self, job_id: str, artifact: str, path: str | os.PathLike[str]) -> Path:
        """Fetch one of `artifacts` by its path there."""
        return download(self._connection, f"{_job(job_id)}/artifacts/{quote(artifact)}", Path(path))

    # ── the installation ─────────────────────────────────────────────────────────────────────────

    def components(self, kind: Kind | str | None = None) -> Sequence[ComponentInfo]:
        """What the workers can build."""
        filters = {"kind": None if kind is None else Kind(kind).value}
        return tuple(self._all(ComponentInfo, "/v1/components", filters))

    def component(self, kind: Kind | str, name: str) -> ComponentInfo:
        """One component, with the schema of its config. Raises `NotFound`."""
        answer = self._connection.request("GET", f"/v1/components/{Kind(kind).value}/{quote(name)}")
        return decoded(ComponentInfo, answer)

    def workers(self) -> Sequence[WorkerInfo]:
        """The workers, their devices and what runs there."""
        return tuple(self._all(WorkerInfo, "/v1/workers"))

    def drain(self, worker_id: str) -> WorkerInfo:
        """Have a worker hand its jobs back, saved, and take no more. Raises `NotFound`."""
        return decoded(WorkerInfo, self._connection.request("POST", f"/v1/workers/{quote(worker_id)}/drain"))

    def undrain(self, worker_id: str) -> WorkerInfo:
        """Let a drained worker take jobs again. Raises `NotFound`."""
        return decoded(WorkerInfo, self._connection.request("POST", f"/v1/workers/{quote(worker_id)}/undrain"))

    # ── shared ───────────────────────────────────────────────────────────────────────────────────

    def _create(
        self, path: str, spec: Spec, *, params: Mapping[str, Any] | None = None, idempotency_key: str | None = None
    ) -> httpx.Response:
        """Send a spec that becomes a job, under a key: repeated, it is the same job."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        content = _document(spec)
        return self._connection.request("POST", path, params=params, content=content, headers=headers, repeatable=True)

    def _records(
        self, job_id: str, what: str, kind: type[record_streams.R], *, follow: bool, after: int
    ) -> Iterator[record_streams.R]:
        path = f"{_job(job_id)}/{what}"
        if follow:
            return record_streams.follow(self._connection, _job(job_id), path, kind, after=after)
        return record_streams.pages(self._connection, path, kind, after=after)

    def _all(self, kind: type[T], path: str, filters: Mapping[str, Any] | None = None) -> Iterator[T]:
        after: str | None = None
        while True:
            answer = self._connection.request("GET", path, params={**(filters or {}), "limit": PAGE, "after": after})
            page: Page[T] = decoded(Page[kind], answer)  # type: ignore[valid-type]
            yield from page.data
            after = page.next
            if not page.has_more or after is None:
                return


def _job(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _document(spec: Spec) -> bytes:
    """The spec as it is sent: a file byte for byte, so that findings point into what the user wrote."""
    if isinstance(spec, JobSpec):
        return body(spec.document())
    if isinstance(spec, Mapping):
        try:
            return body(dict(spec))
        except (ValueError, TypeError) as error:
            raise SpecInvalid([Finding("", ProblemCode.INVALID_JSON, f"not valid JSON: {error}")]) from error
    return Path(spec).read_bytes()
