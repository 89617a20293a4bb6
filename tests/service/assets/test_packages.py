"""Uploaded packages over HTTP: their admission, their versions, what refuses them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.service.assets.conftest import CSV
from tests.support.hand_worker import COMPONENTS, HandWorker, spec
from tests.support.uploading import a_package, a_zip, make, send

WARM = {"kind": "loss", "name": "acme/Warm", "digest": "1" * 64, "config_schema": {"type": "object"}}


@pytest.fixture
def api(package_worker: HandWorker) -> httpx.Client:
    return package_worker.client


def admitted(api: httpx.Client, hand: HandWorker, data: bytes, *components: dict[str, Any]) -> dict[str, Any]:
    """A package whose admission found these components."""
    package = make(api, "package", data).json()
    lease = hand.lease(wait=5)
    assert lease.job_id == package["job_id"]
    result = {"components": list(components), "refused": []}
    assert lease.finish("succeeded", published={"result": result}).is_success
    return api.get(f"/v1/packages/{package['id']}").json()


def test_packages_are_off_unless_they_are_turned_on(own_service: Any) -> None:
    with own_service() as (client, _):
        refused = client.post("/v1/packages", json={"upload_id": send(client, a_package())})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert "TAPEWORKS_ALLOW_PACKAGES" in refused.json()["hint"]


def test_components_of_a_package_can_be_named_once_it_is_admitted(api: httpx.Client, hand: HandWorker) -> None:
    document = spec(loss={"component": "acme/Warm"})
    package = make(api, "package", a_package("acme")).json()
    assert (package["state"], package["name"], package["version"]) == ("admitting", "acme", "1.0.0")
    early = api.post("/v1/jobs", json=document).json()
    assert "is being tried" in early["errors"][0]["hint"]
    lease = hand.lease(wait=5)
    (given,) = lease.lease["inputs"]
    assert (lease.lease["kind"], given["about"]["modules"], given["about"]["root"]) == ("admit", ["acme"], "")
    result = {"components": [WARM], "refused": []}
    assert lease.finish("succeeded", published={"result": result}).is_success
    seen = api.get(f"/v1/packages/{package['id']}").json()
    assert (seen["state"], seen["components"]) == (
        "admitted", [{"kind": "loss", "name": "acme/Warm", "version": "1.0.0"}],
    )  # fmt: skip
    shown = api.get("/v1/components/loss/acme/Warm").json()
    assert (shown["package"], shown["version"], shown["workers"]) == (package["id"], "1.0.0", [hand.id])
    job = hand.submit(document)
    train = hand.lease(wait=5)
    assert train.job_id == job["id"]
    assert [one["kind"] for one in train.lease["inputs"]] == ["package"]
    pinned = next(one for one in train.lease["components"] if one["name"] == "acme/Warm")
    assert (pinned["version"], pinned["digest"]) == ("1.0.0", "1" * 64)
    assert train.finish("failed", failure={"code": "internal", "message": "x", "retryable": False}).is_success

    changed = make(api, "package", a_package("acme", note="changed"))
    assert (changed.status_code, changed.json()["code"]) == (409, "conflict"), "a version does not change"
    newer = admitted(api, hand, a_package("acme", "1.1.0"), WARM)
    assert api.get("/v1/components/loss/acme/Warm").json()["package"] == newer["id"]
    older = api.get("/v1/components/loss/acme/Warm", params={"version": "1.0.0"}).json()
    assert older["package"] == package["id"]
    assert api.post("/v1/jobs/validate", json=spec(loss={"component": "acme/Warm", "version": "1.0.0"})).is_success


def test_a_package_that_is_refused_says_everything_and_nothing_of_it_can_be_named(
    api: httpx.Client, hand: HandWorker
) -> None:
    package = make(api, "package", a_package("half")).json()
    refused = [{"kind": "loss", "name": "half/Cold", "reason": "its gradient is not finite"}]
    good = {**WARM, "name": "half/Warm"}
    hand.lease(wait=5).finish("succeeded", published={"result": {"components": [good], "refused": refused}})
    seen = api.get(f"/v1/packages/{package['id']}").json()
    assert (seen["state"], [one["reason"] for one in seen["refused"]]) == ("refused", ["its gradient is not finite"])
    answer = api.post("/v1/jobs/validate", json=spec(loss="half/Warm")).json()
    assert "has the reason why half 1.0.0 was refused" in answer["errors"][0]["hint"]


def test_a_name_that_is_taken_stays_whose_it_is(api: httpx.Client, hand: HandWorker) -> None:
    admitted(api, hand, a_package("first"), {**WARM, "name": "shared/Warm"})
    second = admitted(api, hand, a_package("second"), {**WARM, "name": "shared/Warm"}, {**WARM, "name": "focal"})
    shown = api.get("/v1/components/loss/shared/Warm").json()
    assert shown["package"] != second["id"]
    assert api.get("/v1/components/loss/focal").json()["package"] is None


def test_two_packages_with_one_module_name_are_not_mixed_in_a_job(api: httpx.Client, hand: HandWorker) -> None:
    both = {}
    for name in ("left", "right"):
        project = (
            f'[project]\nname = "{name}"\nversion = "1"\n[project.entry-points."tapeworks.components"]\nx = "parts"\n'
        )
        data = a_zip({"pyproject.toml": project, "parts.py": f"# {name}\n"})
        metric = {**WARM, "kind": "metric", "name": f"{name}/Seen"}
        both[name] = admitted(api, hand, data, {**WARM, "name": f"{name}/Warm"}, metric)
    assert api.post("/v1/jobs/validate", json=spec(loss="left/Warm", metrics=["left/Seen"])).is_success
    mixed = api.post("/v1/jobs/validate", json=spec(loss="left/Warm", metrics=["right/Seen"]))
    assert mixed.status_code == 422
    assert "both have a module 'parts'" in mixed.json()["errors"][0]["message"]


def test_everything_that_keeps_a_package_out_is_said_at_once(api: httpx.Client, hand: HandWorker) -> None:
    hand.register(
        [*COMPONENTS, CSV], packages=True, catalogue_extra={"distributions": {"numpy": "2.1.0", "scipy": "1.11"}}
    )
    project = (
        '[project]\nname = "_bad_"\nversion = "one"\ndependencies = ["torch>=2", "numpy<2", "scipy"]\n'
        '[project.entry-points."tapeworks.components"]\na = "missing"\nb = "json"\nc = "not a module"\n'
    )
    refused = make(api, "package", a_zip({"pyproject.toml": project, "fast.so": b"\x7fELF"}))
    assert refused.status_code == 422
    told = " | ".join(error["message"] for error in refused.json()["errors"])
    for part in (
        "not a valid package name",
        "'one' is not a valid version", "fast.so is compiled code", "'missing' is not in the archive",
        "'json' has a name that is already in use", "does not name a module", "no worker has the dependency torch",
        "the workers have numpy 2.1.0, not <2",
    ):  # fmt: skip
        assert part in told, f"{part!r} is not in {told}"
    assert "scipy" not in told
    hand.register([*COMPONENTS, CSV], packages=True)


def test_a_wheel_is_read_by_its_own_metadata(api: httpx.Client, hand: HandWorker) -> None:
    info = "acme_wheel-2.0.dist-info"
    wheel = a_zip({
        "acme_wheel/__init__.py": "", f"{info}/METADATA": "Metadata-Version: 2.1\nName: Acme.Wheel\nVersion: 2.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[tapeworks.components]\nown = acme_wheel\n",
    })  # fmt: skip
    package = make(api, "package", wheel)
    assert package.status_code == 201, package.text
    assert (package.json()["name"], package.json()["version"]) == ("acme-wheel", "2.0")
    native = a_zip({f"{info}/METADATA": "Name: a\nVersion: 1\n", f"{info}/WHEEL": "Root-Is-Purelib: false\n"})
    refused = make(api, "package", native)
    assert {"the wheel is built for one platform", "it has no entry point in the group tapeworks.components"} <= {
        error["message"].partition(" (and")[0] for error in refused.json()["errors"]
    }


def test_a_schema_of_a_stranger_harms_nobody(api: httpx.Client, hand: HandWorker) -> None:
    properties: dict[str, Any] = {
        "a": {"type": "string", "pattern": "(a+)+$"},
        "c": {"$ref": "http://127.0.0.1:1/schema"},
    }
    schema: Any = {"type": "object", "properties": properties}
    admitted(api, hand, a_package("odd"), {**WARM, "name": "odd/Warm", "config_schema": schema})
    for config in ({"a": "a" * 40 + "!"}, {"c": 1}):
        answer = api.post("/v1/jobs/validate", json=spec(loss={"component": "odd/Warm", "config": config}))
        assert answer.status_code == 200, answer.text
    endless = {**schema, "$defs": {"b": {"$ref": "#/$defs/b"}}, "properties": {"b": {"$ref": "#/$defs/b"}}}
    package = admitted(api, hand, a_package("endless"), {**WARM, "name": "endless/Warm", "config_schema": endless})
    assert package["state"] == "refused"
    assert "refers to itself" in package["refused"][0]["reason"]
    answer = api.post("/v1/jobs/validate", json=spec(loss={"component": "endless/Warm", "config": {"b": 1}}))
    assert answer.status_code == 422
