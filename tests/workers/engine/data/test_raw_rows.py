"""From raw rows of a table to an exported model that answers raw rows: missing values, categories, names of classes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.engine.export.export import export_bundle
from tapeworks_workers.engine.step.compiled_step import compile_train_step
from tests.support.job_files import build_data, set_data_roots
from tests.support.trainings import BATCH, Trained, attempt, job, trained
from tests.workers.engine.test_runner import events

NAN = float("nan")
EVERY = {"every_steps": 3, "every_seconds": None, "keep": 99}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    set_data_roots([folder])
    yield folder
    set_data_roots([])


def table(rows: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(3)
    frame = pd.DataFrame({
        "age": random.integers(1, 80, rows).astype(float), "fare": random.lognormal(3, 1, rows).round(2),
        "port": random.choice(["Cork", "Dover", "Genoa"], rows, p=[0.5, 0.3, 0.2]),
        "deck": random.choice(["a", "b"], rows),
        "when": pd.date_range("1911-12-30", periods=rows, freq="7h").strftime("%Y-%m-%d %H:%M:%S"),
    })  # fmt: skip
    frame["alive"] = np.where(frame["age"] + frame["fare"] / 4 > 45, "yes", "no")
    frame.loc[::7, "age"] = np.nan
    frame.loc[::11, "port"] = None
    return frame


def node(name: str, component: str, source: Any, **config: Any) -> dict[str, Any]:
    return {"name": name, "layer": {"component": component, "config": config}, "from": source}


NODES = [
    node("age_known", "fill_missing", "age", strategy="median", indicator=True),
    node("fare_bins", "keras/Discretization", "fare", num_bins=4, output_mode="one_hot"),
    node("port_known", "fill_missing", "port", strategy="mode"),
    node("port_id", "keras/StringLookup", "port_known", output_mode="one_hot"),
    node("port_hash", "keras/Hashing", "port_known", num_bins=7),
    node("port_code", "keras/CategoryEncoding", "port_hash", num_tokens=7, output_mode="one_hot"),
    node("both", "keras/HashedCrossing", ["port_known", "deck"], num_bins=5, output_mode="one_hot"),
    node("dates", "date_parts", "when", parts=["month", "hour", "day_of_week"], cyclic=True),
    node("log_fare", "log", "fare"),
    node("some_fare", "clip", "fare", minimum=0.0, maximum=50.0),
    node("numbers", "stack_columns", ["age_known", "log_fare", "some_fare"]),
    node("scaled", "keras/Normalization", "numbers"),
    node("all", "stack_columns", ["scaled", "fare_bins", "port_id", "port_code", "both", "dates"]),
]
ADAPT = [{"layer": name} for name in ("age_known", "fare_bins", "port_known", "port_id", "scaled")]


def rows_of(root: Path, form: str = "csv", **config: Any) -> dict[str, Any]:
    frame = table()
    if form == "csv":
        frame.to_csv(root / "t.csv", index=False)
    elif form == "parquet":
        frame.to_parquet(root / "t.parquet")
    else:
        frame.to_json(root / "t.jsonl", orient="records", lines=True)
    config = {"files": f"t.{form}", "labels": "alive", "named": True, "nulls": "missing", "classes": "auto"} | config
    return {"component": form, "config": config}


def model_of(units: int, **last: Any) -> dict[str, Any]:
    nodes = [*NODES, node("out", "keras/Dense", "all", units=units, **last)]
    return {"component": "graph", "config": {"nodes": nodes, "outputs": "out"}, "adapt": ADAPT}


def spec_of(root: Path, form: str = "csv", units: int = 2, **fields: Any) -> Any:
    data = {"source": rows_of(root, form), "pipeline": [BATCH]} | fields.pop("data", {})
    return job(data=data, model=fields.pop("model", None) or model_of(units), **fields)


def exported(found: Trained, folder: Path, verify: Any) -> tuple[dict[str, Any], Any]:
    """Its manifest and the reports of both verifiers."""
    draft = export_bundle(
        found.assembly, compile_train_step(found.assembly), counters={"step": 1},
        batches=found.data.training.first(2), folder=folder, metrics={}, lineage={}, class_names=found.data.class_names,
    )  # fmt: skip
    reports = {}
    for which in ("reload", "certify"):
        answer = verify(which, folder)
        assert answer["ok"], answer["failure"]["message"] + answer["failure"]["traceback_tail"]
        reports[which] = answer["report"]
    return draft.manifest, reports


def answers(folder: Path, rows: dict[str, Any]) -> dict[str, Any]:
    """What the SavedModel answers in plain TensorFlow."""
    loaded = tf.saved_model.load(str(folder / "saved_model" / "model" / "1"))
    given = {name: tf.constant(values) for name, values in rows.items()}
    return {name: {key: value.numpy() for key, value in function(**given).items()}
            for name, function in loaded.signatures.items()}  # fmt: skip


RAW = {
    "age": np.array([NAN, 30.0, 70.0], "float32"), "fare": np.array([7.0, 80.0, 20.0], "float32"),
    "port": ["", "Cork", "Narnia"], "deck": ["a", "b", "z"],
    "when": ["1912-04-10 12:00:00", "1912-04-10 12:00", "1912/04/15"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize(
    ("form", "precision"),
    [("csv", "float32"), ("parquet", "mixed_float16"), pytest.param("jsonl", "float64", marks=pytest.mark.thorough)],
)
def test_a_model_of_raw_rows_learns_as_pandas_counts_and_answers_names(
    root: Path, tmp_path: Path, verify: Any, form: str, precision: str
) -> None:
    model = model_of(2)
    if precision == "float64":  # Keras casts what it compares with learned boundaries to the process' own floatx
        nodes = [one for one in model["config"]["nodes"] if one["name"] != "fare_bins"]
        nodes = [{**one, "from": [name for name in one["from"] if name != "fare_bins"]} if one["name"] == "all" else one
                 for one in nodes]  # fmt: skip
        adapt = [one for one in ADAPT if one["layer"] != "fare_bins"]
        model = {**model, "config": {**model["config"], "nodes": nodes}, "adapt": adapt}
    spec = spec_of(root, form, model=model, training={"precision": precision, "epochs": 1})
    found = trained(spec, tmp_path / "job")
    frame, model = table(), found.assembly.models["model"]
    assert model.get_layer("age_known").fill_values == frame["age"].median()
    assert model.get_layer("port_known").fill_values == frame["port"].mode()[0].encode()
    assert set(model.get_layer("port_id").get_vocabulary()) == {"[UNK]", *frame["port"].dropna()}
    assert found.data.class_names == ["no", "yes"]
    manifest, reports = exported(found, tmp_path / "bundle", verify)
    assert manifest["models"]["model"]["classify"] == {"activation": "softmax", "outputs": "one_each"}
    report = reports["reload"]["models"]["model"]
    assert report["saved_model"]["signatures"] == ["classify", "serving_default"]
    assert report["saved_model"]["classify"]["classes"] == report["keras"]["classify"]["classes"] == 2
    if precision == "float64":
        return
    given = answers(tmp_path / "bundle", RAW)
    assert np.isfinite(given["serving_default"]["output_0"]).all()
    scores = given["classify"]["scores"]
    logits = tf.cast(given["serving_default"]["output_0"], tf.float32)
    np.testing.assert_allclose(scores, tf.nn.softmax(logits), rtol=1e-5)
    assert given["classify"]["class"].tolist() == [[b"no", b"yes"][place] for place in scores.argmax(-1)]
    assert given["classify"]["classes"].tolist() == [[b"no", b"yes"]] * 3


# ── classify ──


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "last", "loss", "about"),
    [
        (1, {}, ("BinaryCrossentropy", {"from_logits": True}), ("sigmoid", "of_the_second")),
        (1, {"activation": "sigmoid"}, ("BinaryCrossentropy", {}), ("none", "of_the_second")),
        (2, {"activation": "softmax"}, ("SparseCategoricalCrossentropy", {}), ("none", "one_each")),
        (1, {}, ("MeanSquaredError", {}), None),
        (3, {}, ("SparseCategoricalCrossentropy", {"from_logits": True}), None),
    ],
)
def test_the_signature_follows_from_outputs_and_loss(
    root: Path, tmp_path: Path, units: int, last: dict[str, Any], loss: tuple[str, dict[str, Any]], about: Any
) -> None:
    table().to_csv(root / "t.csv", index=False)
    model = {"component": "sequential", "config": {"layers": [
        {"component": "keras/Dense", "config": {"units": units, **last}}]}}  # fmt: skip
    source = {
        "component": "csv",
        "config": {"files": "t.csv", "labels": "alive", "features": ["fare"], "classes": "auto"},
    }
    spec = job(
        data={"source": source, "pipeline": [BATCH]}, model=model, metrics=[], training={"epochs": 1},
        loss={"component": f"keras/{loss[0]}", "config": loss[1]}, export={"formats": ["saved_model"]},
    )  # fmt: skip
    frames = attempt(spec, tmp_path / "job", data_roots=[root])
    assert frames[-1]["outcome"] == "succeeded", frames[-1]["failure"]
    folder = next((tmp_path / "job").rglob("manifest.json")).parent
    entry = json.loads((folder / "manifest.json").read_text())["models"]["model"]
    notes = [note["message"] for note in events(frames, "note")]
    if about is None:
        assert entry["classify"] is None
        assert any("'model' has no signature 'classify' with class names" in note for note in notes), notes
        assert "classify" not in answers(folder, {"x": np.ones((2, 1), "float32")})
        return
    assert entry["classify"] == {"activation": about[0], "outputs": about[1]}
    given = answers(folder, {"x": np.array([[1.0], [300.0]], "float32")})
    output, scores = given["serving_default"]["output_0"], given["classify"]["scores"]
    second = tf.sigmoid(output).numpy() if about[0] == "sigmoid" else output
    np.testing.assert_allclose(scores[:, 1], second[:, -1], rtol=1e-6)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-6)


def test_a_signature_that_answers_other_names_is_no_certificate(root: Path, tmp_path: Path, verify: Any) -> None:
    source = rows_of(root, features=["fare"], named=False)
    model = {"component": "sequential", "config": {"layers": [{"component": "keras/Dense", "config": {"units": 2}}]}}
    found = trained(job(data={"source": source, "pipeline": [BATCH]}, model=model), tmp_path / "job")
    manifest, _ = exported(found, tmp_path / "bundle", verify)
    file = tmp_path / "bundle" / "manifest.json"
    file.write_text(json.dumps({**manifest, "class_names": ["yes", "no"]}))
    failure = verify("reload", tmp_path / "bundle")["failure"]
    assert failure["code"] == "reload_mismatch"
    assert "lists other names than the classes of the job" in failure["message"]


# ── what is learned ──


@pytest.mark.parametrize(
    ("nodes", "adapt", "why"),
    [
        ([node("fill", "fill_missing", "age"), node("one", "stack_columns", ["fill"])], "fill",
         "column 'age' is missing"),
        ([node("wide", "stack_columns", ["fare", "age"]), node("one", "fill_missing", "wide")], "one",
         "column 'age' is missing in every row"),
        ([node("wide", "stack_columns", ["fare", "age"]), node("one", "keras/Normalization", "wide")], "one",
         "learned NaN"),
    ],
)  # fmt: skip
def test_a_column_that_is_missing_everywhere_is_refused_by_name(
    root: Path, tmp_path: Path, nodes: list[Any], adapt: str, why: str
) -> None:
    table().assign(age=np.nan).to_parquet(root / "t.parquet")
    config = {"files": "t.parquet", "labels": "alive", "named": True, "nulls": "missing", "classes": "auto"}
    graph = {"nodes": [*nodes, node("out", "keras/Dense", "one", units=2)], "outputs": "out"}
    model = {"component": "graph", "config": graph, "adapt": [{"layer": adapt}]}
    data = {"source": {"component": "parquet", "config": config}, "pipeline": [BATCH]}
    with pytest.raises(JobFailure, match=why) as caught:
        trained(job(data=data, model=model), tmp_path / "job")
    assert caught.value.code is FailureCode.INVALID_DATA
    assert caught.value.hint


def test_a_vector_names_its_column_by_the_source(root: Path, tmp_path: Path) -> None:
    table().assign(age=np.nan).to_csv(root / "t.csv", index=False)
    source = {"component": "csv", "config": {"files": "t.csv", "labels": "alive", "features": ["fare", "age"],
                                             "nulls": "missing", "dtypes": {"age": "float32", "fare": "float32"},
                                             "classes": "auto"}}  # fmt: skip
    layers = [{"component": "fill_missing", "config": {"name": "fill"}},
              {"component": "keras/Dense", "config": {"units": 2}}]  # fmt: skip
    model = {"component": "sequential", "config": {"layers": layers}, "adapt": [{"layer": "fill"}]}
    spec = job(data={"source": source, "pipeline": [BATCH]}, model=model)
    failure = attempt(spec, tmp_path / "job", data_roots=[root])[-1]["failure"]
    assert failure["code"] == "invalid_data"
    assert "column 'age' is missing in every row of the training split" in failure["message"]


def test_a_layer_that_has_learned_nothing_is_refused(root: Path, tmp_path: Path) -> None:
    spec = spec_of(root, model={**model_of(2), "adapt": [one for one in ADAPT if one["layer"] != "age_known"]})
    with pytest.raises(JobFailure, match=r"'age_known' .FillMissing. is not adapted"):
        trained(spec, tmp_path / "job")


def test_a_job_resumes_with_what_it_learned(root: Path, tmp_path: Path) -> None:
    chosen = [one for one in NODES if one["name"] in ("age_known", "port_known", "port_id")]
    nodes = [
        *chosen,
        node("all", "stack_columns", ["age_known", "port_id"]),
        node("out", "keras/Dense", "all", units=2),
    ]
    adapt = [{"layer": one["name"]} for one in chosen]
    model = {"component": "graph", "config": {"nodes": nodes, "outputs": "out"}, "adapt": adapt}
    spec = spec_of(root, model=model, training={"epochs": 2, "checkpoint": EVERY, "deterministic": True})
    whole = trained(spec, tmp_path / "whole")
    again = trained(spec, tmp_path / "again", resume=whole.checkpoints()[0])
    for name, value in whole.values().items():
        np.testing.assert_array_equal(value, again.values()[name], err_msg=name)


def test_what_the_model_fills_is_not_blamed_for_a_loss_that_is_nan(root: Path, tmp_path: Path) -> None:
    layers = [{"component": "fill_missing", "config": {"name": "fill"}},
              {"component": "keras/Dense", "config": {"units": 1}}]  # fmt: skip
    model = {"component": "sequential", "config": {"layers": layers}, "adapt": [{"layer": "fill"}]}
    frame = table().assign(y=1.0)
    frame.to_csv(root / "t.csv", index=False)
    frame.loc[15, "y"] = np.nan
    frame.to_csv(root / "v.csv", index=False)
    config = {"labels": "y", "features": ["age"], "nulls": "missing", "dtypes": {"y": "float32"}}
    source, other = ({"component": "csv", "config": {**config, "files": name}} for name in ("t.csv", "v.csv"))
    spec = job(data={"source": source, "validation": other, "pipeline": [BATCH]}, model=model, metrics=[],
               loss="keras/MeanSquaredError", export=None)  # fmt: skip
    frames = attempt(spec, tmp_path / "job", data_roots=[root])
    assert frames[-1]["outcome"] == "succeeded", frames[-1]["failure"]
    (note,) = [event for event in events(frames, "diagnostic") if event["code"] == "non_finite"]
    assert "the validation data holds NaN or an infinity in y (batch 2)" in note["message"]


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_other_splits_have_the_dtypes_of_the_training_split(root: Path, form: str) -> None:
    frames = {"t": pd.DataFrame({"n": [1, None, 3], "m": [1, 2, 3], "y": [0, 1, 0]}),
              "v": pd.DataFrame({"n": [4, 5], "m": [6, 7], "y": [1, 0]}),
              "w": pd.DataFrame({"n": [4, 5], "m": [6, None], "y": [1, 0]})}  # fmt: skip
    for name, frame in frames.items():
        frame = frame.astype("Int64")
        if form == "csv":
            frame.to_csv(root / f"{name}.csv", index=False)
        elif form == "parquet":
            frame.to_parquet(root / f"{name}.parquet")
        else:
            frame.to_json(root / f"{name}.jsonl", orient="records", lines=True)

    def split(name: str) -> dict[str, Any]:
        return {
            "component": form,
            "config": {"files": f"{name}.{form}", "labels": "y", "named": True, "nulls": "missing"},
        }

    data = build_data(job(data={"source": split("t"), "validation": split("v"), "pipeline": [BATCH]}))
    assert data.validation is not None
    assert data.validation.element_spec == data.training.element_spec
    ((x, _),) = data.validation.dataset(0)
    assert x["n"].numpy().tolist() == [4.0, 5.0]
    assert x["m"].dtype == tf.int64
    with pytest.raises(JobFailure, match=r"w\.\w+, (line|row) \d: column 'm' has no value.*float32"):
        build_data(job(data={"source": split("t"), "validation": split("w"), "pipeline": [BATCH]}))


# ── drop_missing ──


def kept(root: Path, *operations: dict[str, Any], **config: Any) -> pd.DataFrame:
    data = build_data(spec_of(root, data={"source": rows_of(root, **config), "pipeline": [*operations, BATCH]}))
    parts = [{name: value.numpy() for name, value in x.items()} for x, _ in data.training.dataset(0)]
    return pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def test_rows_are_dropped_as_by_pandas(root: Path) -> None:
    frame = table()
    whole = kept(root, {"op": "drop_missing"})
    expected = frame.dropna()
    assert len(whole) == len(expected) < len(frame)
    np.testing.assert_allclose(whole["fare"], expected["fare"].astype("float32"))
    assert [text.decode() for text in whole["port"]] == expected["port"].tolist()
    of_age = kept(root, {"op": "drop_missing", "fields": ["x.age"]})
    np.testing.assert_allclose(of_age["age"], frame.dropna(subset="age")["age"])
    shuffled = kept(root, {"op": "shuffle", "buffer_size": 100}, {"op": "drop_missing", "fields": ["x.port"]})
    assert sorted(shuffled["fare"]) == sorted(frame.dropna(subset="port")["fare"].astype("float32"))


def test_rows_without_a_label_are_dropped_or_refused(root: Path, tmp_path: Path) -> None:
    frame = table()
    frame.loc[::9, "alive"] = None
    frame.to_csv(root / "u.csv", index=False)
    source = rows_of(root, files="u.csv", named=False, features=["fare"])
    model = {"component": "sequential", "config": {"layers": [{"component": "keras/Dense", "config": {"units": 2}}]}}
    dropped = {"op": "drop_missing", "fields": ["y"]}
    data = build_data(job(data={"source": source, "pipeline": [dropped, BATCH]}))
    labels = np.concatenate([y.numpy() for _, y in data.training.dataset(0)])
    expected = pd.Categorical(frame["alive"].dropna()).codes
    np.testing.assert_array_equal(labels, expected)
    spec = job(data={"source": source, "pipeline": [BATCH]}, model=model, export=None)
    failure = attempt(spec, tmp_path / "job", data_roots=[root])[-1]["failure"]
    assert failure["code"] == "invalid_data"
    assert "label -1" in failure["message"]
    assert '{"op": "drop_missing", "fields": ["y"]}' in failure["hint"]


def test_validation_keeps_its_rows_where_only_training_drops_them(root: Path) -> None:
    for only, size in ((True, 24), (False, 24 - 4)):
        operations = [{"op": "drop_missing", "fields": ["x.age"], "training_only": only}, BATCH]
        split = {"fraction": 0.4, "split": "tail"}
        data = build_data(spec_of(root, data={"validation": split, "pipeline": operations}))
        assert data.validation is not None
        sizes = {"validation": sum(len(y) for _, y in data.validation.dataset(0)),
                 "training": sum(len(y) for _, y in data.training.dataset(0))}  # fmt: skip
        assert sizes == {"validation": size if only else table()[36:]["age"].notna().sum(),
                         "training": table()[:36]["age"].notna().sum()}  # fmt: skip


def test_windows_are_not_cut_over_gaps(root: Path) -> None:
    windows = {"op": "apply", "function": {"component": "windows", "config": {"size": 3}}}
    frame = table()[["age", "fare"]]
    frame.to_csv(root / "s.csv", index=False)
    source = {"component": "csv", "config": {"files": "s.csv", "nulls": "missing"}}
    with pytest.raises(JobFailure, match="drop_missing leaves gaps between the elements"):
        build_data(job(data={"source": source, "pipeline": [{"op": "drop_missing"}, windows, BATCH]}))
    data = build_data(job(data={"source": source, "pipeline": [windows, {"op": "drop_missing"}, BATCH]}))
    found = np.concatenate([x.numpy() for x, _ in data.training.dataset(0)])
    values = frame.to_numpy("float32")
    whole = [values[at : at + 3] for at in range(len(values) - 3) if not np.isnan(values[at : at + 4]).any()]
    np.testing.assert_array_equal(found, whole)


def test_batches_are_not_dropped_whole(root: Path) -> None:
    with pytest.raises(JobFailure, match="drop_missing meets batches: it takes single elements") as caught:
        build_data(spec_of(root, data={"pipeline": [BATCH, {"op": "drop_missing"}]}))
    assert caught.value.hint == "Put it before a batching operation."
    with pytest.raises(JobFailure, match=r"has no field 'x\.agee'"):
        build_data(spec_of(root, data={"pipeline": [{"op": "drop_missing", "fields": ["x.agee"]}, BATCH]}))
