"""What a component prints is found in the job's logs."""

from tapeworks.schemas.jobs import State
from tests.support.serving import Served, spec


def test_prints_of_a_compiled_step_reach_the_logs(served: Served) -> None:
    job = served.run(spec(step="acme/Talkative", training={"max_steps": 3}))
    assert job.state is State.SUCCEEDED, job.failure
    lines = [line.text for line in served.client.logs(job.id)]
    said = [line for line in lines if line.startswith("step ")]
    assert said == [f"step {step} has 32 rows" for step in range(3)], lines
    assert "tracing the step" in lines
    assert "step 1 has 32 rows" in served.tapeworks("logs", job.id).stdout.splitlines()
