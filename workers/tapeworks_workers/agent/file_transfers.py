"""An attempt's files: inputs and checkpoints down before it starts, checkpoints up meanwhile, the result at its end.

Whatever a runner names is opened beneath the attempt's folder only. A checkpoint that cannot be
stored ends no job: the job says so and goes on. A result that cannot be stored fails the attempt.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from tapeworks.errors import ApiError, FailureCode, JobFailure, NotFound, Rejected
from tapeworks.schemas import worker_protocol
from tapeworks.schemas.jobs import Failure
from tapeworks_workers.agent.checkpoint_queue import CheckpointFile, CheckpointQueue
from tapeworks_workers.agent.execution_environment import ExecutionEnvironment
from tapeworks_workers.agent.runner_relay import Record, diagnostic, note
from tapeworks_workers.agent.service_client import STORE_CODES, AttemptLink, QuotaExceeded, StoreRefused
from tapeworks_workers.processes.messages import FinishFrame, InputFile, ResumeFile
from tapeworks_workers.safe_files import UnsafePath, open_beneath
from tapeworks_workers.verification.verification import Archive, BundleVerification

INPUT_TRIES = 3
"""An input whose bytes do not have its digest is downloaded so often."""

log = structlog.get_logger(__name__)


BUNDLE = "model.tar.gz"
PARTS = {"keras": "model.keras.tar.gz", "saved_model": "model.saved_model.tar.gz"}
ARCHIVES = frozenset({BUNDLE, *PARTS.values()})
"""Names of what was verified; no other file is published under one of them."""
ARTIFACTS = "artifacts/"
"""Of the attempt's folder: a file below it is published under its path there."""


