"""Many jobs at once on one worker, and what the service costs."""

import psutil
import pytest

from tapeworks.schemas.jobs import State
from tests.support.serving import Served, endless, running, spec

MIB = 1024 * 1024


@pytest.mark.slow
def test_ten_jobs_run_in_order_of_priority_then_submission(served: Served) -> None:
    blocking = running(served, served.client.submit(endless()))
    priorities = [(7 * n) % 5 - 2 for n in range(10)]
    jobs = [served.client.submit(spec(name=str(n), priority=p)) for n, p in enumerate(priorities)]
    served.client.cancel(blocking.id)
    done = [served.client.wait(job.id, 280) for job in jobs]
    assert {job.state for job in done} == {State.SUCCEEDED}
    started = sorted(done, key=lambda job: job.started_at or job.created_at)
    wanted = sorted(range(10), key=lambda n: (-priorities[n], n))
    assert [job.name for job in started] == [str(n) for n in wanted]

    listed = [job.id for job in served.client.list(state="succeeded", name="3")]
    assert listed == [jobs[3].id]
    assert psutil.Process(served.process.pid).memory_info().rss < 200 * MIB
