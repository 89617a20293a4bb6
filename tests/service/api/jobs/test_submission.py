"""What a spec is refused for: its code, and a pointer into the document as the user wrote it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.hand_worker import COMPONENTS, HandWorker, spec

BATCH = [{"op": "batch", "batch_size": 8}]
MLP = {"component": "mlp", "config": {"outputs": 10}}
GAN = {
    "data": {"source": "digits", "pipeline": BATCH},
    "step": "gan",
    "models": {"generator": MLP, "critic": MLP},
    "optimizers": {"generator": "keras/Adam", "critic": "keras/Adam"},
    "losses": {"adversarial": "keras/Hinge"},
}


def part(*models: str) -> dict[str, Any]:
    """An optimizer that says what it owns."""
    return {"component": "keras/Adam", "variables": [{"model": model} for model in models]}


def adam(**config: Any) -> dict[str, Any]:
    return {"component": "keras/Adam", "config": config}


def data(**changes: Any) -> dict[str, Any]:
    return {"source": "digits", "pipeline": BATCH, **changes}


def zipped(branch: Any) -> dict[str, Any]:
    """A job on a source of two sources."""
    config = {"sources": {"a": {"component": "digits"}, "b": branch}}
    return spec(data=data(source={"component": "zip", "config": config}))


def findings(api: httpx.Client, document: Any) -> set[tuple[str, str]]:
    answer = api.post("/v1/jobs/validate", json=document)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert all(error["message"] for error in problem["errors"])
    return {(error["pointer"], error["code"]) for error in problem["errors"]}


TWO = {"component": "concatenate", "config": {"sources": [{"component": "digits"}, {"component": "digits"}]}}


def rows(**config: Any) -> dict[str, Any]:
    """A source of a table."""
    return {"component": "rows", "config": {"files": "a/*.csv", **config}}


SPLITS: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"files": "val/*.csv"}, {}, "/files", "invalid_value"),
    ({"split": "folders"}, {}, "/split", "invalid_value"),
    ({"fraction": 0.2, "group": "x.a"}, {"source": TWO}, "/group", "invalid_value"),
    ({"fraction": 0.2, "split": "time", "by": "x.a"}, {"source": TWO}, "/by", "invalid_value"),
    ({"fraction": 0.2, "stratify": "y"}, {"source": rows()}, "/stratify", "invalid_value"),
    ({"fraction": 0.2, "group": "sample_weight"}, {"source": rows()}, "/group", "invalid_value"),
    ({"fraction": 0.2, "stratify": "y", "group": "x.a"}, {}, "", "invalid_value"),
    ({"fraction": 0.2, "split": "tail", "group": "x.a"}, {}, "", "invalid_value"),
    ({"fraction": 0.2, "split": "time"}, {}, "", "invalid_value"),
    ({"fraction": 0.2, "by": "x.a"}, {}, "", "invalid_value"),
    ({"split": "tail"}, {}, "/fraction", "missing_field"),
    ({"fraction": 0.2, "stratify": "z"}, {}, "/stratify", "invalid_value"),
    ({"files": "a", "fraction": 0.2}, {}, "/fraction", "unknown_field"),
    ({"files": "ds_1/a.csv"}, {"source": rows()}, "/files", "invalid_value"),
]
"""Splits that are refused: the split, the rest of `data`, the place below it, the code."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (spec(model="mpl"), ("/model", "unknown_component")),
        (spec(loss={"component": "focal", "version": "9"}), ("/loss/version", "unknown_component")),
        (spec(loss={"component": "focal", "config": {"gamma": "two"}}), ("/loss/config/gamma", "invalid_config")),
        (spec(loss={"component": "focal", "config": {"gama": 2.0}}), ("/loss/config/gama", "invalid_config")),
        (spec(model={"component": "mlp", "config": {}}), ("/model/config", "invalid_config")),
        (spec(optimiser="keras/Adam"), ("/optimiser", "unknown_field")),
        (spec(training={"epochs": "5"}), ("/training/epochs", "invalid_value")),
        ({key: value for key, value in spec().items() if key != "data"}, ("/data", "missing_field")),
        (spec(metrics=["keras/Hinge", "keras/Wrong"]), ("/metrics/1", "unknown_component")),
        (spec(losses={"model": "focal"}), ("/loss", "invalid_value")),
        (spec(metrics={"other": ["keras/Hinge"]}), ("/metrics/other", "unknown_role")),
        (spec(data=data(pipeline=[])), ("/data/pipeline", "missing_batch")),
        (spec(data=data(pipeline=[*BATCH, {"op": "repeat"}])), ("/data/pipeline/1", "endless_data")),
        (spec(data=data(pipeline=[{"op": "map", "function": "scael"}, *BATCH])),
         ("/data/pipeline/0/function", "unknown_component")),
        (spec(gradients=[{"component": "clip_by_global_norm", "optimizer": "critic"}]),
         ("/gradients/0/optimizer", "unknown_role")),
        (spec(export={"models": ["critic"]}), ("/export/models/0", "unknown_role")),
        (spec(models={"model": MLP, "critic": MLP}, model=None), ("/models/critic", "unknown_role")),
        ({**GAN, "models": {"generator": MLP}}, ("/models/critic", "missing_role")),
        ({**GAN, "optimizers": {"generator": "keras/Adam"}}, ("/optimizers/critic", "missing_role")),
        ({**GAN, "losses": {}}, ("/losses/adversarial", "missing_role")),
        ({**GAN, "data": data(validation=0.2)}, ("/data/validation", "missing_validation_step")),
        (spec(evaluators=["confusion"]), ("/evaluators/0", "unknown_component")),
        (spec(callbacks=["tensorbord"]), ("/callbacks/0", "unknown_component")),
        (spec(optimizer=None, optimizers={"head": "keras/Adam"}), ("/optimizers/head", "unknown_role")),
        (spec(optimizer=None, optimizers={"head": {"component": "keras/Adam", "variables": [{"model": "other"}]}}),
         ("/optimizers/head/variables", "unknown_role")),
        (spec(optimizer=None, optimizers={"model": "keras/Adam", "head": part("model")}),
         ("/optimizers/head/variables", "invalid_value")),
        ({**GAN, "optimizers": {"generator": part("critic"), "critic": "keras/Adam"}},
         ("/optimizers/generator/variables", "unknown_role")),
        ({**GAN, "optimizers": {"generator": "keras/Adam", "both": part("critic", "generator")}},
         ("/optimizers/both/variables", "unknown_role")),
        (spec(optimizer={"component": "keras/Adam", "variables": []}), ("/optimizer/variables", "invalid_value")),
        (spec(optimizer=adam(gradient_accumulation_steps=2), training={"gradient_accumulation": 2}),
         ("/optimizer/config/gradient_accumulation_steps", "invalid_value")),
        (spec(optimizer=adam(loss_scale_factor=2.0)), ("/optimizer/config/loss_scale_factor", "invalid_value")),
        (spec(optimizer=adam(clipnorm=1.0), gradients=["clip_by_global_norm"]),
         ("/optimizer/config/clipnorm", "invalid_value")),
        (spec(optimizer={"component": "keras/LossScaleOptimizer", "config": {"inner_optimizer": adam(clipvalue=1.0)}},
              gradients=["clip_by_global_norm"]),
         ("/optimizer/config/inner_optimizer/config/clipvalue", "invalid_value")),
        (spec(optimizer={"component": "keras/LossScaleOptimizer", "config": {"inner_optimizer": adam()}}),
         ("/optimizer/component", "invalid_value")),
        (spec(resources={"workers": 2}), ("/resources/workers", "not_supported")),
        (spec(resources={"gpus": 2}, training={"epochs": 1, "execution": {"plan": "fused"}}),
         ("/training/execution/plan", "not_supported")),
        (spec(data=data(pipeline=[{"op": "rebatch", "batch_size": 3}, *BATCH])), ("/data/pipeline/0", "missing_batch")),
        (spec(data=data(pipeline=[*BATCH, {"op": "unbatch"}])), ("/data/pipeline", "missing_batch")),
        (spec(data=data(pipeline=[*BATCH, {"op": "drop_missing"}])), ("/data/pipeline/1", "missing_batch")),
        (spec(data=data(pipeline=[{**BATCH[0], "training_only": True}], validation=0.1)),
         ("/data/pipeline", "missing_batch")),
        (spec(data=data(pipeline=[{"op": "apply", "function": "scale"}, *BATCH])),
         ("/data/pipeline/0/function", "unknown_component")),
        (zipped({"component": "digitz"}), ("/data/source/config/sources/b/component", "unknown_component")),
        (zipped({"source": "digitz"}), ("/data/source/config/sources/b/source", "unknown_component")),
        (zipped("digits"), ("/data/source/config/sources/b", "invalid_config")),
        (zipped({"source": "digits", "pipeline": [{"op": "batch"}]}),
         ("/data/source/config/sources/b/pipeline/0/batch_size", "missing_field")),
        (zipped({"source": "digits", "pipeline": [{"op": "map", "function": {"component": "scael"}}]}),
         ("/data/source/config/sources/b/pipeline/0/function/component", "unknown_component")),
        (zipped({"source": "digits", "pipeline": [
            {"op": "map", "function": {"component": "scale", "config": {"factor": "two"}}}]}),
         ("/data/source/config/sources/b/pipeline/0/function/config/factor", "invalid_config")),
        (zipped({"source": "digits", "pipeline": [{"op": "unbatch"}]}),
         ("/data/source/config/sources/b/pipeline/0", "missing_batch")),
        (zipped({"source": "digits", "piepline": []}), ("/data/source/config/sources/b/piepline", "unknown_field")),
        (spec(data=data(source={"component": "zip", "config": {"sources": {
            "a": {"source": "digits", "pipeline": [{"op": "repeat"}]}}}})),
         ("/data/source/config/sources/a/pipeline/0", "endless_data")),
        (spec(models={"model": MLP, "critic": {"copy_of": "mlp"}}, model=None),
         ("/models/critic/component", "missing_field")),
        (spec(models={"model": MLP, "critic": {**MLP, "copy_of": "mlp"}}, model=None),
         ("/models/critic/copy_of", "invalid_value")),
        ([1], ("", "invalid_spec")),
        *((spec(data=data(validation=split, **more)), (f"/data/validation{place}", code))
          for split, more, place, code in SPLITS),
        (spec(data=data(validation={"fraction": 0.2, "split": "time", "by": "x.a"},
                        test={"fraction": 0.2, "split": "tail"})), ("/data", "invalid_value")),
    ],
)  # fmt: skip
def test_a_wrong_place_is_named(
    api: httpx.Client, worker: HandWorker, document: Any, expected: tuple[str, str]
) -> None:
    assert expected in findings(api, document)
    assert api.post("/v1/jobs", json=document).status_code == 422, "submitting checks the same"


