"""One attempt: from a lease to its finish. `Attempt.run` is the recipe.

While the runner works, four things go on beside it: heartbeats keep the lease, commands are asked
for, records are sent in batches, checkpoints are uploaded and announced. The first of them that
hears `lease_lost` ends all of it: the runner is killed and nothing is published. Whatever the
runner names is opened beneath the attempt's folder only; the folder is removed at the end.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError

from tapeworks import wire
from tapeworks.errors import ApiError, FailureCode, JobFailure, NotFound, Rejected
from tapeworks.jobs import Failure, Progress, State
from tapeworks_workers import endings
from tapeworks_workers.files import UnsafePath, open_beneath
from tapeworks_workers.launcher import Launcher, LaunchFailed
from tapeworks_workers.link import AttemptLink, LeaseLost
from tapeworks_workers.relay import CheckpointFile, Ended, Record, Relay, note
from tapeworks_workers.settings import WorkerSettings
from tapeworks_workers.spool import MAX_BATCH_RECORDS, Spool

RECORD_SECONDS = 0.5
"""Records are gathered so long before a batch is sent."""
COMMAND_WAIT = 25.0
_RECORD: TypeAdapter[Any] = TypeAdapter(wire.Record)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Terms:
    """What an attempt works with."""

    settings: WorkerSettings
    launcher: Launcher
    environment: Mapping[str, str]
    heartbeat_seconds: float


class Attempt:
    """A lease in our hands."""

    def __init__(self, lease: wire.Lease, link: AttemptLink, terms: Terms) -> None:
        self.lease = lease
        self._link = link
        self._terms = terms
        self._folder = terms.settings.work_dir.resolve() / "attempts" / f"{lease.job_id}.{lease.attempt}"
        self._run_folder = self._folder / "run"
        self._asked: str | None = None
        self._paused = False
        self._give_up = asyncio.Event()
        self._hurry = asyncio.Event()
        self._disk: OSError | None = None
        self._timed_out = False
        self._finished = False
        self._progress: Progress | None = None
        self._spool: Spool
        self._relay = Relay(
            launcher=terms.launcher,
            folder=self._run_folder,
            environment=terms.environment,
            keep=self._keep,
            verify_seconds=terms.settings.verify_seconds,
        )
        self._log = log.bind(job=lease.job_id, attempt=lease.attempt)

    async def run(self) -> None:
        """Take the lease to its end. What goes wrong is told to the service, or logged; only a cancel is raised."""
        self._log.info("attempt started", resume=[checkpoint.step for checkpoint in self.lease.resume])
        try:
            await asyncio.to_thread(self._make_folder)
            with Spool(self._folder / "records.jsonl", limit=self._terms.settings.spool_bytes) as self._spool:
                try:
                    await self._hold()
                finally:
                    self._relay.close()
        except* LeaseLost as lost:
            if not self._finished:  # a heartbeat may cross with the finish
                reasons = [str(one) for one in lost.exceptions]
                self._log.warning("the lease is lost: the runner is killed, nothing is published", reasons=reasons)
        except* ApiError as error:
            self._log.error("the service refuses this attempt", errors=[str(one) for one in error.exceptions])
        except* OSError as error:
            self._log.error("the worker's folder cannot be used", errors=[str(one) for one in error.exceptions])
        except* Exception:
            self._log.exception("the attempt ended with an error of the worker's own")
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True))

    def drain(self) -> None:
        """Let the runner write a last checkpoint and hand the job back."""
        self._obey("drain")

    # ── while the lease is held ──────────────────────────────────────────────────────────────────

    async def _hold(self) -> None:
        async with asyncio.TaskGroup() as group:
            duties = (self._send_heartbeats, self._take_commands, self._send_records, self._send_checkpoints)
            tasks = [group.create_task(duty()) for duty in duties]
            finish = await self._work()
            self._hurry.set()
            await self._spool.emptied()
            await self._finish(finish)
            for task in tasks:
                task.cancel()

    async def _work(self) -> wire.Finish:
        """Run, and upload what the runner left; every failure of ours is one of the job's."""
        try:
            ended = await self._until_given_up(self._run_runner())
            if ended is None:
                return self._given_up()
            if ended.finish is None:
                return self._without_last_word(ended)
            finish = await self._until_given_up(self._publish(ended.finish))
            return finish if finish is not None else self._given_up()
        except JobFailure as failed:
            return self._failed(endings.of_exception(failed))
        except LaunchFailed as error:
            return self._failed(endings.failure(FailureCode.WORKER_LOST, f"no runner could be started: {error}"))
        except OSError as error:
            return self._failed(endings.of_disk(error))
        except (LeaseLost, ApiError):
            raise
        except Exception as error:
            self._log.exception("the runner could not be relayed")
            return self._failed(endings.failure(FailureCode.INTERNAL, f"{type(error).__name__}: {error}"))

    async def _run_runner(self) -> Ended:
        resume = await self._download_checkpoints()
        timeout = self.lease.timeout_seconds
        backstop = None
        if timeout is not None:
            backstop = asyncio.get_running_loop().call_later(
                timeout + self._terms.settings.grace_seconds, self._time_out
            )
        start = {
            "lease": self.lease.model_dump(mode="json", by_alias=True, exclude={"token"}),
            "folder": str(self._run_folder),
            "data_roots": [str(root.resolve()) for root in self._terms.settings.data_roots],
            "resume": resume,
        }
        try:
            ended = await self._relay.run(start)
            await self._relay.checkpoints.join()
            return ended
        finally:
            if backstop is not None:
                backstop.cancel()

    async def _until_given_up(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The work's result, or None where we were told to stop at once. The runner is gone in either case."""
        working = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(self._give_up.wait())
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            waiting.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working})

    # ── what is asked of it ──────────────────────────────────────────────────────────────────────

    def _obey(self, command: str) -> None:
        """Pass a command on. Cancel and drain are given a grace, while it exports or verifies a cancel is not."""
        if command in ("cancel", "drain") and self._asked != "cancel":
            if self._asked != command:
                asyncio.get_running_loop().call_later(self._terms.settings.grace_seconds, self._give_up.set)
            self._asked = command
        if command == "pause" and self._paused:
            return  # the wish stands until the runner has ended: it was told
        told = self._relay.command(command)
        self._paused = self._paused or (command == "pause" and told)
        late = self._relay.state in (State.EXPORTING, State.VERIFYING)
        if command == "cancel" and (late or not told):
            self._give_up.set()
        elif command == "drain" and not told:
            self._give_up.set()
        self._log.info("command", command=command, told=told)

    def _time_out(self) -> None:
        self._timed_out = True
        self._give_up.set()

    def _given_up(self) -> wire.Finish:
        if self._disk is not None:
            return self._failed(endings.of_disk(self._disk))
        if self._timed_out and self._asked is None:
            return self._failed(
                endings.failure(FailureCode.TIMEOUT, f"the job did not end within {self.lease.timeout_seconds:g} s")
            )
        return self._end("released" if self._asked == "drain" else "cancelled")

    def _without_last_word(self, ended: Ended) -> wire.Finish:
        if self._asked in ("cancel", "drain"):
            return self._given_up()
        return self._failed(endings.of_exit(ended.status, out_of_memory=ended.out_of_memory, tail=ended.tail))

    # ── duties beside the runner ─────────────────────────────────────────────────────────────────

    async def _send_heartbeats(self) -> None:
        while True:
            answer = await self._link.heartbeat(
                wire.Heartbeat(progress=self._progress), pause=self._terms.heartbeat_seconds
            )
            if answer.command is not None and answer.command != self._asked:
                self._obey(answer.command)
            await asyncio.sleep(self._terms.heartbeat_seconds)

    async def _take_commands(self) -> None:
        while True:
            command = await self._link.command(COMMAND_WAIT)
            if command is not None:
                if command.command != self._asked:
                    self._obey(command.command)
                await asyncio.sleep(1)  # it is answered at once as long as the user's wish stands

    async def _send_records(self) -> None:
        limit = MAX_BATCH_RECORDS
        while True:
            await self._spool.news()
            batch = self._spool.batch(limit)
            try:
                stored = await self._link.records(wire.Records.model_validate({"records": batch}))
            except (Rejected, ValidationError) as error:
                if len(batch) == 1:
                    self._spool.replace_first(note(f"a record was refused: {str(error)[:500]}"))
                limit = max(1, len(batch) // 2)
                continue
            limit = MAX_BATCH_RECORDS
            self._spool.forget(stored)
            await _wait_for(self._hurry, RECORD_SECONDS)

    async def _send_checkpoints(self) -> None:
        while True:
            checkpoint = await self._relay.checkpoints.get()
            try:
                with checkpoint.file as file:
                    uploaded = await self._link.upload(file, checkpoint.path)
                await self._announce(checkpoint, uploaded)
            except (JobFailure, Rejected, OSError) as error:
                self._log.error("a checkpoint could not be stored", step=checkpoint.step, error=str(error))
                code = error.code if isinstance(error, JobFailure) else FailureCode.STORAGE_UNAVAILABLE
                self._keep(diagnostic(code, f"the checkpoint of step {checkpoint.step} could not be stored: {error}"))
            finally:
                self._relay.checkpoints.task_done()

    async def _announce(self, checkpoint: CheckpointFile, uploaded: wire.ManifestFile) -> None:
        announcement = {
            "upload_id": uploaded.upload_id,
            "step": checkpoint.step,
            "epoch": checkpoint.epoch,
            "metrics": checkpoint.metrics,
            "best": checkpoint.best,
        }
        await self._link.announce(wire.CheckpointAnnouncement.model_validate(announcement))

    def _keep(self, record: Record) -> None:
        """Spool a record of the runner; one that is not valid is told as a note."""
        try:
            valid = _RECORD.validate_python({**record, "index": 1, "at_offset": 0})
            kept = valid.model_dump(mode="json", exclude={"index", "at_offset"})
        except ValidationError as error:
            kept = note(f"the runner sent a record that is not valid: {str(error)[:500]}")
        else:
            if isinstance(valid, wire.FactsRecord) and valid.progress is not None:
                self._progress = valid.progress
        try:
            self._spool.append(kept)
        except OSError as error:
            self._disk = error
            self._give_up.set()

    # ── files in and out ─────────────────────────────────────────────────────────────────────────

    def _make_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._run_folder.mkdir(parents=True)

    async def _download_checkpoints(self) -> list[dict[str, Any]]:
        """The newest checkpoint whose digest is right, in the form of the start frame; none where there is none."""
        for checkpoint in self.lease.resume:
            path = self._run_folder / "resume" / f"{checkpoint.checkpoint_id}.tar"
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                good = await self._link.download(checkpoint, descriptor)
                reason = "its bytes do not have its digest"
            except NotFound as error:
                good, reason = False, error.detail
            finally:
                os.close(descriptor)
            if good:
                where = {"path": str(path), "checkpoint_id": checkpoint.checkpoint_id}
                return [{**where, "step": checkpoint.step, "epoch": checkpoint.epoch}]
            path.unlink()
            text = f"checkpoint {checkpoint.checkpoint_id} (step {checkpoint.step}) is not used: {reason}"
            self._log.warning(text)
            self._keep(diagnostic(FailureCode.CHECKPOINT_CORRUPT, text))
        return []

    async def _publish(self, frame: dict[str, Any]) -> wire.Finish:
        """Upload what the runner's last frame names. Raises JobFailure, LeaseLost."""
        finish = {name: frame[name] for name in ("outcome", "metrics", "facts") if frame.get(name) is not None}
        try:
            if frame.get("failure") is not None:
                finish["failure"] = Failure.model_validate(frame["failure"])
            if frame.get("published") is not None:
                finish["published"] = await self._publish_model(frame["published"])
            finish["files"] = [file for path in frame.get("files") or [] if (file := await self._offer(path))]
            return wire.Finish.model_validate(finish)
        except (ValidationError, UnsafePath) as error:
            raise JobFailure(FailureCode.INTERNAL, f"the runner's result cannot be published: {error}") from error
        except Rejected as error:
            raise JobFailure(FailureCode.INTERNAL, f"the service refused a file: {error}") from error

    async def _publish_model(self, published: dict[str, Any]) -> wire.Published:
        bundle = published.get("bundle")
        return wire.Published(
            bundle=await self._upload(bundle) if bundle else None,
            parts={name: await self._upload(path) for name, path in (published.get("parts") or {}).items()},
            formats=published.get("formats") or [],
            verified=published.get("verified") or {},
            result=published.get("result"),
        )

    async def _upload(self, path: str) -> wire.ManifestFile:
        with open_beneath(self._run_folder, path) as file:
            return await self._link.upload(file, path)

    async def _offer(self, path: str) -> wire.ManifestFile | None:
        """Upload a further artifact; one that is no file of the attempt is left out, and the job says so."""
        try:
            return await self._upload(path)
        except UnsafePath as error:
            self._keep(note(f"an artifact was left out: {error}"))
            return None

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    def _failed(self, failure: Failure) -> wire.Finish:
        return self._end("failed", failure=failure)

    def _end(self, outcome: str, **parts: Any) -> wire.Finish:
        return wire.Finish.model_validate({"outcome": outcome, **parts})

    async def _finish(self, finish: wire.Finish) -> None:
        """Say how it ended, after all records are stored. A finish that is refused becomes a failed one."""
        if finish.failure is not None:
            failure = finish.failure.model_copy(update={"attempt": self.lease.attempt})
            finish = finish.model_copy(update={"failure": failure})
        try:
            await self._link.finish(finish.model_copy(update={"last_record": self._spool.last}))
        except Rejected as error:
            self._log.error("the service refuses the result", error=str(error))
            failure = endings.failure(FailureCode.INTERNAL, f"the service refused the attempt's result: {error}")
            finish = self._failed(failure.model_copy(update={"attempt": self.lease.attempt}))
            await self._link.finish(finish.model_copy(update={"last_record": self._spool.last}))
        self._finished = True
        self._log.info("attempt finished", outcome=finish.outcome)


def diagnostic(code: FailureCode, message: str) -> dict[str, Any]:
    """An event that tells of something wrong which does not end the job."""
    return {"record": "event", "type": "diagnostic", "data": {"code": code.value, "message": message}}


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first exception in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
