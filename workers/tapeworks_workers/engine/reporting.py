"""What a runner tells while it works: records for the job, checkpoints for the agent.

`Reporter` writes wire.py's records without their index and time, which the agent adds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from tapeworks.errors import FailureCode, Location
from tapeworks.schemas.jobs import State
from tapeworks_workers.processes.frames import FrameError
from tapeworks_workers.processes.messages import CheckpointFrame, RecordFrame

Send = Callable[[dict[str, Any]], None]
"""Sends one frame to the agent; `frames.Channel.send`."""


class Reporter:
    """One attempt's voice."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.state = State.STARTING
        self.phase: str | None = None
        self.diagnostics: list[dict[str, Any]] = []
        """What `diagnostic` reported: code, message, hint and location of each."""
        self._monitored: dict[str, dict[str, str]] = {}

    def enter(self, state: State, phase: str | None = None, *, quietly: bool = False) -> None:
        """The attempt is in a state and phase from now on; said once.

        `quietly`: it is known for a failure and not said: validation comes and goes with every epoch.
        """
        changed = (state, phase) != (self.state, self.phase)
        self.state, self.phase = state, phase
        if changed and not quietly:
            self._record("state", state=state.value, phase=phase)

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Something happened: `trace`, `epoch`, `rewound`, `initial_state`, `diagnostic`, `note`."""
        self._record("event", type=kind, data=dict(data))

    def note(self, message: str) -> None:
        """An event that only has words."""
        self.event("note", {"message": message})

    def diagnostic(self, code: str, message: str, *, hint: str = "", location: Location | None = None) -> None:
        """Something that is no failure and that the user should know."""
        place = None if location is None else asdict(location)
        note = {"code": str(code), "message": message, "hint": hint, "location": place}
        self.diagnostics.append(note)
        self.event("diagnostic", note)

    def monitors(self, place: str, monitor: str, mode: str, *, by: str | None) -> None:
        """A value is monitored, and in which mode; `by`: who declared it, None where the spec gives the mode."""
        self._monitored[place] = {"monitor": monitor, "mode": mode}
        if by is not None:
            self.note(f'{place} monitors {monitor} with mode "{mode}", declared by {by}.')
        self.facts(diagnostics={"monitors": dict(self._monitored)})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values of metrics at a step."""
        if values:
            self._record("metric", step=step, values=dict(values))

    def facts(self, **facts: Any) -> None:
        """Parts of the job object: `progress`, `best`, `diagnostics`, `lineage`."""
        self._record("facts", **facts)

    def checkpoint(self, path: str, *, step: int, epoch: int, metrics: Mapping[str, float], best: bool) -> None:
        """A checkpoint is complete on disk, at a path relative to the attempt's folder."""
        self._send(CheckpointFrame(path=path, step=step, epoch=epoch, metrics=dict(metrics), best=best).document())

    def _record(self, kind: str, **fields: Any) -> None:
        try:
            self._send(RecordFrame(record={"record": kind, **fields}).document())
        except FrameError as error:
            self._send(RecordFrame(record=_left_out(kind, error)).document())


def _left_out(kind: str, error: FrameError) -> dict[str, Any]:
    """A diagnostic in the place of a record that is too large to be sent."""
    data = {"code": FailureCode.QUOTA_EXCEEDED.value, "message": f"a record ({kind}) was left out: {error}"}
    return {"record": "event", "type": "diagnostic", "data": data}


class Rate:
    """Examples per second since the reading before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()

    def since(self, amount: float) -> float | None:
        """`amount` per second since the last call; None where no time has passed."""
        now = self._clock()
        seconds, self._at = now - self._at, now
        return amount / seconds if seconds > 0 else None