def test_evaluators_make_up_for_a_validation_step(api: httpx.Client, worker: HandWorker) -> None:
    document = {**GAN, "data": data(validation=0.2)}
    assert ("/data/validation", "missing_validation_step") in findings(api, document)
    with_evaluators = findings(api, {**document, "evaluators": ["confusion"]})
    assert with_evaluators == {("/evaluators/0", "unknown_component")}


def test_references_inside_configs_are_checked_by_place(api: httpx.Client, worker: HandWorker) -> None:
    layers = [
        {"component": "keras/Dense", "config": {"units": "four"}},
        {"component": "keras/Dense", "config": {"units": 4, "kernel_regularizer": {"component": "keras/L3"}}},
        {"component": "keras/Dense", "config": {"units": 4, "kernel_regularizer": {"component": "keras/Dense"}}},
        {"component": "keras/Dense", "weights": 1},
    ]
    found = findings(api, spec(model={"component": "sequential", "config": {"layers": layers}}))
    assert found == {
        ("/model/config/layers/0/config/units", "invalid_config"),
        ("/model/config/layers/1/config/kernel_regularizer/component", "unknown_component"),
        ("/model/config/layers/2/config/kernel_regularizer/component", "unknown_component"),
        ("/model/config/layers/3/weights", "unknown_field"),
    }


