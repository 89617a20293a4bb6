"""The verification of a bundle by the agent: sealed, then loaded, then compared, then packed.

    the runner's folder → seal_bundle → the sealed folder, with digests
                                         ├→ `reload`, `certify`: run the bundle's code where the runner runs, and write
                                         │                      arrays; the agent copies them, bounded
                                         └→ `compare`: runs outside of every sandbox and imports nothing of the bundle;
                                                       compares the arrays, writes certificate.json, packs the archives

The runner says when its bundle is written, and hears whether it is verified; nothing else of it is believed. What is
published is what `compare` packed, after its type, its bounds and the archives' digests were checked.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.processes import exit_failures, frames
from tapeworks_workers.processes.children import Child
from tapeworks_workers.processes.handles import Process
from tapeworks_workers.processes.launcher import Launcher, LaunchFailed
from tapeworks_workers.processes.messages import VerifierAnswer
from tapeworks_workers.safe_files import UnsafePath
from tapeworks_workers.verification.sealing import SealedFile, copy_bounded, seal_bundle
from tapeworks_workers.verification.verifier_process import answer_of, discard, refused

LOADING = ("reload", "certify")
FILES = ("facts.json", "arrays.npy")
"""That each of them writes (`engine/observation.py`)."""
MAX_VERIFIED_BYTES = 256 << 10
_FACTS_BYTES = 8 << 20
_ARRAYS_BYTES = 16 << 20
_FORMS = 8
"""How often a model's outputs are observed, at most: by each way of loading it."""
_PACKED_BYTES_PER_SECOND = 10e6
_CLOSED = ConfigDict(extra="forbid", frozen=True)

Part = Literal["keras", "saved_model"]
Result = TypeVar("Result")


class Archive(BaseModel):
    """An archive that was packed."""

    model_config = _CLOSED
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Certified(BaseModel):
    """What the comparing process found: the certificate in short, and what it packed."""

    model_config = _CLOSED
    verified: dict[str, JsonValue]
    formats: list[Part]
    archive: Archive | None
    parts: dict[Part, Archive]


@dataclass(frozen=True)
class VerificationTerms:
    """What the lease says of its bundle; the runner's own word on it does not count."""

    tolerance: float
    formats: Sequence[str]
    gpu: bool
    pack: bool
    """Whether the bundle is to be published."""
    max_artifact_bytes: int | None = None


@dataclass(frozen=True)
class VerificationPlace:
    """Where a bundle is verified.

    `launcher` starts what runs its code, `trusted` what must not share a sandbox with it.
    """

    launcher: Launcher
    trusted: Launcher
    environment: Mapping[str, str]
    run: Path
    """The runner's folder."""
    sealed: Path
    """Shown to the runner's sandbox, written by the agent alone."""
    own: Path
    """The agent's, seen by no sandbox."""
    started: Callable[[Process], None]
    """Called with each process that runs the bundle's code: its memory is the job's."""
    oom_kills: Callable[[], int] = exit_failures.oom_kills
    limit: int = 1 << 62
    """Bytes that a bundle may have."""
    reserve: int = 0


