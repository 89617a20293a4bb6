"""One attempt: from a lease to its finish. `Attempt.run` is the recipe.

While the runner works, four things go on beside it: heartbeats keep the lease, commands are asked
for, records are sent in batches, checkpoints are uploaded and announced. The first of them that
hears `lease_lost` ends all of it: the runner is killed and nothing is published. Whatever the
runner names is opened beneath the attempt's folder only; the folder is removed at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError

from tapeworks.errors import ApiError, FailureCode, JobFailure, Rejected
from tapeworks.schemas import worker_protocol
from tapeworks.schemas.jobs import Failure, State
from tapeworks.schemas.report_limits import LIMITS, ReportLimits
from tapeworks_workers.agent.execution_environment import ExecutionEnvironment
from tapeworks_workers.agent.file_transfers import Transfers
from tapeworks_workers.agent.lease_verification import verification_of
from tapeworks_workers.agent.record_spool import MAX_BATCH_RECORDS, Spool
from tapeworks_workers.agent.report_quota import ReportQuota
from tapeworks_workers.agent.runner_relay import Record, Relay, RunnerExit, diagnostic, note
from tapeworks_workers.agent.service_client import AttemptLink, LeaseLost, QuotaExceeded
from tapeworks_workers.file_trees import remove
from tapeworks_workers.inputs.prefetch import ExternalData
from tapeworks_workers.inputs.upload_cache import Cache
from tapeworks_workers.processes import exit_failures
from tapeworks_workers.processes.launcher import Launcher, LaunchFailed
from tapeworks_workers.processes.messages import LeasedJob, StartFrame
from tapeworks_workers.sandbox.pool import ResourceLimits, SandboxPool
from tapeworks_workers.settings import WorkerSettings

RECORD_SECONDS = 0.5
"""Records are gathered so long before a batch is sent."""
COMMAND_WAIT = 25.0
TRAINED = frozenset({"training", "validating", "testing"})
"""Phases in which an attempt has what its last checkpoint has not."""
LATE = (State.EXPORTING, State.VERIFYING)
OUTCOMES = {"cancel": "cancelled", "pause": "paused", "drain": "released"}
_RECORD: TypeAdapter[Any] = TypeAdapter(worker_protocol.Record)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class AttemptConfig:
    """What an attempt works with."""

    settings: WorkerSettings
    launcher: Launcher
    environment: Mapping[str, str]
    heartbeat_seconds: float
    compiled: Path
    """Where what was compiled and measured for other jobs lies."""
    cache: Cache
    rooms: SandboxPool | None
    bounds: ResourceLimits
    limits: ReportLimits = LIMITS

    def place(self, folder: Path) -> ExecutionEnvironment:
        """Where an attempt with this folder runs."""
        settings = self.settings
        return ExecutionEnvironment(
            self.launcher, folder, self.environment, self.compiled, self.cache, self.rooms, self.bounds,
            components=tuple(path.resolve() for path in settings.components),
            data_roots=tuple(root.resolve() for root in settings.data_roots),
            packages=settings.allow_packages,
            external=ExternalData.of(settings, self.cache),
        )  # fmt: skip


class Attempt:
    """A lease in our hands."""

    def __init__(self, lease: worker_protocol.Lease, link: AttemptLink, terms: AttemptConfig) -> None:
        self.lease = lease
        self._link = link
        self._terms = terms
        self._folder = terms.settings.work_dir.resolve() / "attempts" / f"{lease.job_id}.{lease.attempt}"
        self._place = terms.place(self._folder / "run")
        self._asked: str | None = None
        self._heard: set[str] = set()
        self._give_up = asyncio.Event()
        self._soon = asyncio.Event()
        self._ending = self._stepped = False
        self._disk: OSError | None = None
        self._timed_out = False
        self._finished = False
        self._spool: Spool
        self._overrun: JobFailure | None = None
        self._transfers = Transfers(link, self._place, self._keep, self._flush_records)
        self._quota = ReportQuota(terms.limits)
        self._relay = Relay(
            self._place, self._keep, terms.settings.verify_seconds, quota=self._quota, room=lambda: self._spool.room()
        )
        self._log = log.bind(job=lease.job_id, attempt=lease.attempt)

    async def run(self) -> None:
        """Take the lease to its end. An error is reported to the service, or logged; only a cancel is raised."""
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
            self._log.exception("the attempt ended with an internal error of the worker")
        finally:
            await asyncio.shield(self._place.leave())
            await asyncio.shield(asyncio.to_thread(remove, self._folder))

    def drain(self) -> None:
        """Let the runner write a last checkpoint and hand the job back."""
        self._obey("drain")

    # ── while the lease is held ──────────────────────────────────────────────────────────────────

    async def _hold(self) -> None:
        async with asyncio.TaskGroup() as group:
            duties = (
                self._send_heartbeats(),
                self._take_commands(),
                self._send_records(),
                self._transfers.announce(self._relay.checkpoints),
                self._watch(),
            )
            tasks = [group.create_task(duty) for duty in duties]
            finish = await self._work()
            self._ending = True
            self._soon.set()
            await self._spool.emptied()
            await self._finish(finish)
            for task in tasks:
                task.cancel()

    async def _work(self) -> worker_protocol.Finish:
        """Run, and upload what the runner left; every failure of ours is one of the job's."""
        try:
            ended = await self._until_given_up(self._run_runner())
            if ended is None:
                return self._given_up()
            if ended.finish is None:
                return self._without_last_word(ended)
            finish = await self._until_given_up(self._transfers.publish(ended.finish, self._relay.verification))
            return finish if finish is not None else self._given_up()
        except JobFailure as failed:
            return self._failed(exit_failures.of_exception(failed))
        except LaunchFailed as error:
            return self._failed(exit_failures.failure(FailureCode.WORKER_LOST, f"no runner could be started: {error}"))
        except OSError as error:
            return self._failed(exit_failures.of_disk(error))
        except (LeaseLost, ApiError):
            raise
        except Exception as error:
            self._log.exception("the runner could not be relayed")
            return self._failed(exit_failures.failure(FailureCode.INTERNAL, f"{type(error).__name__}: {error}"))

    async def _run_runner(self) -> RunnerExit:
        timeout = self.lease.timeout_seconds
        backstop = None
        if timeout is not None:
            backstop = asyncio.get_running_loop().call_later(
                timeout + self._terms.settings.grace_seconds, self._time_out
            )
        try:
            await self._place.settle(self.lease, self._transfers.fetch_one)
            if (fetched := self._place.fetched.lineage) and not self.lease.fetched:
                self._keep({"record": "facts", "lineage": {"fetched": fetched}})
            start = StartFrame(
                lease=LeasedJob.of(self.lease),
                folder=self._place.folder,
                data_roots=list(self._place.data_roots),
                compiled=self._place.compiled,
                reserve_bytes=self._terms.settings.reserve_bytes,
                inputs=await self._transfers.fetch(self.lease.inputs),
                uploads=self._place.uploads,
                external=self._place.fetched.files,
                resume=await self._transfers.download(self.lease.resume),
            )
            self._relay.verification = verification_of(self.lease, self._place, self._terms.settings, keep=self._keep)
            await asyncio.to_thread(self._place.hand_over)
            ended = await self._relay.run(start)
            await self._relay.checkpoints.join()
            return ended
        finally:
            if backstop is not None:
                backstop.cancel()

    async def _until_given_up(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The work's result, or None after a command to stop at once. The runner is gone in either case."""
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

    def _obey(self, command: worker_protocol.CommandName) -> None:
        """Pass a command on, once, with a grace for the call that runs.

        Before training there is nothing to save that the last checkpoint has not, and while it exports or verifies a
        cancel has nothing to wait for: the runner is killed at once. A pause then comes too late, and does nothing.
        """
        late = self._relay.state in LATE or self._relay.finished
        if command in self._heard or (late and command == "pause"):
            return
        self._heard.add(command)
        if command in OUTCOMES and self._asked != "cancel" and (self._asked is None or command != "pause"):
            self._asked = command
        delivered = self._relay.command(command)
        early = not late and self._relay.phase not in TRAINED
        if command in OUTCOMES and (early or (late and command == "cancel") or not (delivered or late)):
            self._give_up.set()
        elif command in ("cancel", "drain"):
            asyncio.get_running_loop().call_later(self._terms.settings.grace_seconds, self._give_up.set)
        self._log.info("command", command=command, delivered=delivered)

    def _time_out(self) -> None:
        self._timed_out = True
        self._give_up.set()

    async def _watch(self) -> None:
        """End an attempt that takes more than its sandbox gives."""
        self._end_with(await self._place.overrun())

    def _given_up(self) -> worker_protocol.Finish:
        if self._disk is not None:
            return self._failed(exit_failures.of_disk(self._disk))
        if self._overrun is not None:
            return self._failed(exit_failures.of_exception(self._overrun))
        if self._timed_out and self._asked in (None, "pause"):
            return self._failed(
                exit_failures.failure(
                    FailureCode.TIMEOUT, f"the job did not end within {self.lease.timeout_seconds:g} s"
                )
            )
        return self._end(OUTCOMES[self._asked or "cancel"])

    def _without_last_word(self, ended: RunnerExit) -> worker_protocol.Finish:
        if self._asked is not None:
            return self._given_up()
        return self._failed(exit_failures.of_exit(ended.status, out_of_memory=ended.out_of_memory, tail=ended.tail))

    # ── duties beside the runner ─────────────────────────────────────────────────────────────────

    async def _send_heartbeats(self) -> None:
        while True:
            # Progress goes with the records: sent here it would run ahead of them, a new attempt's of its `rewound`.
            answer = await self._link.heartbeat(worker_protocol.Heartbeat(), pause=self._terms.heartbeat_seconds)
            if answer.command is not None:
                self._obey(answer.command)
            await asyncio.sleep(self._terms.heartbeat_seconds)

    async def _take_commands(self) -> None:
        while True:
            command = await self._link.command(COMMAND_WAIT)
            if command is not None:
                self._obey(command.command)
                await asyncio.sleep(1)  # it is answered at once as long as the user's wish stands

    async def _send_records(self) -> None:
        limit = MAX_BATCH_RECORDS
        while True:
            await self._spool.news()
            if not self._ending:
                self._soon.clear()
            batch = self._spool.batch(limit)
            try:
                stored = await self._link.records(worker_protocol.Records.model_validate({"records": batch}))
            except QuotaExceeded as error:
                self._spool.abandon()
                self._end_with(JobFailure(FailureCode.QUOTA_EXCEEDED, error.detail, retryable=False))
                continue
            except (Rejected, ValidationError) as error:
                if len(batch) == 1:
                    self._spool.replace_first(note(f"a record was refused: {str(error)[:500]}"))
                limit = max(1, len(batch) // 2)
                continue
            limit = MAX_BATCH_RECORDS
            self._spool.forget(stored)
            if dropped := self._spool.take_dropped():
                what = f"{dropped} log lines and metric points were dropped: the worker's buffer was full"
                self._keep(diagnostic(FailureCode.STORAGE_FULL, what))
            await _wait_for(self._soon, RECORD_SECONDS)

    async def _flush_records(self) -> None:
        """Wait until the service has every record so far."""
        await self._spool.reached(self._spool.last)

    def _keep(self, record: Record) -> None:
        """Spool a record of the runner; one that is not valid becomes a diagnostic."""
        try:
            valid = _RECORD.validate_python({**record, "index": 1, "at_offset": 0})
            kept = valid.model_dump(mode="json", exclude={"index", "at_offset"})
        except ValidationError as error:
            kept = note(f"the runner sent a record that is not valid: {str(error)[:500]}")
        try:
            if self._admits(kept):
                self._spool.append(kept)
                if self._is_awaited(kept):
                    self._soon.set()
        except JobFailure as failed:
            self._end_with(failed)
        except OSError as error:
            self._disk = error
            self._give_up.set()

    def _admits(self, record: Record) -> bool:
        """Whether a record is within the quota. Raises JobFailure where one that must be kept is not."""
        admitted, used_up = self._quota.admits(record, len(str(record.get("data"))))
        if used_up is not None:
            what = used_up.replace("_", " ")
            message = f"the attempt has used up its quota of {what}: further ones are dropped, the job continues"
            self._keep(diagnostic(FailureCode.QUOTA_EXCEEDED, message))
        return admitted

    def _end_with(self, failed: JobFailure) -> None:
        """End the attempt with a failure that is not the runner's."""
        self._overrun = self._overrun or failed
        self._give_up.set()

    def _is_awaited(self, record: Record) -> bool:
        """Whether what was gathered goes at once: a user waits for a state, and for the first step; both are few."""
        first = not self._stepped and record["record"] == "facts" and bool(record.get("progress"))
        self._stepped = self._stepped or first
        return first or record["record"] == "state"

    def _make_folder(self) -> None:
        remove(self._folder)
        self._place.folder.mkdir(parents=True)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    def _failed(self, failure: Failure) -> worker_protocol.Finish:
        return self._end("failed", failure=failure)

    def _end(self, outcome: str, **parts: Any) -> worker_protocol.Finish:
        return worker_protocol.Finish.model_validate({"outcome": outcome, **parts})

    async def _finish(self, finish: worker_protocol.Finish) -> None:
        """Say how it ended, after all records are stored. A finish that is refused becomes a failed one."""
        if finish.failure is not None:
            failure = finish.failure.model_copy(update={"attempt": self.lease.attempt})
            finish = finish.model_copy(update={"failure": failure})
        try:
            await self._link.finish(finish.model_copy(update={"last_record": self._spool.last}))
        except Rejected as error:
            self._log.error("the service refuses the result", error=str(error))
            failure = exit_failures.failure(FailureCode.INTERNAL, f"the service refused the attempt's result: {error}")
            finish = self._failed(failure.model_copy(update={"attempt": self.lease.attempt}))
            await self._link.finish(finish.model_copy(update={"last_record": self._spool.last}))
        self._finished = True
        self._log.info("attempt finished", outcome=finish.outcome)


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
