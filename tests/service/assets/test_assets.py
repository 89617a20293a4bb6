"""Datasets, packages and bundles over HTTP: uploads of a project, versions, what refuses them, who may see them."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.hand_worker import COMPONENTS, HandWorker, sha, spec
from tests.support.uploading import PART, a_bundle, a_package, a_tar, a_zip, begin, digest_header, make, send

CSV = {"kind": "source", "name": "csv", "batched": False, "digest": "0" * 64, "config_schema": {
    "type": "object", "properties": {"files": {"x-files": True}, "labels": {"type": "string"}}}}  # fmt: skip
WARM = {"kind": "loss", "name": "acme/Warm", "digest": "1" * 64, "config_schema": {"type": "object"}}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, new_database: Any) -> Iterator[tuple[httpx.Client, HandWorker]]:
    """A service that takes packages, and a worker that runs them."""
    from tapeworks_service.settings import ServiceSettings
    from tests.service.conftest import serving

    settings = ServiceSettings(
        data_dir=tmp_path_factory.mktemp("assets"), port=0, database_url=new_database(), allow_packages=True,
        lease_seconds=600,
    )  # fmt: skip
    with serving(settings) as address, httpx.Client(base_url=address, timeout=60) as client:
        hand = HandWorker(client)
        hand.register([*COMPONENTS, CSV], packages=True)
        yield client, hand


@pytest.fixture
def api(house: tuple[httpx.Client, HandWorker]) -> httpx.Client:
    return house[0]


@pytest.fixture
def hand(house: tuple[httpx.Client, HandWorker]) -> Iterator[HandWorker]:
    yield house[1]
    for kind in ("train", "inspect", "admit"):
        listed = house[0].get("/v1/jobs", params={"kind": kind, "state": ["queued", "running", "starting"]})
        for job in listed.json()["data"]:
            house[0].post(f"/v1/jobs/{job['id']}/cancel")


def admitted(api: httpx.Client, hand: HandWorker, data: bytes, *components: dict[str, Any]) -> dict[str, Any]:
    """A package whose admission found these components."""
    package = make(api, "package", data).json()
    lease = hand.lease(wait=5)
    assert lease.job_id == package["job_id"]
    result = {"components": list(components), "refused": []}
    assert lease.finish("succeeded", published={"result": result}).is_success
    return api.get(f"/v1/packages/{package['id']}").json()


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────


def test_a_cut_upload_is_resumed_and_the_same_bytes_are_sent_once(api: httpx.Client, hand: HandWorker) -> None:
    data = os.urandom(PART + 5)
    begun = begin(api, data)
    path = f"/v1/uploads/{begun['id']}/parts/2"
    assert api.put(path, content=data[PART:], headers=digest_header(data[PART:])).status_code == 204
    again = begin(api, data)
    assert (again["id"], again["missing"]) == (begun["id"], [1])
    early = api.post("/v1/datasets", json={"upload_id": begun["id"], "name": "cut", "format": "text"})
    assert (early.status_code, early.json()["errors"][0]["pointer"]) == (422, "/upload_id")
    assert send(api, data) == begun["id"]
    once_more = begin(api, data)
    assert once_more["completed"]
    assert once_more["missing"] == []
    assert api.post(f"/v1/uploads/{begun['id']}/complete").json()["completed"], "complete again, it is complete"


def test_a_whole_with_other_bytes_is_refused(api: httpx.Client) -> None:
    begun = api.post("/v1/uploads", json={"bytes": 5, "sha256": sha(b"wrong")}).json()
    path = f"/v1/uploads/{begun['id']}"
    assert api.put(f"{path}/parts/1", content=b"other", headers=digest_header(b"other")).status_code == 204
    refused = api.post(f"{path}/complete")
    assert (refused.status_code, refused.json()["code"]) == (422, "digest_mismatch")
    assert api.get(path).json()["missing"] == [1]


# ── datasets ─────────────────────────────────────────────────────────────────────────────────────


def test_a_dataset_is_looked_at_by_a_worker_and_named_by_a_job(api: httpx.Client, hand: HandWorker) -> None:
    made = make(api, "dataset", b"a,b\n1,2\n", name="numbers", format="csv")
    assert made.status_code == 201
    dataset = made.json()
    assert made.headers["Location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["state"], dataset["version"], dataset["source"], dataset["content"]) == (
        "inspecting", "1", "csv", None,
    )  # fmt: skip
    look = hand.lease(wait=5)
    assert (look.job_id, look.lease["kind"], look.lease["spec"]) == (dataset["job_id"], "inspect", None)
    (given,) = look.lease["inputs"]
    assert (given["kind"], given["from"], given["about"]["format"]) == ("dataset", dataset["id"], "csv")
    read = api.get(f"{look.path}/inputs/0", headers=look.headers)
    assert read.content == b"a,b\n1,2\n"
    content = {"rows": 1, "columns": [{"name": "a", "dtype": "int64"}], "preview": [{"a": 1}], "files": 1}
    assert look.finish("succeeded", published={"result": content}).is_success
    seen = api.get(f"/v1/datasets/{dataset['id']}").json()
    assert (seen["state"], seen["content"]["rows"]) == ("ready", 1)

    source = {"component": "csv", "config": {"files": dataset["id"], "labels": "b"}}
    job = hand.submit(spec(data={**spec()["data"], "source": source}))
    assert job["lineage"]["inputs"][0]["sha256"] == dataset["sha256"]
    in_use = api.delete(f"/v1/datasets/{dataset['id']}")
    assert (in_use.status_code, in_use.json()["code"], in_use.json()["used_by"]) == (409, "in_use", [job["id"]])
    api.post(f"/v1/jobs/{job['id']}/cancel")
    kept = api.delete(f"/v1/jobs/{dataset['job_id']}")
    assert (kept.status_code, kept.json()["code"]) == (409, "in_use")
    assert api.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert api.get(f"/v1/datasets/{dataset['id']}").status_code == 404
    assert api.get(f"/v1/jobs/{dataset['job_id']}").status_code == 404
    assert not begin(api, b"a,b\n1,2\n")["completed"], "its bytes no longer exist"


def test_versions_are_numbered_and_the_same_bytes_are_the_same_version(api: httpx.Client, hand: HandWorker) -> None:
    versions = [make(api, "dataset", data, name="grown", format="text") for data in (b"one", b"two", b"one")]
    assert [one.status_code for one in versions] == [201, 201, 200]
    first, second, again = (one.json() for one in versions)
    assert (first["version"], second["version"], again["id"]) == ("1", "2", first["id"])
    listed = api.get("/v1/datasets", params={"name": "grown", "limit": 1}).json()
    assert [one["version"] for one in listed["data"]] == ["2"]
    following = api.get("/v1/datasets", params={"name": "grown", "after": listed["next"]}).json()
    assert [one["version"] for one in following["data"]] == ["1"]
    other = make(api, "dataset", b"one", name="other", format="text").json()
    assert other["id"] != first["id"]
    for one in (first, second, other):
        api.post(f"/v1/jobs/{one['job_id']}/cancel")
    assert api.delete(f"/v1/datasets/{first['id']}").status_code == 204
    assert begin(api, b"one")["completed"], "another dataset has the bytes"


def test_a_refused_dataset_says_why_and_is_tried_again_when_it_is_pushed_again(
    api: httpx.Client, hand: HandWorker
) -> None:
    dataset = make(api, "dataset", b"a,b\n1\n", name="broken", format="csv").json()
    hand.lease(wait=5).fail("invalid_data")
    seen = api.get(f"/v1/datasets/{dataset['id']}").json()
    assert (seen["state"], seen["failure"]["code"]) == ("refused", "invalid_data")
    source = {"component": "csv", "config": {"files": [dataset["id"]]}}
    refused = api.post("/v1/jobs/validate", json=spec(data={**spec()["data"], "source": source}))
    (finding,) = refused.json()["errors"]
    assert finding["pointer"] == "/data/source/config/files/0"
    assert "made to fail" in finding["message"]
    again = make(api, "dataset", b"a,b\n1\n", name="broken", format="csv")
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, dataset["id"], "inspecting")


def test_a_job_may_name_a_part_of_a_dataset_and_no_strangers(api: httpx.Client, hand: HandWorker) -> None:
    dataset = make(api, "dataset", a_zip({"train/a.csv": "a\n1\n"}), name="parts", format="csv").json()
    for files, status in ((f"{dataset['id']}/train/*.csv", 200), ("ds_0", 422), ("other/*.csv", 200)):
        source = {"component": "csv", "config": {"files": files}}
        answer = api.post("/v1/jobs/validate", json=spec(data={**spec()["data"], "source": source}))
        assert answer.status_code == status, answer.text


def _linked() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        info = tarfile.TarInfo("a.csv")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return written.getvalue()


def _zip_link() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        info = zipfile.ZipInfo("a.csv")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return written.getvalue()


def _pickled() -> bytes:
    written = io.BytesIO()
    np.savez(written, x=np.array([{"a": 1}], dtype=object))
    return written.getvalue()


def _saved(array: np.ndarray) -> bytes:
    written = io.BytesIO()
    np.save(written, array)
    return written.getvalue()


DANGEROUS = {
    "leads outside": ("csv", a_zip({"../a.csv": "a\n"}), "not a relative path inside the archive"),
    "an absolute path": ("csv", a_tar({"/etc/a.csv": b"a\n"}), "not a relative path inside the archive"),
    "a backslash": ("csv", a_zip({"..\\a.csv": "a\n"}), "not a relative path inside the archive"),
    "dots that look like others": ("csv", a_zip({"․․/a.csv": "a\n"}), "not a relative path inside the archive"),
    "a control character": ("csv", a_tar({"a\n.csv": b"a\n"}), "not a relative path inside the archive"),
    "a link in a tar": ("csv", _linked(), "not a regular file"),
    "a link in a zip": ("csv", _zip_link(), "not a regular file"),
    "a zip bomb": ("csv", a_zip({"a.csv": b"0" * (80 << 20)}), "unpacks to more than"),
    "a tar bomb": ("csv", a_tar({"a.csv": b"0" * (80 << 20)}), "unpacks to more than"),
    "half an archive": ("csv", a_zip({"a.csv": os.urandom(4096)})[:3000], "damaged"),
    "pickled arrays": ("npz", _pickled(), "pickles"),
    "pickled arrays in an archive": ("npz", a_tar({"a.npz": _pickled()}), "pickles"),
    "a pickled array alone": ("npz", _saved(np.array([{"a": 1}], dtype=object)), "pickles"),
    "a pickled array in an archive": ("npz", a_tar({"a/x.npy": _saved(np.array([None]))}), "pickles"),
    "no arrays": ("npz", b"not a zip", "not an .npz file"),
    "no file of the format": ("images", a_zip({"a.txt": "a"}), "no file of the format images"),
    "a picture without a folder": ("images", b"\x89PNG\r\n\x1a\n", "a folder for each class"),
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_what_is_dangerous_to_unpack_is_refused(api: httpx.Client, name: str) -> None:
    format, data, why = DANGEROUS[name]
    refused = make(api, "dataset", data, name="bad", format=format)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), refused.text
    assert why in refused.json()["detail"]
    assert api.get("/v1/datasets", params={"name": "bad"}).json()["data"] == []


@pytest.mark.usefixtures("hand")
def test_arrays_come_as_npz_and_npy_alone_or_in_an_archive(api: httpx.Client) -> None:
    array = _saved(np.arange(3))
    for data in (array, a_tar({"a/x.npy": array, "a/y.npy": array}), a_zip({"x.npy": array})):
        made = make(api, "dataset", data, name="arrays", format="npz")
        assert made.status_code == 201, made.text


# ── packages ─────────────────────────────────────────────────────────────────────────────────────


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


# ── bundles ──────────────────────────────────────────────────────────────────────────────────────


def test_an_uploaded_bundle_serves_as_from(api: httpx.Client, hand: HandWorker) -> None:
    content = a_bundle()
    made = make(api, "bundle", content, name="elsewhere")
    assert made.status_code == 201, made.text
    bundle = made.json()
    assert (bundle["state"], bundle["roles"], bundle["job_id"]) == ("ready", ["model"], "job_1")
    job = hand.submit(spec(training={"epochs": 1, "initial_state": {"from": bundle["id"]}}))
    lease = hand.lease(wait=5)
    assert lease.job_id == job["id"]
    (given,) = lease.lease["inputs"]
    assert (given["kind"], given["sha256"]) == ("bundle", bundle["sha256"])
    assert api.get(f"{lease.path}/inputs/0", headers=lease.headers).content == content
    lease.fail("internal")


HARMFUL = {
    "no archive": (b"no archive", "is a .tar.gz"),
    "no manifest": (a_tar({"a": b"x"}), "no manifest.json"),
    "nothing to load": (a_tar({"manifest.json": b"{}"}), "no job can start from it"),
    "no JSON": (a_tar({"manifest.json": b"["}), "is not JSON"),
    "a Lambda": (a_bundle({"class_name": "Model", "config": {"layers": [{"class_name": "Lambda"}]}}), "holds a Lambda"),
    "pickles": (a_bundle(**{"training_state/values.npz": _pickled()}), "pickles"),
    "a path in a model": (
        a_tar({"manifest.json": b"{}", "models/m.keras": a_zip({"../x": "x"})}), "not a relative path",
    ),
    "half a model": (a_tar({"manifest.json": b"{}", "models/m.keras": b"PK\x03\x04x"}), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
def test_a_bundle_that_could_harm_is_refused(api: httpx.Client, name: str) -> None:
    bundle, why = HARMFUL[name]
    refused = make(api, "bundle", bundle, name="bad")
    assert refused.status_code == 422, refused.text
    assert why in refused.json()["detail"]


# ── whose they are ───────────────────────────────────────────────────────────────────────────────


def test_another_project_sees_nothing(own_service: Any, tapeworks: Any) -> None:
    with own_service(api_key="tw_" + "k" * 40, allow_packages=True) as (client, worker):
        client.headers["Authorization"] = "Bearer tw_" + "k" * 40
        worker.register([*COMPONENTS, CSV], packages=True)
        made = tapeworks("create", "b", "--project", "b", "--scope", "read", "--scope", "submit", "--json")
        stranger = {"Authorization": f"Bearer {made['key']}"}
        upload_id = send(client, b"a\n1\n")
        dataset = client.post("/v1/datasets", json={"upload_id": upload_id, "name": "n", "format": "csv"}).json()
        bundle = make(client, "bundle", a_bundle(), name="b").json()
        package = make(client, "package", a_package()).json()
        for path in (
            f"/v1/uploads/{upload_id}", f"/v1/datasets/{dataset['id']}", f"/v1/bundles/{bundle['id']}",
            f"/v1/packages/{package['id']}", f"/v1/jobs/{dataset['job_id']}",
        ):  # fmt: skip
            assert client.get(path).is_success
            assert client.get(path, headers=stranger).status_code == 404
            assert client.delete(path, headers=stranger).status_code in (404, 405)
        assert client.post(f"/v1/uploads/{upload_id}/complete", headers=stranger).status_code == 404
        made = client.post(
            "/v1/datasets", json={"upload_id": upload_id, "name": "n", "format": "csv"}, headers=stranger
        )
        assert made.status_code == 422
        for kind in ("datasets", "packages", "bundles"):
            assert client.get(f"/v1/{kind}", headers=stranger).json()["data"] == []
        begun = begin(client, b"a\n1\n", headers=stranger)
        assert not begun["completed"], "what a project has, another must send"
        named = spec(training={"epochs": 1, "initial_state": {"from": bundle["id"]}})
        refused = client.post("/v1/jobs/validate", json=named, headers=stranger)
        assert "there is no bundle" in refused.json()["errors"][0]["message"]