@dataclass
class BundleVerification:
    """The verification of one attempt's bundle. `seconds`: what each process may take."""

    place: VerificationPlace
    terms: VerificationTerms
    keep: Callable[[Mapping[str, Any]], None]
    seconds: float
    certified: Certified | None = None
    _begun: bool = False
    """Whether the runner has asked, or ended without asking: no process is started for it any more."""
    _held: dict[str, asyncio.Task[Child]] = field(default_factory=dict)
    """Processes that have loaded what they need and wait for the bundle."""

    @property
    def archives(self) -> Path:
        """Where the archives lie once `certified` is set."""
        return self.place.own / "certified"

    def hold(self) -> None:
        """Start the processes while the bundle is written, once."""
        if not self._begun and not self._held:
            self._held = {which: asyncio.create_task(self._started(which)) for which in (*LOADING, "compare")}

    def close(self) -> None:
        """End processes that were never asked."""
        self._begun = True
        for held in self._held.values():
            held.add_done_callback(discard)
        self._held.clear()

    async def run(self) -> VerifierAnswer:
        """Verify the bundle, once: an empty report, or the failure for the runner to end with."""
        if self._begun:
            return refused(FailureCode.INTERNAL, "the runner asked for a second verification of its bundle")
        self.hold()
        self._begun = True
        try:
            certified = await self._verified()
        except JobFailure as failure:
            return VerifierAnswer(ok=False, failure=exit_failures.of_exception(failure))
        except UnsafePath as error:
            return refused(FailureCode.RELOAD_MISMATCH, f"a verifier's report on the bundle cannot be read: {error}")
        except LaunchFailed as error:
            return refused(FailureCode.WORKER_LOST, f"a verifier could not be started: {error}")
        except OSError as error:
            return VerifierAnswer(ok=False, failure=exit_failures.of_disk(error))
        finally:
            self.close()
        if isinstance(certified, VerifierAnswer):
            return certified
        self.certified = certified
        return VerifierAnswer(ok=True)

    async def _verified(self) -> Certified | VerifierAnswer:
        place = self.place
        into = place.sealed / frames.BUNDLE
        stop = threading.Event()
        seal = partial(seal_bundle, place.run, frames.BUNDLE, into, limit=place.limit, reserve=place.reserve, stop=stop)
        files = await _to_the_end(seal, stop)
        answers = await self._loaded()
        seen = [which for which in LOADING if answers[which].ok]
        failed = next((answers[which] for which in LOADING if which not in seen), None)
        if failed is not None and not seen:
            return failed
        for which in seen:
            await _to_the_end(partial(self._take, which, files), stop)
        terms = {
            "verifiers": seen,
            "files": {name: asdict(file) for name, file in files.items()},
            "tolerance": self.terms.tolerance,
            "formats": list(self.terms.formats),
            "device": "gpu" if self.terms.gpu else "cpu",
            "max_artifact_bytes": self.terms.max_artifact_bytes,
            "pack": self.terms.pack and failed is None,
        }
        self._terms_file.write_text(json.dumps(terms))
        seconds = self.seconds + sum(file.bytes for file in files.values()) / _PACKED_BYTES_PER_SECOND
        answer = await self._answer("compare", seconds)
        if not answer.ok:  # what the first verifier saw says more than how the second one failed
            return answer
        if failed is not None:
            return failed
        try:
            certified = Certified.model_validate(answer.report)
        except ValidationError as error:
            return refused(
                FailureCode.INTERNAL, f"the comparison of the bundle returned an invalid result: {error}"[:2000]
            )
        if len(json.dumps(certified.verified)) > MAX_VERIFIED_BYTES:
            return refused(FailureCode.INTERNAL, f"the certificate has more than {MAX_VERIFIED_BYTES} bytes")
        return certified

    async def _loaded(self) -> dict[str, VerifierAnswer]:
        """The answers of those that load it; one after another on a GPU, whose memory holds the trained model too."""
        if self.terms.gpu:
            return {which: await self._answer(which, self.seconds) for which in LOADING}
        tasks = [asyncio.create_task(self._answer(which, self.seconds)) for which in LOADING]
        try:
            return {which: await task for which, task in zip(LOADING, tasks, strict=True)}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _answer(self, which: str, seconds: float) -> VerifierAnswer:
        child = await self._held.pop(which)
        oom_kills = exit_failures.oom_kills if which == "compare" else self.place.oom_kills
        return await answer_of(child, which, keep=self.keep, seconds=seconds, oom_kills=oom_kills)

    def _take(self, which: str, files: Mapping[str, SealedFile]) -> None:
        """Copy what a process wrote to where the runner cannot change it."""
        observed = "probes/" if which == "reload" else "training_state/next_step.npz"
        size = sum(file.bytes for name, file in files.items() if name.startswith(observed))
        limits = (_FACTS_BYTES + 4 * files["manifest.json"].bytes, _ARRAYS_BYTES + _FORMS * size)
        for name, limit in zip(FILES, limits, strict=True):
            copy_bounded(self.place.run, f"observed/{which}/{name}", self._observed / which / name, limit=limit)

    async def _started(self, which: str) -> Child:
        place = self.place
        bundle = str(place.sealed / frames.BUNDLE)
        if which == "compare":
            arguments = {
                "bundle": bundle, "observed": str(self._observed), "terms": str(self._terms_file),
                "into": str(self.archives),
            }  # fmt: skip
            environment = {"CUDA_VISIBLE_DEVICES": "-1"}
            return await place.trusted.verifier(which, arguments, environment=environment, folder=place.own)
        arguments = {"bundle": bundle, "into": str(place.run / "observed" / which)}
        child = await place.launcher.verifier(which, arguments, environment=place.environment, folder=place.run)
        place.started(child.handle)
        return child

    @property
    def _observed(self) -> Path:
        return self.place.own / "observed"

    @property
    def _terms_file(self) -> Path:
        return self.place.own / "terms.json"


async def _to_the_end(work: Callable[[], Result], stop: threading.Event) -> Result:
    """Call a function in a thread. Cancelled, it is asked to stop and awaited: its files are about to be removed."""
    working = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({working})
        raise
