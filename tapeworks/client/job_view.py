"""A job in a notebook: `client.job(id)` shows its state, curves and metrics, live while a kernel runs.

With the extra `notebook` (anywidget) the block follows the job; without it, and in a saved notebook, it is as it was
when it was shown. After a restart of the kernel `client.job(id)` shows the same job again.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from tapeworks.errors import TapeworksError
from tapeworks.schemas.jobs import Job

if TYPE_CHECKING:
    from tapeworks.client.client import Client

_POINTS = 500
_WAIT_SECONDS = 2.0
_SCRIPT = """
export default { render({ model, el }) {
  const show = () => { el.innerHTML = model.get("html"); };
  model.on("change:html", show);
  show();
} };
"""


class JobView:
    """One job of a service, as a notebook shows it."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.id = job_id
        self._client = client
        self._widget: Any = None

    @property
    def job(self) -> Job:
        """The job as it is now. Raises `NotFound`."""
        return self._client.get(self.id)

    def wait(self, timeout: float | None = None) -> Job:
        """Wait for the job's end. Raises TimeoutError."""
        return self._client.wait(self.id, timeout)

    def __repr__(self) -> str:
        job = self.job
        return f"<job {job.id}: {job.state.value}, epoch {job.progress.epoch}>"

    def _repr_html_(self) -> str:
        return self._html(self.job)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The live block where there is a kernel and anywidget, and always the block as it is now."""
        job = self.job
        static = {"text/html": self._html(job), "text/plain": f"<job {job.id}: {job.state.value}>"}
        if job.finished or not _in_kernel():
            return static
        if self._widget is None:
            self._widget = _widget(static["text/html"])
            if self._widget is not None:
                threading.Thread(target=self._follow, args=(job,), name=f"view-{self.id}", daemon=True).start()
        if self._widget is None:
            return static
        live = self._widget._repr_mimebundle_(**options)
        shown = live[0] if isinstance(live, tuple) else live
        return {**shown, **static}

    def _html(self, job: Job) -> str:
        series = self._client.metrics(self.id, points=_POINTS)
        return job.html({name: [(step, value) for step, value, _ in one.points] for name, one in series.items()})

    def _follow(self, job: Job) -> None:
        """Update the block until the job has finished; it says so where the service is away."""
        try:
            while not job.finished:
                job = self._client.changed(job, wait=_WAIT_SECONDS)
                self._widget.html = self._html(job)
        except TapeworksError as error:
            self._widget.html = job.html({}, note=f"no longer updated: {error}")


def _in_kernel() -> bool:
    """Whether this process is a Jupyter kernel; IPython is not imported for that."""
    shell = sys.modules.get("IPython")
    found = None if shell is None else shell.get_ipython()
    return found is not None and getattr(found, "kernel", None) is not None


def _widget(html: str) -> Any:
    """A widget with the attribute `html`; None without the extra `notebook`."""
    try:
        anywidget, traitlets = importlib.import_module("anywidget"), importlib.import_module("traitlets")
    except ImportError:
        return None
    members = {"_esm": _SCRIPT, "html": traitlets.Unicode(html).tag(sync=True)}
    return type("JobWidget", (anywidget.AnyWidget,), members)()