def test_one_job_uses_one_version_of_a_name(api: httpx.Client, worker: HandWorker) -> None:
    one, two = ({"component": "focal", "version": version} for version in ("1", "2"))
    document = {**GAN, "losses": {"adversarial": {"outputs": {"a": one, "b": two}}}}
    assert ("/losses/adversarial/outputs/b/version", "invalid_value") in findings(api, document)
    document = {**GAN, "losses": {"adversarial": {"outputs": {"a": [one, two], "b": None}}}}
    assert ("/losses/adversarial/outputs/a/1/version", "invalid_value") in findings(api, document)


@pytest.mark.parametrize(
    ("document", "hint"),
    [
        (spec(model="mpl"), "mlp"),
        (spec(optimizer="Adam"), "keras/Adam"),
        (spec(optimizer="keras/adam"), "keras/Adam"),
        (spec(loss={"component": "focal", "config": {"gama": 2.0}}), "gamma"),
        (spec(optimiser="keras/Adam"), "optimizer"),
        (spec(loss="keras/SparseCategoricalAccuracy"), "is a metric"),
    ],
)
def test_a_hint_says_what_may_have_been_meant(api: httpx.Client, worker: HandWorker, document: Any, hint: str) -> None:
    answer = api.post("/v1/jobs/validate", json=document).json()
    assert any(hint in error["hint"] for error in answer["errors"])


