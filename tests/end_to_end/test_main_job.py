"""The main job: submit, watch, download, load; and what it tells meanwhile."""

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

import tapeworks
from tapeworks.bundle import extract
from tapeworks.schemas.jobs import HELD, Job, State
from tests.support.paths import ROOT
from tests.support.serving import Served, spec

BARRED = (
    "import sys; sys.modules['tapeworks_workers'] = sys.modules['tapeworks_service'] = None\n"
    "class Barred:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.partition('.')[0] == 'tapeworks': raise ModuleNotFoundError(name)\n"
    "sys.meta_path.insert(0, Barred())\n"
)
ORDER = [State.QUEUED, *HELD, State.SUCCEEDED]

PARTS = {
    "data": {
        "source": "digits",
        "validation": 0.2,
        "test": 0.2,
        "pipeline": [{"op": "shuffle", "buffer_size": 2000}, {"op": "batch", "batch_size": 32}],
    },
    "model": {
        "component": "sequential",
        "config": {
            "layers": [
                {
                    "component": "keras/Dense",
                    "config": {
                        "units": 64,
                        "activation": "relu",
                        "kernel_regularizer": {"component": "acme/Flat", "config": {"strength": 1e-4}},
                    },
                },
                {"component": "keras/Dropout", "config": {"rate": 0.2}},
                {"component": "acme/Scale", "config": {"factor": 1.5}},
                {"component": "keras/Dense", "config": {"units": 10}},
            ]
        },
    },
    "optimizer": {"component": "keras/Adam", "config": {"learning_rate": 0.002}},
    "loss": {"component": "acme/Smoothed", "config": {"smoothing": 0.05}},
    "metrics": ["keras/SparseCategoricalAccuracy", {"component": "acme/WithinTop", "config": {"k": 3}}],
    "training": {"epochs": 6},
}


def alone(program: str, folder: Path) -> str:
    """What a program prints in a Python of its own."""
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def seen(served: Served) -> list[Job]:
    """The job with our own parts, as it was at each change that a poller saw."""
    jobs: list[Job] = []
    served.client.wait(served.client.submit(PARTS).id, 240, jobs.append)
    assert jobs[-1].state is State.SUCCEEDED, jobs[-1].failure
    return jobs


@pytest.fixture(scope="module")
def bundle(served: Served, seen: list[Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return extract(served.client.download(seen[-1].id, folder), folder / "model")


@pytest.mark.slow
def test_a_polled_job_never_goes_backwards(seen: list[Job]) -> None:
    places = [(job.attempt, ORDER.index(job.state), job.progress.step) for job in seen]
    assert places == sorted(places)
    assert len({job.state for job in seen}) >= 3


def test_the_job_says_what_it_did(seen: list[Job]) -> None:
    job = seen[-1]
    assert job.progress.epoch == 6
    assert job.progress.step == job.progress.total_steps == 6 * 34  # 1797 · 0.6 = 1079 elements, the last batch short
    assert job.metrics["test_sparse_categorical_accuracy"] > 0.9
    assert job.metrics["test_within_top"] > job.metrics["test_sparse_categorical_accuracy"]
    assert {"loss", "val_loss", "test_loss", "val_within_top"} <= set(job.metrics)
    assert job.model is not None
    assert set(job.model.formats) == {"keras", "saved_model"}


def test_events_tell_the_same_story(served: Served, seen: list[Job]) -> None:
    job = seen[-1]
    events = list(served.client.events(job.id))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    states = [event.data["state"] for event in events if event.type == "state"]
    assert [state for state, _ in groupby(states)] == [one.state.value for one in job.transitions]
    epochs = [event.data for event in events if event.type == "epoch"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1]["step"] == job.progress.step
    assert [event.seq for event in served.client.events(job.id, follow=True, after=3)] == [e.seq for e in events[3:]]


def test_history_is_as_fit_returns_it(served: Served, seen: list[Job]) -> None:
    history = served.client.history(seen[-1].id)
    assert {len(values) for values in history.values()} == {6}
    assert history["loss"][-1] == pytest.approx(seen[-1].metrics["loss"])
    assert history["val_loss"][-1] == pytest.approx(seen[-1].metrics["val_loss"])


def test_metrics_end_with_the_last_value(served: Served, seen: list[Job]) -> None:
    series = served.client.metrics(seen[-1].id)["loss"]
    step, value, _ = series.points[-1]
    assert (step, value) == (seen[-1].progress.step, pytest.approx(seen[-1].metrics["loss"]))


def test_a_short_last_batch_costs_no_second_trace(served: Served, seen: list[Job]) -> None:
    traced = [event.data["function"] for event in served.client.events(seen[-1].id) if event.type == "trace"]
    assert traced == ["training", "validation"]


def test_it_was_verified_before_it_was_published(seen: list[Job]) -> None:
    assert seen[-1].model is not None
    assert seen[-1].model.verified
    assert State.VERIFYING in [one.state for one in seen[-1].transitions]


@pytest.mark.slow
def test_the_bundle_alone_loads_and_goes_on_training(bundle: Path) -> None:
    program = (
        f"{BARRED}sys.path.insert(0, {str(bundle)!r})\n"
        "import load, keras, numpy, json\n"
        "assert load.main() == 0\n"
        "model = keras.models.load_model('models/model.keras')\n"
        "x = numpy.random.default_rng(0).random((64, 64), numpy.float32); y = numpy.arange(64) % 10\n"
        "history = model.fit(x, y, epochs=1, verbose=0).history\n"
        "names = [type(layer).__name__ for layer in model.layers]\n"
        "print(json.dumps([names, type(model.loss).__name__, model.loss.smoothing, sorted(history),\n"
        "    [l.factor for l in model.layers if hasattr(l, 'factor')], model.layers[0].kernel_regularizer.strength]))\n"
    )
    compared, *_, told = alone(program, bundle).splitlines()
    assert "bit-equal" in compared
    layers, loss, smoothing, history, factors, strength = json.loads(told)
    assert "Scale" in layers
    assert (loss, smoothing, factors, strength) == ("Smoothed", 0.05, [1.5], 1e-4)
    assert {"loss", "within_top", "sparse_categorical_accuracy"} <= set(history)


def test_tapeworks_load_gives_the_models(bundle: Path) -> None:
    models = tapeworks.load(bundle)
    assert list(models) == ["model"]
    assert models["model"].input_shape == (None, 64)


@pytest.mark.parametrize("part", ["keras", "saved_model"])
def test_a_part_can_be_had_alone(served: Served, seen: list[Job], tmp_path: Path, part: str) -> None:
    folder = extract(served.client.download(seen[-1].id, tmp_path, part), tmp_path / "part")
    names = {path.name for path in folder.rglob("*")}
    assert ("model.keras" in names) == (part == "keras")
    assert ("saved_model.pb" in names) == (part == "saved_model")


def test_the_example_of_an_own_loss_is_valid_where_it_is_served(served: Served) -> None:
    job = json.loads((ROOT / "examples" / "own_loss" / "job.json").read_text())
    job["loss"]["component"] = "acme/Smoothed"
    assert served.client.validate(job).spec.losses


def test_two_jobs_of_one_spec_and_seed_start_alike(served: Served) -> None:
    one, two = (served.run(spec(training={"epochs": 1, "seed": 7, "deterministic": True})) for _ in range(2))
    assert one.metrics["loss"] == two.metrics["loss"]
