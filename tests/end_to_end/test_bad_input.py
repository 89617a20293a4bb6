"""What a user can get wrong: each is told by its code, and the next job runs."""

from typing import Any

import pytest

from tapeworks.errors import ApiError, Conflict, NotFound, Rejected
from tapeworks.schemas.jobs import State
from tests.support.serving import Served, endless, running, spec

BATCH = {"op": "batch", "batch_size": 32}


def with_model(**config: Any) -> dict[str, Any]:
    return {"model": {"component": "mlp", "config": {"hidden": [8], "outputs": 10, **config}}}


REFUSED = {
    "unknown component": (spec(loss="focall"), "/loss", "unknown_component"),
    "unknown Keras class": (spec(optimizer={"component": "keras/Adamm"}), "/optimizer/component", "unknown_component"),
    "code in a spec": (
        spec(model={"component": "sequential", "config": {"layers": [{"component": "keras/Lambda", "config": {}}]}}),
        "/model/config/layers/0/component",
        "unknown_component",
    ),
    "wrong type in a config": (spec(**with_model(hidden="many")), "/model/config/hidden", "invalid_config"),
    "unknown argument": (spec(**with_model(widht=3)), "/model/config/widht", "invalid_config"),
    "unknown field": (spec(trainning={}), "/trainning", "unknown_field"),
    "missing field": ({"data": {"source": "digits"}}, "/models", "missing_field"),
    "wrong role": (
        {**spec(), "optimizer": None, "optimizers": {"model": "keras/Adam", "critic": "keras/Adam"}},
        "/optimizers/critic",
        "unknown_role",
    ),
    "no batch": ({**spec(), "data": {"source": "digits"}}, "/data/pipeline", "missing_batch"),
    "endless data": (spec(pipeline=[{"op": "repeat"}]), "/data/pipeline/0", "endless_data"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_spec_is_refused_at_its_place(served: Served, name: str) -> None:
    document, pointer, code = REFUSED[name]
    for call in (served.client.validate, served.client.submit):
        with pytest.raises(Rejected) as caught:
            call({key: value for key, value in document.items() if value is not None})
        assert caught.value.status == 422
        places = {(error["pointer"], error["code"]) for error in caught.value.errors}
        assert (pointer, code) in places, places


def failing(**over: Any) -> dict[str, Any]:
    return spec(limits={"max_attempts": 1}, **over)


FAILING = {
    "label out of range": (failing(**with_model(outputs=5)), "invalid_data"),
    "no elements": (failing(pipeline=[{"op": "skip", "count": 100_000}]), "invalid_data"),
    "dtypes that differ": (
        failing(pipeline=[{"op": "map", "function": "acme/add_label"}]),
        "dtype_mismatch",
    ),
    "a rate that diverges": (
        failing(
            optimizer={"component": "keras/SGD", "config": {"learning_rate": 1e18}},
            loss={"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
        ),
        "non_finite",
    ),
    "longer than allowed": ({**endless(), "limits": {"timeout_seconds": 4.0, "max_attempts": 3}}, "timeout"),
    "a source that raises": (
        failing(data={"source": {"component": "acme/Unlucky", "config": {"mounted": False}}, "pipeline": [BATCH]}),
        "component_error",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILING)
def test_a_failure_has_its_code_and_the_next_job_runs(served: Served, name: str) -> None:
    document, code = FAILING[name]
    job = served.run(document)
    assert job.state is State.FAILED
    assert job.failure is not None
    assert job.failure.code == code, job.failure
    assert job.failure.message
    assert job.failure.hint
    assert job.attempt == 1
    assert [event.type for event in served.client.events(job.id)].count("attempt_failed") == 1
    after = served.run(spec())
    assert after.state is State.SUCCEEDED, after.failure


def test_a_spec_of_two_mebibytes_is_too_large(served: Served) -> None:
    with pytest.raises(Rejected) as caught:
        served.client.submit(spec(name="x" * 2 * 1024 * 1024))
    assert (caught.value.status, caught.value.code) == (413, "payload_too_large")


def test_a_finished_job_cannot_be_cancelled(served: Served) -> None:
    job = served.run(spec())
    with pytest.raises(Conflict) as caught:
        served.client.cancel(job.id)
    assert caught.value.code == "conflict"
    assert served.client.get(job.id).state is State.SUCCEEDED


def test_an_unknown_id_is_not_found(served: Served) -> None:
    for call in (served.client.get, served.client.cancel, served.client.delete, served.client.metrics):
        with pytest.raises(NotFound) as caught:
            call("job_nothing")
        assert caught.value.code == "not_found"
    with pytest.raises(NotFound):
        list(served.client.events("job_nothing", follow=True))


def test_a_job_without_a_model_has_none_to_download(served: Served, tmp_path: Any) -> None:
    job = served.run(spec())
    with pytest.raises(ApiError) as caught:
        served.client.download(job.id, tmp_path)
    assert caught.value.status == 404


def test_a_running_job_stops_when_it_is_cancelled(served: Served) -> None:
    job = running(served, served.client.submit(endless()), step=10)
    assert served.client.cancel(job.id).requested == "cancel"
    job = served.client.wait(job.id, 60)
    assert job.state is State.CANCELLED
    assert job.checkpoints.latest is not None
    assert job.checkpoints.latest.step == job.progress.step
    served.client.delete(job.id)
    with pytest.raises(NotFound):
        served.client.get(job.id)