def test_all_findings_come_at_once(api: httpx.Client, worker: HandWorker) -> None:
    document = spec(model="mpl", loss="fokal", data=data(pipeline=[]))
    assert findings(api, document) == {
        ("/model", "unknown_component"),
        ("/loss", "unknown_component"),
        ("/data/pipeline", "missing_batch"),
    }


def test_the_canonical_form_is_echoed_with_versions(api: httpx.Client, worker: HandWorker) -> None:
    rate = {"component": "keras/CosineDecay", "config": {"decay_steps": 10}}
    document = spec(optimizer={"component": "keras/Adam", "config": {"learning_rate": rate}})
    answer = api.post("/v1/jobs/validate", json=document).json()
    assert answer["valid"]
    assert answer["spec"]["optimizers"]["model"]["config"]["learning_rate"] == {**rate, "version": "1"}
    assert answer["spec"]["losses"]["model"]["version"] == "2"
    assert answer["spec"]["export"]["formats"] == ["keras", "saved_model"]
    again = api.post("/v1/jobs/validate", json=answer["spec"]).json()
    assert again == answer, "the echoed spec is a spec, and resolves to itself"


def test_branches_are_echoed_with_versions_and_defaults(api: httpx.Client, worker: HandWorker) -> None:
    document = zipped({"source": "digits", "pipeline": [{"op": "map", "function": "scale"}]})
    answer = api.post("/v1/jobs/validate", json=document).json()
    sources = answer["spec"]["data"]["source"]["config"]["sources"]
    assert sources["a"] == {"component": "digits", "version": "1", "config": {}}
    assert sources["b"]["source"]["version"] == "1"
    assert sources["b"]["pipeline"][0]["function"] == {"component": "scale", "version": "1", "config": {}}
    assert api.post("/v1/jobs/validate", json=answer["spec"]).json() == answer


def test_what_is_allowed_is_accepted(api: httpx.Client, worker: HandWorker) -> None:
    accepted = [
        GAN,
        spec(data={"source": "ready_batches"}),
        zipped({"component": "digits"}),
        {
            **zipped({"source": "digits", "pipeline": BATCH}),
            "data": {
                "source": {
                    "component": "concatenate",
                    "config": {"sources": [{"component": "ready_batches"}, {"source": "digits", "pipeline": BATCH}]},
                }
            },
        },
        spec(data=data(pipeline=[*BATCH, {"op": "rebatch", "batch_size": 3}, {"op": "unbatch"}, *BATCH])),
        spec(data={"source": "digits", "pipeline": [{"op": "apply", "function": "batches"}]}),
        spec(data=data(pipeline=[{"op": "repeat"}, {"op": "take", "count": 9}, *BATCH])),
        spec(data=data(pipeline=[{"op": "repeat"}, *BATCH]), training={"max_steps": 10}),
        spec(loss=None),
        spec(training={"epochs": 0}, optimizer=None),
        spec(training={"precision": "mixed_float16", "gradient_accumulation": 4}),
        spec(
            optimizer=None,
            optimizers={"body": part("model"), "head": part("model")},
            gradients=[{"component": "clip_by_global_norm", "optimizer": "head"}],
        ),
        {**GAN, "optimizers": {"generator": "keras/Adam", "critic": part("critic"), "critic_head": part("critic")}},
        spec(data=data(validation="digits", test={"fraction": 0.1, "split": "tail"})),
        spec(data=data(validation={"fraction": 0.2, "stratify": "y"}, test={"fraction": 0.2, "group": "y"})),
        spec(data=data(source=rows(labels="y", named=True), validation={"fraction": 0.2, "group": "x.a"})),
        spec(data=data(source=rows(), validation={"split": "folders"}, test={"files": ["test/*.csv"]})),
    ]
    for document in accepted:
        answer = api.post("/v1/jobs/validate", json=document)
        assert answer.status_code == 200, answer.text