@dataclass(frozen=True)
class Transfers:
    """The files of one attempt. `place` says which folder is the runner's; `keep` takes records about what went wrong;
    `flush_records` waits until the service has every record so far."""

    link: AttemptLink
    place: ExecutionEnvironment
    keep: Callable[[Record], None]
    flush_records: Callable[[], Awaitable[None]]

    @property
    def folder(self) -> Path:
        """The runner's."""
        return self.place.folder

    # ── inputs ───────────────────────────────────────────────────────────────────────────────────

    async def fetch(self, inputs: Sequence[worker_protocol.LeaseInput]) -> list[InputFile]:
        """What the job goes on from, in the form of the start frame. Raises JobFailure where it cannot be had whole."""
        fetched = []
        for index, one in enumerate(inputs):
            if one.kind not in ("bundle", "checkpoint"):
                continue
            path = f"inputs/{index}" + (".tar.gz" if one.kind == "bundle" else ".tar")
            (self.folder / "inputs").mkdir(exist_ok=True)
            await self.fetch_one(index, one, self.folder / path)
            fetched.append(InputFile(from_=one.from_, kind=one.kind, path=Path(path)))
        return fetched

    async def fetch_one(self, index: int, one: worker_protocol.LeaseInput, path: Path) -> None:
        """Download one of the lease's inputs, by its place there. Raises JobFailure where it cannot be had whole."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        reason = "it does not match its stored digest"
        try:
            for _ in range(INPUT_TRIES):
                if await self.link.download(f"inputs/{index}", one.sha256, descriptor):
                    return
                log.warning("an input does not match its digest", input=one.from_)
        except StoreRefused as error:
            message = f"the {one.kind} of {one.from_}, which the job reads, cannot be read: {error.detail}"
            raise JobFailure(STORE_CODES[error.code], message) from error
        except (NotFound, Rejected) as error:
            reason = error.detail
        finally:
            os.close(descriptor)
        raise JobFailure(
            FailureCode.CHECKPOINT_CORRUPT,
            f"the {one.kind} of {one.from_}, which the job reads: {reason}",
            hint="Name another one, or upload it again: the file of this one is damaged in the artifact store.",
        )

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────

    async def download(self, checkpoints: Sequence[worker_protocol.ResumeFrom]) -> list[ResumeFile]:
        """The newest checkpoint whose digest is right, in the form of the start frame; none where there is none."""
        for checkpoint in checkpoints:
            path = self.folder / "resume" / f"{checkpoint.checkpoint_id}.tar"
            path.parent.mkdir(exist_ok=True)
            reason = await self._download(checkpoint, path)
            if reason is None:
                return [
                    ResumeFile(
                        path=path, checkpoint_id=checkpoint.checkpoint_id, step=checkpoint.step, epoch=checkpoint.epoch
                    )
                ]
            path.unlink()
            text = f"checkpoint {checkpoint.checkpoint_id} (step {checkpoint.step}) is not used: {reason}"
            log.warning(text)
            self.keep(diagnostic(FailureCode.CHECKPOINT_CORRUPT, text))
        return []

    async def _download(self, checkpoint: worker_protocol.ResumeFrom, path: Path) -> str | None:
        """Why it cannot be used; None where it can."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            whole = await self.link.download(f"checkpoints/{checkpoint.checkpoint_id}", checkpoint.sha256, descriptor)
            return None if whole else "its content does not match its digest"
        except (NotFound, Rejected) as error:
            return error.detail
        finally:
            os.close(descriptor)

    async def announce(self, checkpoints: CheckpointQueue) -> None:
        """Upload and announce checkpoints as they come, for ever."""
        while True:
            checkpoint = await checkpoints.get()
            try:
                with checkpoint.file as file:
                    uploaded = await self.link.upload(file, checkpoint.path)
                await self.flush_records()  # its event follows those of the steps before it
                await self.link.announce(_announcement(checkpoint, uploaded))
            except (JobFailure, ApiError, OSError, ValidationError) as error:
                log.error("a checkpoint could not be stored", step=checkpoint.step, error=str(error))
                code = error.code if isinstance(error, JobFailure) else FailureCode.STORAGE_UNAVAILABLE
                self.keep(diagnostic(code, f"the checkpoint of step {checkpoint.step} could not be stored: {error}"))
            finally:
                checkpoints.task_done()

    # ── the result ───────────────────────────────────────────────────────────────────────────────

    async def publish(self, frame: FinishFrame, verification: BundleVerification | None) -> worker_protocol.Finish:
        """Upload what the attempt leaves: its verified bundle, and the files that the runner's last frame names.

        Raises JobFailure, LeaseLost.
        """
        finish: dict[str, Any] = {"outcome": frame.outcome}
        finish |= {name: given for name in ("metrics", "facts") if (given := getattr(frame, name)) is not None}
        try:
            if frame.failure is not None:
                finish["failure"] = Failure.model_validate(frame.failure)
            if frame.outcome == "succeeded":
                finish["published"] = await self._publish_model(frame.result, verification)
            finish["files"] = [file for path in frame.files or [] if (file := await self._offer(path))]
            return worker_protocol.Finish.model_validate(finish)
        except (ValidationError, UnsafePath) as error:
            raise JobFailure(FailureCode.INTERNAL, f"the runner's result cannot be published: {error}") from error
        except QuotaExceeded as error:
            raise JobFailure(FailureCode.QUOTA_EXCEEDED, error.detail, retryable=False) from error
        except ApiError as error:
            raise JobFailure(FailureCode.INTERNAL, f"the service rejected a file: {error}") from error

    async def _publish_model(
        self, result: dict[str, Any] | None, verification: BundleVerification | None
    ) -> worker_protocol.Published | None:
        """What the comparing process packed, and what a look at a job or an upload found."""
        if verification is None or not verification.terms.pack:
            return None if result is None else worker_protocol.Published(result=result)
        certified, folder = verification.certified, verification.archives
        if certified is None or certified.archive is None:
            raise JobFailure(
                FailureCode.INTERNAL, "the runner ended as succeeded, but its bundle was not verified", retryable=False
            )
        return worker_protocol.Published(
            bundle=await self._upload(folder, BUNDLE, certified.archive),
            parts={part: await self._upload(folder, PARTS[part], one) for part, one in certified.parts.items()},
            formats=certified.formats,
            verified=certified.verified,
        )

    async def _upload(self, folder: Path, path: str, expected: Archive) -> worker_protocol.ManifestFile:
        with open_beneath(folder, path) as file:
            uploaded = await self.link.upload(file, path)
        if (uploaded.bytes, uploaded.sha256) != (expected.bytes, expected.sha256):
            raise JobFailure(FailureCode.INTERNAL, f"{path} is not the file that was certified", retryable=False)
        return uploaded

    async def _offer(self, path: str) -> worker_protocol.ManifestFile | None:
        """Upload a further artifact; one that is no file of the attempt is left out, and the job says so."""
        name = path.removeprefix(ARTIFACTS)
        try:
            if name in ARCHIVES:
                raise UnsafePath(f"{name!r} is the name of a verified model")
            with open_beneath(self.folder, path) as file:
                return await self.link.upload(file, name)
        except UnsafePath as error:
            self.keep(note(f"an artifact was left out: {error}"))
            return None


def _announcement(
    checkpoint: CheckpointFile, uploaded: worker_protocol.ManifestFile
) -> worker_protocol.CheckpointAnnouncement:
    return worker_protocol.CheckpointAnnouncement.model_validate(
        {
            "upload_id": uploaded.upload_id,
            "step": checkpoint.step,
            "epoch": checkpoint.epoch,
            "metrics": checkpoint.metrics,
            "best": checkpoint.best,
        }
    )
