"""Names and the first characters of ids on the command line: each becomes the one full id that it stands for.

A full id costs no request. What several jobs, checkpoints or uploads match is refused with the list of them: the newest
is never taken silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from tapeworks.cli.console import Ambiguous, Candidate
from tapeworks.cli.jobs.progress import age
from tapeworks.client.assets import A, AssetClient
from tapeworks.client.client import Client
from tapeworks.errors import NotFound, ProblemCode
from tapeworks.schemas.jobs import Artifact, Checkpoint, Job, WorkerInfo

JOB, CHECKPOINT = "job", "ckpt"
MOST_CANDIDATES = 20
_PARTS_OF_JOB = frozenset({"latest", "best", "scratch"})
"""Words that the service understands in place of a checkpoint's id."""


def job_id_of(client: Client, text: str) -> str:
    """The job with this id, with an id that begins so, or of this name. Raises `NotFound`, `Ambiguous`."""
    if _is_full_id(text, JOB):
        return text
    found: dict[str, Job] = {}
    if (prefix := _prefix(text, JOB)) is not None:
        found |= {job.id: job for job in islice(client.list(id_prefix=prefix), MOST_CANDIDATES + 1)}
    found |= {job.id: job for job in islice(client.list(name=text), MOST_CANDIDATES + 1)}
    candidates = [Candidate(job.id, job.name or "", job.state.value, f"{age(job.created_at)} ago")
                  for job in found.values()]  # fmt: skip
    return _only("job", text, candidates, "give one of the ids, or more of its characters")


def checkpoint_id_of(client: Client, job_id: str, text: str) -> str:
    """The checkpoint of a job with this id, or with an id that begins so; `latest`, `best` and `scratch` stay.

    Raises `NotFound`, `Ambiguous`.
    """
    if text in _PARTS_OF_JOB or _is_full_id(text, CHECKPOINT):
        return text
    prefix = _prefix(text, CHECKPOINT)
    found: Iterable[Checkpoint] = client.checkpoints(job_id)
    candidates = [Candidate(one.id, f"step {one.step}", f"epoch {one.epoch}", f"{age(one.created_at)} ago")
                  for one in found if prefix is not None and one.id.startswith(prefix)]  # fmt: skip
    return _only(f"checkpoint of {job_id}", text, candidates, "give one of the ids, or more of its characters")


def worker_of(workers: Sequence[WorkerInfo], text: str) -> WorkerInfo:
    """The worker with this id, or with an id that begins so. Raises `NotFound`, `Ambiguous`."""
    exact = [worker for worker in workers if worker.id == text]
    matches = {worker.id: worker for worker in exact or workers if worker.id.startswith(text)}
    candidates = [Candidate(worker.id, "", worker.state, "") for worker in matches.values()]
    return matches[_only("worker", text, candidates, "give the whole id")]


def asset_id_of(assets: AssetClient[A], kind: str, text: str) -> str:
    """The upload with this id, with an id that begins so, of this name, or `NAME@VERSION`.

    `kind`: what ids begin with: `ds`, `pkg`, `bundle`. Raises `NotFound`, `Ambiguous`.
    """
    if _is_full_id(text, kind):
        return text
    name, _, version = text.partition("@")
    found = {one.id: one for one in assets.list(name) if version in ("", one.version)}
    if (prefix := _prefix(text, kind)) is not None:
        found |= {one.id: one for one in assets.list() if one.id.startswith(prefix)}
    candidates = [Candidate(one.id, one.name, f"version {one.version}", "") for one in found.values()]
    what = {"ds": "dataset", "pkg": "package"}.get(kind, kind)
    return _only(what, text, candidates, "give one of the ids, or NAME@VERSION")


def artifact_path_of(artifacts: Sequence[Artifact], job_id: str, text: str) -> str:
    """The artifact of a job with this path, or whose path ends so (`matrix.json`). Raises `NotFound`, `Ambiguous`."""
    exact = [one for one in artifacts if one.path == text]
    matches = exact or [one for one in artifacts if one.path.endswith(f"/{text}")]
    candidates = [Candidate(one.path, "", f"{one.bytes:,} bytes", f"{age(one.created_at)} ago") for one in matches]
    return _only(f"artifact of {job_id}", text, candidates, "give the whole path")


def _only(what: str, text: str, candidates: Sequence[Candidate], remedy: str) -> str:
    if not candidates:
        raise NotFound(404, ProblemCode.NOT_FOUND, f"there is no {what} with the id or name {text!r}")
    if len(candidates) > 1:
        many = f"more than {MOST_CANDIDATES}" if len(candidates) > MOST_CANDIDATES else str(len(candidates))
        raise Ambiguous(f"{text!r} stands for {many} of them, not for one {what}; {remedy}",
                        candidates[:MOST_CANDIDATES])  # fmt: skip
    return candidates[0].id


def _is_full_id(text: str, kind: str) -> bool:
    return re.fullmatch(rf"{kind}_[0-9a-f]{{32}}", text) is not None


def _prefix(text: str, kind: str) -> str | None:
    """What an id would begin with; the text may leave out `job_`. None where no id begins so."""
    found = re.fullmatch(rf"(?:{kind}_)?([0-9a-f]{{1,31}})", text)
    return None if found is None else f"{kind}_{found[1]}"
