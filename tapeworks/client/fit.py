"""`client.fit`: what `model.fit` does, as a job of the service.

The data and the model's weights are uploaded, once for the same content; the job is submitted and followed; the trained
weights are copied into the model. The service's proof that the model loads again holds for the downloaded bundle.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeworks import bundle
from tapeworks.client.fit_files import write_files
from tapeworks.client.payloads import InMemory
from tapeworks.errors import ComponentError, JobFailure, TapeworksError
from tapeworks.keras.compile_losses import outputs_of
from tapeworks.keras.fit_callbacks import FitCallbacks
from tapeworks.keras.fit_data import FitArrays, fit_arrays, split_tail, with_class_weight
from tapeworks.keras.from_keras import document_and_callbacks, parsed
from tapeworks.keras.references import keras
from tapeworks.keras.unsupported import Unsupported
from tapeworks.keras.weights import assign, initial_bundle
from tapeworks.schemas.assets import DataFormat
from tapeworks.schemas.jobs import Job, State

if TYPE_CHECKING:
    from tapeworks.client.client import Client

_BATCH_SIZE = 32


@dataclass(frozen=True)
class FitCall:
    """The arguments of one call, named as those of `keras.Model.fit`."""

    x: Any
    y: Any = None
    batch_size: int | None = None
    epochs: int = 1
    verbose: str | int = "auto"
    callbacks: Sequence[Any] | None = None
    validation_split: float = 0.0
    validation_data: Any = None
    shuffle: bool = True
    class_weight: Mapping[int, float] | None = None
    sample_weight: Any = None
    initial_epoch: int = 0
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    validation_batch_size: int | None = None
    validation_freq: int = 1


def fit(client: Client, model: Any, call: FitCall, fields: Mapping[str, Any]) -> Any:
    """Train `model` by a job; a `keras.callbacks.History` with the job as its attribute `job`.

    Raises ComponentError with everything of the call that a job cannot do, `Rejected`, and JobFailure where the job
    fails; the model is unchanged then.
    """
    problems = Unsupported()
    _unsupported_arguments(call, problems)
    training, validation = _data(model, call, problems)
    if training is None:
        problems.check()
        raise ComponentError("x holds no data")
    _build(model, training)
    batch_size = training.batch_size or call.batch_size or _BATCH_SIZE
    given = dict(fields)
    given["training"] = {**_steps(call), **(given.get("training") or {})}
    trained_before = model.optimizer is not None and int(model.optimizer.iterations) > 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the model was trained for")
        document, callbacks = document_and_callbacks(
            model,
            data=_source(training, call, "ds_0"),
            epochs=call.epochs,
            callbacks=call.callbacks,
            problems=problems,
            steps_per_epoch=-(-training.size // batch_size),
            **given,
        )
    parsed(document)  # with no upload yet: a call that cannot become a job sends nothing
    document["data"] = _uploaded(client, training, validation, call)
    start = _initial_state(client, model)
    if start is not None and "model" not in fields:  # else the caller's own reference stands there
        document["model"]["initial_state"] = start
    if trained_before:
        warnings.warn("the job starts from the model's weights, and with a new optimizer state", stacklevel=4)
    job = client.submit(parsed(document))
    job = client.wait(job.id, on_change=_reporter(job.id, call.verbose))
    return _finish(client, model, job, callbacks)


def _unsupported_arguments(call: FitCall, problems: Unsupported) -> None:
    if call.initial_epoch:
        problems.add("initial_epoch", "leave it out and give the number of epochs that are left")
    if call.validation_steps:
        problems.add("validation_steps", "give the part of validation_data that is to be evaluated")
    if call.validation_freq != 1:
        problems.add("validation_freq", "leave it out; a job evaluates after each epoch")
    if call.validation_batch_size not in (None, call.batch_size or _BATCH_SIZE):
        problems.add("validation_batch_size", "leave it out; validation has the batch size of the training")


def _data(model: Any, call: FitCall, problems: Unsupported) -> tuple[FitArrays | None, FitArrays | None]:
    """The training and the validation data; None where there is none or it has a problem."""
    outputs = outputs_of(model)
    names: dict[str, Any] = {
        "inputs": tuple(one.name for one in getattr(model, "inputs", None) or ()),
        "outputs": outputs.names,
        "problems": problems,
    }
    training = fit_arrays(call.x, call.y, call.sample_weight, **names)
    validation = None
    if call.validation_data is not None:
        parts = call.validation_data if isinstance(call.validation_data, tuple) else (call.validation_data,)
        x, y, weight = (*parts, None, None)[:3]
        validation = fit_arrays(x, y, weight, **names)
    elif call.validation_split and training is not None:
        with problems.collect():
            if training.shuffled is not None:
                raise ComponentError("validation_split of a tf.data.Dataset: give validation_data")
            training, validation = split_tail(training, call.validation_split)
    if call.class_weight and training is not None:
        training = with_class_weight(training, call.class_weight, problems)
    return training, validation


def _build(model: Any, data: FitArrays) -> None:
    """Build a model without weights by its first elements, as `fit` does."""
    if not model.built:
        features = data.config["features"]
        one = {name: data.arrays[name][:1] for name in ([features] if isinstance(features, str) else features)}
        model(one[features] if isinstance(features, str) else one)


def _steps(call: FitCall) -> dict[str, Any]:
    return {"steps_per_epoch": call.steps_per_epoch} if call.steps_per_epoch else {}


def _uploaded(client: Client, training: FitArrays, validation: FitArrays | None, call: FitCall) -> dict[str, Any]:
    """The `data` of the spec, once its arrays are uploaded."""
    data = _source(training, call, _pushed(client, training))
    if validation is not None:
        files = {"files": _pushed(client, validation)}
        data["validation"] = {"component": "arrays", "config": {**validation.config, **files}}
    return data


def _source(training: FitArrays, call: FitCall, files: str) -> dict[str, Any]:
    shuffle = call.shuffle if training.shuffled is None else training.shuffled
    pipeline: list[dict[str, Any]] = [{"op": "shuffle", "buffer_size": training.size}] if shuffle else []
    pipeline.append({"op": "batch", "batch_size": training.batch_size or call.batch_size or _BATCH_SIZE})
    return {"source": {"component": "arrays", "config": {**training.config, "files": files}}, "pipeline": pipeline}


def _pushed(client: Client, arrays: FitArrays) -> str:
    dataset = client.datasets.settled(
        client.datasets.push_payload(InMemory(arrays.content()), name="fit", format=DataFormat.NPZ)
    )
    return dataset.id


def _initial_state(client: Client, model: Any) -> dict[str, Any] | None:
    content = initial_bundle(model)
    if content is None:
        return None
    return {"from": client.bundles.push_payload(InMemory(content), name="fit-start").id}


# ── while it runs, and after ─────────────────────────────────────────────────────────────────────


def _reporter(job_id: str, verbose: str | int) -> Callable[[Job], object]:
    """Writes a line for the job's state and one for each epoch; nothing with verbose=0."""
    shown: list[object] = []

    def report(job: Job) -> None:
        now = (job.state, job.progress.epoch)
        if verbose in (0, "0") or now in shown:
            return
        shown.append(now)
        values = " - ".join(f"{name}: {value:.4f}" for name, value in job.metrics.items())
        of = f"/{job.progress.epochs}" if job.progress.epochs else ""
        line = f"{job_id} {job.state.value} - epoch {job.progress.epoch}{of}" + (f" - {values}" if values else "")
        sys.stdout.write(line + "\n")

    return report


def _finish(client: Client, model: Any, job: Job, callbacks: FitCallbacks) -> Any:
    if job.state is not State.SUCCEEDED:
        if job.failure is None:
            raise TapeworksError(f"{job.id} is {job.state.value}: the model is unchanged")
        failure = job.failure
        raise JobFailure(failure.code, f"{job.id}: {failure.message}", hint=failure.hint)
    with tempfile.TemporaryDirectory(prefix="tapeworks-") as folder:
        file = client.download(job.id, Path(folder))
        trained = bundle.load(file)["model"]
    assign(model, trained)
    history = keras().callbacks.History()
    history.set_model(model)
    history.history = {name: list(values) for name, values in client.history(job.id).items()}
    history.epoch = list(range(max(map(len, history.history.values()), default=0)))
    history.params = {"epochs": job.progress.epochs, "verbose": 0}
    history.job = job
    write_files(client, job, model, history, callbacks)
    return history