def test_before_any_worker_came_a_job_is_refused_with_the_reason(own_service: Any) -> None:
    with own_service() as (client, worker):
        answer = client.post("/v1/jobs", json=spec())
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_component")
        assert "worker" in answer.json()["hint"]
        absent = client.get("/readyz")
        assert (absent.status_code, absent.json()["code"]) == (503, "unavailable")
        assert absent.headers["Content-Type"] == "application/problem+json"
        assert absent.json()["checks"]["database"] == "ok"
        worker.register()
        assert client.post("/v1/jobs", json=spec()).status_code == 201
        assert client.get("/readyz").json()["status"] == "ready"


def test_components_are_listed_and_shown(api: httpx.Client, worker: HandWorker) -> None:
    seen: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        params: dict[str, Any] = {"limit": 4} | ({"after": after} if after else {})
        page = api.get("/v1/components", params=params).json()
        seen += page["data"]
        if not page["has_more"]:
            break
        after = page["next"]
    assert len(seen) == len(COMPONENTS)
    assert [one["name"] for one in api.get("/v1/components?kind=metric").json()["data"]] == [
        "acme/dice", "keras/Hinge", "keras/SparseCategoricalAccuracy",
    ]  # fmt: skip
    shown = api.get("/v1/components/loss/focal").json()
    assert (shown["version"], shown["workers"]) == ("2", ["hand"])
    assert api.get("/v1/components/loss/focal?version=1").json()["version"] == "1"
    assert api.get("/v1/components/loss/keras/Hinge").json()["kind"] == "loss"
    close = api.get("/v1/components/loss/fokal")
    assert (close.status_code, close.json()["hint"]) == (404, "Did you mean 'focal'?")
    assert api.get("/v1/components/nonsense/focal").status_code == 422


def test_a_job_without_a_time_limit_gets_the_operators(own_sqlite_service: Any) -> None:
    with own_sqlite_service(default_timeout_seconds=3600.0) as (_, worker):
        worker.register()
        assert worker.submit(spec())["spec"]["limits"]["timeout_seconds"] == 3600.0
        assert worker.lease().lease["timeout_seconds"] == pytest.approx(3600.0, abs=5)
        assert worker.submit(spec(limits={"timeout_seconds": 7200.0}))["spec"]["limits"]["timeout_seconds"] == 7200.0


def test_the_order_of_an_object_is_kept_from_post_to_lease(api: httpx.Client, worker: HandWorker) -> None:
    names = ["zeta", "alpha", "10", "2", "Beta", "aa", "b"]  # neither sorted, nor by length, nor numbers first
    sources = {name: {"source": "digits", "pipeline": []} for name in names}
    labels = {name: name for name in reversed(names)}
    document = {**zipped({"source": "digits", "pipeline": []}), "labels": labels}
    document["data"]["source"]["config"]["sources"] = sources
    assert list(api.post("/v1/jobs/validate", json=document).json()["spec"]["labels"]) == list(labels)
    made = api.post("/v1/jobs", json=document)
    assert made.status_code == 201, made.text
    leased = worker.lease().lease["spec"]
    for found in (made.json()["spec"], worker.job(made.json()["id"])["spec"], leased):
        assert list(found["data"]["source"]["config"]["sources"]) == names
        assert list(found["labels"]) == list(labels)
